"""Prefixes with who has them there: asked what overlaps one, it costs what it answers.

What covers a number is looked up once per length that occurs (a handful in any real cluster); what lies
inside a prefix is a stretch of a sorted list.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

from services.ipam.core.blocks import BITS, Block, last_of

Owner = TypeVar("Owner", bound=Hashable)
Value = TypeVar("Value")


class Table(Generic[Owner, Value]):
    """Block → owner → value, both families."""

    __slots__ = ("_lengths", "_order", "_owners", "dropped")

    def __init__(self) -> None:
        self.dropped = 0  # blocks that nobody has any more, so far
        self._owners: dict[Block, dict[Owner, Value]] = {}
        self._order: list[Block] = []
        self._lengths: dict[int, dict[int, int]] = {4: {}, 6: {}}  # family → length → how many

    def __bool__(self) -> bool:
        return bool(self._owners)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._order)

    def owners(self) -> Iterator[Owner]:
        """Who has anything; again for everything that they have."""
        for owners in self._owners.values():
            yield from owners

    def get(self, block: Block, owner: Owner) -> Value | None:
        owners = self._owners.get(block)
        return None if owners is None else owners.get(owner)

    def put(self, block: Block, owner: Owner, value: Value) -> None:
        owners = self._owners.get(block)
        if owners is None:
            owners = self._owners[block] = {}
            insort(self._order, block)
            lengths = self._lengths[block[0]]
            lengths[block[2]] = lengths.get(block[2], 0) + 1
        owners[owner] = value

    def drop(self, block: Block, owner: Owner) -> None:
        """What is not there is dropped already."""
        owners = self._owners.get(block)
        if owners is None or owners.pop(owner, None) is None or owners:
            return
        self.dropped += 1
        del self._owners[block]
        del self._order[bisect_left(self._order, block)]
        lengths = self._lengths[block[0]]
        lengths[block[2]] -= 1
        if not lengths[block[2]]:
            del lengths[block[2]]

    def covering(self, family: int, number: int) -> Iterator[tuple[Block, Owner, Value]]:
        """Everything that holds this number, in no order."""
        bits = BITS[family]
        for length in self._lengths[family]:
            shift = bits - length
            block = (family, number >> shift << shift, length)
            for owner, value in self._owners.get(block, {}).items():
                yield block, owner, value

    def overlapping(self, block: Block) -> Iterator[tuple[Block, Owner, Value]]:
        """What covers a block, widest first, then what lies inside it."""
        family, first, most = block
        bits = BITS[family]
        for length in sorted(self._lengths[family]):
            if length > most:
                break
            shift = bits - length
            wide = (family, first >> shift << shift, length)
            for owner, value in self._owners.get(wide, {}).items():
                yield wide, owner, value
        last = last_of(block)
        for at in range(bisect_left(self._order, (family, first, most + 1)), len(self._order)):
            inner = self._order[at]
            if inner[0] != family or inner[1] > last:
                return
            for owner, value in self._owners[inner].items():
                yield inner, owner, value
