"""IDs of what we ask: two bytes that nobody can guess."""

from collections.abc import Callable

_DRAWN_BYTES = 1024


class Ids:
    """Drawn in bulk: a system call each would cost a tenth of a query. Who is in a hurry pops from `ready`."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self.ready: list[bytes] = []

    def draw(self) -> bytes:
        """A new one."""
        if not self.ready:
            drawn = self._random_bytes(_DRAWN_BYTES)
            self.ready += [drawn[at : at + 2] for at in range(0, len(drawn), 2)]
        return self.ready.pop()
