"""A process that holds a capture and answers `captured`: to be killed, or stopped."""

import sys
import time
from pathlib import Path

from services.dns.adapters import Capture
from tests.dns.networks import serving

if __name__ == "__main__":
    place, owned, ready = sys.argv[1:]
    with serving(place, ("127.0.0.1", "::1"), lambda _: b"captured", port=5353):
        capture = Capture(place, 5353, owned=owned == "owned")
        Path(ready).write_text(capture.mode)
        while True:
            capture.refresh()
            time.sleep(0.5)
