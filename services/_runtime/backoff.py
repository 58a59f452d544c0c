"""How long to wait before the next try: doubling, jittered, bounded."""

import random
from collections.abc import Iterator

FIRST_SECONDS = 0.05
MOST_SECONDS = 1.0


def backoff(first: float = FIRST_SECONDS, most: float = MOST_SECONDS) -> Iterator[float]:
    """Delays without end. The jitter keeps a thousand nodes from coming back in step."""
    delay = first
    while True:
        yield delay * random.uniform(0.7, 1.3)
        delay = min(delay * 2, most)
