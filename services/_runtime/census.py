"""How many messages a stream must hold at least, by what was read of it. Pure: times come as values.

Every subject keeps one message, and only tombstones end by themselves. So what was read up to a sequence is there,
in whatever version, but for tombstones that are about as old as they get: of those nobody can be sure.
"""

from collections.abc import Mapping

from schemas.codec import TOMBSTONE_TTL_SECONDS
from schemas.subjects import Key

UNSURE_SECONDS = 60.0  # the server ends them some seconds late, and its replicas' clocks differ


class Census:
    """`sequences` are those of the newest messages that a mirror knows, of items and tombstones alike."""

    def __init__(self, sequences: Mapping[Key, int]) -> None:
        self._sequences = sequences
        self._ends: dict[Key, float] = {}  # of tombstones, by the server's clock

    def note(self, key: Key, *, is_tombstone: bool, stored_at: float = 0.0) -> None:
        """The newest message of a key was read; 0: nobody knows when it was stored."""
        if is_tombstone:
            self._ends[key] = stored_at + TOMBSTONE_TTL_SECONDS
        else:
            self._ends.pop(key, None)

    def clear(self) -> None:
        """All is read anew."""
        self._ends.clear()

    def least(self, *, last: int, now: float) -> int:
        """How many messages there must be in a stream that goes to the sequence `last`, all of which was read."""
        known = sum(sequence <= last for sequence in self._sequences.values())
        unsure = sum(
            end < now + UNSURE_SECONDS and self._sequences.get(key, last + 1) <= last
            for key, end in self._ends.items()
        )
        return known - unsure
