"""Prefixes for endpoints that name none: carved from supernets, the same one for as long as it stands.

Where to look first is a hash of the endpoint's name, so that two ipams that know the same carve the same; the
next free place is taken where that one collides. What was carved is remembered by the pool's message, and by
the addresses that connections have, should the message be lost.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from services.ipam.core import blocks
from services.ipam.core.blocks import Block, Host
from services.ipam.core.holdings import ObjectKey
from services.ipam.core.table import Table
from services.ipam.model import Supernet

Overlapping = Callable[[Block], Block | None]
OTHERS = "the automatic prefixes of other endpoints"


class Automatic:
    """Who has which carved prefixes. Newest first: the older ones are those that came to be in use."""

    def __init__(self, supernets: Sequence[Supernet]) -> None:
        self._supernets = [(blocks.of_prefix(net.prefix), net.length) for net in supernets]
        self._order = {family: at for at, family in enumerate(self.families)}
        self._given: dict[ObjectKey, tuple[Block, ...]] = {}
        self._table: Table[ObjectKey, bool] = Table()
        self._slots: dict[ObjectKey, Counter[Block]] = {}  # where connections have addresses
        self._held: Table[ObjectKey, bool] = Table()

    @property
    def families(self) -> list[int]:
        return list(dict.fromkeys(net[0] for net, _ in self._supernets))

    def supernets(self, family: int) -> list[Block]:
        """Where prefixes of a family are carved."""
        return [net for net, _ in self._supernets if net[0] == family]

    @property
    def dropped(self) -> int:
        """How often a place was given up, so far."""
        return self._table.dropped + self._held.dropped

    def given(self, object_: ObjectKey) -> tuple[Block, ...]:
        """What an endpoint has; families in the order of the supernets."""
        return self._given.get(object_, ())

    def remember(self, object_: ObjectKey, given: Sequence[Block]) -> None:
        """What it was given before, as far as it does not have it."""
        known = self.given(object_)
        self._put(object_, [*known, *(block for block in given if block not in known)])

    def recall(self, object_: ObjectKey) -> None:
        """What it must have been given, judging by its connections: for families of which nothing is known."""
        known = {block[0] for block in self.given(object_)}
        self.remember(object_, sorted(b for b in self._slots.get(object_, ()) if b[0] not in known))

    def forget(self, object_: ObjectKey, given: Sequence[Block] | None = None) -> None:
        """It does not need these any more; nothing named: all of them."""
        known = self.given(object_)
        if known:
            self._put(object_, [b for b in known if given is not None and b not in given])

    def count(self, object_: ObjectKey, host: Host, by: int) -> None:
        """A connection has an address of a supernet, or has it no more."""
        for net, length in self._supernets:
            if not blocks.has(net, host):
                continue
            shift = blocks.BITS[host[0]] - length
            slot = (host[0], host[1] >> shift << shift, length)
            slots = self._slots.setdefault(object_, Counter())
            slots[slot] += by
            if slots[slot] > 0:
                self._held.put(slot, object_, True)
                continue
            del slots[slot]
            self._held.drop(slot, object_)
            if not slots:
                del self._slots[object_]

    def carve(self, object_: ObjectKey, family: int, overlapping: Overlapping) -> bool:
        """One more prefix, clear of all others and of what `overlapping` finds. Whether there was one."""
        for net, length in self._supernets:
            if net[0] != family:
                continue
            found = self._first_clear(object_, net, length, overlapping)
            if found is not None:
                self._put(object_, [found, *self.given(object_)])
                return True
        return False

    def _put(self, object_: ObjectKey, given: Sequence[Block]) -> None:
        # New ones first: what stays is never given up in between.
        for block in given:
            self._table.put(block, object_, True)
        for block in self._given.pop(object_, ()):
            if block not in given:
                self._table.drop(block, object_)
        if given:
            by_family = sorted(given, key=lambda block: self._order.get(block[0], len(self._order)))
            self._given[object_] = tuple(by_family)

    def _first_clear(
        self, object_: ObjectKey, net: Block, length: int, overlapping: Overlapping
    ) -> Block | None:
        shift = blocks.BITS[net[0]] - length
        count = 1 << length - net[2]
        digest = hashlib.sha256("/".join(object_).encode()).digest()
        begin = int.from_bytes(digest) % count
        # Up to the end, then from the start to where we began.
        for low, high in ((begin, count), (0, begin)):
            at = low
            while at < high:
                block = (net[0], net[1] + (at << shift), length)
                other = next(self._others(block), None) or overlapping(block)
                if other is None:
                    return block
                at = max(at, blocks.last_of(other) - net[1] >> shift) + 1
        return None

    def _others(self, block: Block) -> Iterator[Block]:
        for table in (self._table, self._held):
            for other, _, _ in table.overlapping(block):
                yield other
