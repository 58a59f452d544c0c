"""Whether it counts that something is absent from what was read of a stream. Pure: what was read comes as values.

It counts by the word of its authority alone: one that is no leftover of another incarnation of the stream, says
`complete` about this one, does not leave this very key open, and is no newer than what was read.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from schemas.subjects import Key
from services._runtime import streams
from services._runtime.authority import (
    authority_of,
    incarnation_said,
    is_authority,
    leaves_open,
)


class Absence:
    """Judges by what a mirror holds now: its items, which of them are stale, and the sequences of their messages."""

    def __init__(
        self,
        stream: str,
        items: Mapping[Any, Any],
        stale: AbstractSet[Any],
        sequences: Mapping[Key, int],
    ) -> None:
        self._stream = stream
        self._items = items
        self._stale = stale
        self._sequences = sequences
        self._authorities: set[Key] = set()

    def note(self, key: Key) -> None:
        """An item that may be an authority was read."""
        if is_authority(key):
            self._authorities.add(key)

    def forget(self, key: Key) -> None:
        """The item is gone."""
        self._authorities.discard(key)

    def counts(self, key: Key, seen: int, *, incarnation: str) -> bool:
        """Whether `key` is gone where it is absent from everything up to the sequence `seen`."""
        if self._stream == streams.LIVE:
            return True  # every message there ends by itself
        authority = authority_of(key)
        if authority is None or not self.is_judged_by(authority, incarnation):
            return False
        if leaves_open(self._items[authority], key):
            return False
        return seen >= self._sequences.get(authority, 0)

    def newest_word(self, *, incarnation: str) -> int:
        """The sequence of the last word that says `complete`; 0: none does."""
        said = (a for a in self._authorities if self.is_judged_by(a, incarnation))
        return max((self._sequences.get(each, 0) for each in said), default=0)

    def is_judged_by(self, authority: Key, incarnation: str) -> bool:
        """Whether this authority says `complete` about this incarnation of the stream; "": it is not known."""
        message = self._items.get(authority)
        if message is None or authority in self._stale or not message.complete:
            return False
        return not incarnation or incarnation_said(message, self._stream) == incarnation
