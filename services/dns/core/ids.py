"""IDs of what we ask: two bytes that nobody can guess."""

from collections.abc import Callable

_DRAWN_BYTES = 1024


class Ids:
    """Drawn in bulk: a system call each would cost a tenth of a query."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._ready: list[bytes] = []

    def draw(self) -> bytes:
        """A new one."""
        return self.draw_some(1)[0]

    def draw_some(self, count: int) -> list[bytes]:
        """New ones; one may come twice."""
        ready = self._ready
        while len(ready) < count:
            drawn = self._random_bytes(_DRAWN_BYTES)
            ready += [drawn[at : at + 2] for at in range(0, len(drawn), 2)]
        found = ready[-count:]
        del ready[-count:]
        return found
