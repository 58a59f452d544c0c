"""One family of a pool: what is free, and who has what of it. Knows nothing of Pods, only of owners."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from schemas.subjects import RequestKey
from services.ipam.core import blocks
from services.ipam.core.blocks import Block
from services.ipam.core.exclusions import Exclusions
from services.ipam.core.ranges import Range, Ranges

# What an owner has an address as; the sum of those that hold.
CLIENT, SERVER, GRANTED = 1, 2, 4

Blocked = Callable[[int], int | None]


class Pair(NamedTuple):
    """One family's addresses of a connection."""

    server: int
    client: int


class _Held:
    """Who has an address. Counted, because all links of a shared endpoint have its address."""

    __slots__ = ("clients", "granted", "owners", "servers")

    def __init__(self) -> None:
        self.owners: dict[RequestKey, int] = {}
        self.clients = self.servers = self.granted = 0

    def set(self, owner: RequestKey, flags: int) -> None:
        before = self.owners.pop(owner, 0)
        if flags:
            self.owners[owner] = flags
        self.clients += bool(flags & CLIENT) - bool(before & CLIENT)
        self.servers += bool(flags & SERVER) - bool(before & SERVER)
        self.granted += bool(flags & GRANTED) - bool(before & GRANTED)


class Space:
    """One family of a pool."""

    def __init__(
        self,
        family: int,
        own: Sequence[Block],
        own_excludes: Iterable[Block],
        exclusions: Exclusions,
        *,
        is_shared: bool,
    ) -> None:
        self.family = family
        self.own = own
        self.is_shared = is_shared
        self._exclusions = exclusions
        self._usable = Ranges(_usable(block, is_shared=is_shared) for block in own)
        for _, first, length in own_excludes:
            self._usable.remove(first, blocks.last_of((family, first, length)))
        self._free = Ranges(
            part
            for block in own
            for clear in exclusions.clear_of(block)
            for part in self._usable.within(*clear)
        )
        self._held: dict[int, _Held] = {}
        self._used = self._unconfirmed = 0  # of the usable ones
        self._server: int | None = None  # most links have it as the endpoint's address
        self._is_server_known = True

    # --- exclusions ----------------------------------------------------------------------------------

    def exclude(self, first: int, last: int) -> None:
        """Somebody uses these now; who has an address keeps it."""
        self._free.remove(first, last)
        self._is_server_known = False

    def include(self, first: int, last: int) -> None:
        """Nobody uses these any more."""
        for part in self._usable.within(first, last):
            self._free.add(*part)
            for number in self.held_within(*part):
                self._free.remove(number, number)
        self._is_server_known = False

    def is_usable(self, number: int) -> bool:
        """Whether the endpoint's own spec could give this address."""
        return number in self._usable

    def could_give(self, own: Block, other: Block) -> bool:
        """Whether the endpoint's own spec could give any address of a prefix of it that is in another prefix too."""
        first, last = max(own[1], other[1]), min(blocks.last_of(own), blocks.last_of(other))
        return bool(self._usable.within(first, last))

    # --- who has what --------------------------------------------------------------------------------

    def put(self, owner: RequestKey, before: Collection[int], after: Mapping[int, int]) -> bool:
        """`owner` has these now, with their flags, and had those before. Whether that freed any."""
        is_free = False
        for number, flags in after.items():
            self._set(owner, number, flags)
        for number in before:
            if number not in after:
                is_free = self._set(owner, number, 0) or is_free
        return is_free

    def has(self, owner: RequestKey, number: int) -> bool:
        held = self._held.get(number)
        return held is not None and owner in held.owners

    def held_within(self, first: int, last: int) -> list[int]:
        """Addresses that somebody has."""
        if last - first < len(self._held):
            return [number for number in range(first, last + 1) if number in self._held]
        return [number for number in self._held if first <= number <= last]

    def owners_within(self, first: int, last: int) -> set[RequestKey]:
        return {
            owner for number in self.held_within(first, last) for owner in self._held[number].owners
        }

    def _set(self, owner: RequestKey, number: int, flags: int) -> bool:
        held = self._held.get(number)
        if held is None:
            held = self._held[number] = _Held()
            self._free.remove(number, number)
        is_usable = number in self._usable
        if is_usable:
            self._count(held, -1)
        held.set(owner, flags)
        if is_usable:
            self._count(held, 1)
            self._elect(number, held)
        if held.owners:
            return False
        del self._held[number]
        if is_usable and not self._exclusions.has(self.family, number):
            self._free.add(number, number)
        return True

    def _count(self, held: _Held, by: int) -> None:
        if held.granted:
            self._used += by
        elif held.owners:
            self._unconfirmed += by

    def _elect(self, number: int, held: _Held) -> None:
        if number == self._server:
            self._is_server_known = self._is_server_known and held.servers > 0
        elif held.servers and self._is_server_known:
            standing = self._held[self._server].servers if self._server is not None else 0
            if held.servers > standing and not self._exclusions.has(self.family, number):
                self._server = number

    # --- handing out ---------------------------------------------------------------------------------

    def may_have(self, owner: RequestKey, pair: Pair, blocked: Blocked) -> bool:
        """Whether nothing but exclusions stands against this very pair."""
        for number in pair:
            if number not in self._usable or blocked(number) is not None:
                return False
        client, server = self._held.get(pair.client), self._held.get(pair.server)
        if client is not None and (client.servers or _others(client, owner)):
            return False
        if server is None:
            return True
        return not server.clients and (self.is_shared or not _others(server, owner))

    def is_excluded(self, pair: Pair) -> bool:
        return any(self._exclusions.has(self.family, number) for number in pair)

    def next_pair(self, blocked: Blocked) -> Pair | None:
        """Addresses for a new connection, the lowest ones. Nothing is taken by asking."""
        if self.is_shared:
            server = self._shared_server()
            if server is not None and blocked(server) is None:
                client = self._next(blocked, server)
                if client is not None:
                    return Pair(server, client)
        server = self._free.lowest(blocked)
        client = self._next(blocked, server) if server is not None else None
        return None if server is None or client is None else Pair(server, client)

    def _next(self, blocked: Blocked, server: int) -> int | None:
        def or_server(number: int) -> int | None:
            return server if number == server else blocked(number)

        return self._free.lowest(or_server)

    def _shared_server(self) -> int | None:
        if not self._is_server_known:
            self._server = self._most_served()
            self._is_server_known = True
        return self._server if self._server is not None else self._free.lowest(_nothing)

    def _most_served(self) -> int | None:
        """The address that most links have, so that late exclusions do not split the endpoint."""
        standing = [
            number
            for number, held in self._held.items()
            if held.servers
            and number in self._usable
            and not self._exclusions.has(self.family, number)
        ]
        return max(standing, key=lambda number: (self._held[number].servers, -number), default=None)

    # --- figures -------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Usable addresses, exclusions not counted."""
        return self._usable.size

    @property
    def used(self) -> int:
        return self._used

    @property
    def held(self) -> int:
        """Given back, or reported by a node; not confirmed as gone."""
        return self._unconfirmed

    @property
    def free(self) -> int:
        return self._free.size

    @property
    def excluded(self) -> int:
        return self.size - self.used - self.held - self.free

    def largest_free(self) -> str:
        """The largest prefix that is free as a whole, or nothing."""
        best: Block | None = None
        for first, last in self._free:
            if best is not None and last - first < blocks.last_of(best) - best[1]:
                continue
            found = blocks.largest_within(self.family, first, last)
            if best is None or found[2] < best[2]:
                best = found
        return blocks.show(best) if best is not None else ""

    def is_swallowed(self) -> bool:
        """Whether no address is left, and prefixes in use are (a part of) the reason."""
        return not self.free and any(self._exclusions.overlapping(block) for block in self.own)

    def is_block_held(self, block: Block) -> bool:
        return bool(self.held_within(block[1], blocks.last_of(block)))


def _usable(block: Block, *, is_shared: bool) -> Range:
    family, first, length = block
    last = blocks.last_of(block)
    if not is_shared or length >= blocks.BITS[family] - 1:
        return first, last
    # IPv6 has no broadcast, but its first address is the subnet-router anycast address (RFC 4291).
    return (first + 1, last - 1) if family == 4 else (first + 1, last)


def _others(held: _Held, owner: RequestKey) -> int:
    return len(held.owners) - (owner in held.owners)


def _nothing(number: int) -> None:  # noqa: ARG001
    return None
