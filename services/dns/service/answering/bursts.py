"""How many packets to read per wake-up: as many as came lately, so that a read in vain is rare.

At a modest rate that is one. Never more than `MOST`: other Pods wait, too.
"""

from collections.abc import Callable
from itertools import repeat
from typing import TypeVar

T = TypeVar("T")

MOST = 32
_BUSY_SECONDS = 0.001  # who is woken again so soon has more to bring


class Burst:
    """Of one socket: `turns` is how often to read."""

    __slots__ = ("_filled_at", "turns")

    def __init__(self) -> None:
        self.turns = 1
        self._filled_at = 0.0

    def read(
        self, receive: Callable[[int], T], size: int, now: float, into: list[T]
    ) -> OSError | None:
        """What is there, and not too much of it; what else than `nothing more` ended it.

        First all is read, and thought about later: both are quicker without the other in between.
        """
        try:
            into.extend(map(receive, repeat(size, self.turns)))
        except BlockingIOError:
            self.shrink()
        except OSError as exc:
            return exc
        else:
            self.filled(now)
        return None

    def filled(self, now: float) -> None:
        """All turns brought something: there may be more."""
        if now - self._filled_at < _BUSY_SECONDS:
            self.turns = min(self.turns * 2, MOST)
        self._filled_at = now

    def shrink(self) -> None:
        """There was less than that."""
        self.turns = max(self.turns // 2, 1)
