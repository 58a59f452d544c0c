"""How many packets to read per wake-up: as many as came lately, so that a read in vain is rare.

At a modest rate that is one. Never more than `MOST`: other Pods wait, too.
"""

MOST = 32
_BUSY_SECONDS = 0.001  # who is woken again so soon has more to bring


class Burst:
    """Of one socket. `turns` is to be looped over."""

    __slots__ = ("_filled_at", "turns")

    def __init__(self) -> None:
        self.turns = _TURNS[0]
        self._filled_at = 0.0

    def filled(self, now: float) -> None:
        """All turns brought something: there may be more."""
        if now - self._filled_at < _BUSY_SECONDS:
            self._grow()
        self._filled_at = now

    def _grow(self) -> None:
        self.turns = _TURNS[min(len(self.turns).bit_length(), len(_TURNS) - 1)]

    def shrink(self) -> None:
        """There was less than that."""
        self.turns = _TURNS[max(len(self.turns).bit_length() - 2, 0)]


_TURNS = tuple(range(1 << power) for power in range(MOST.bit_length()))
