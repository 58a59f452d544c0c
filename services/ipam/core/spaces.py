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
_LINK = SERVER | GRANTED

Blocked = Callable[[int], int | None]


class Pair(NamedTuple):
    """One family's addresses of a connection."""

    server: int
    client: int


class _Held:
    """Who has an address. Counted, because all links of a shared endpoint have its address."""

    __slots__ = ("clients", "granted", "links", "owners", "servers")

    def __init__(self) -> None:
        self.owners: dict[RequestKey, int] = {}
        self.clients = self.servers = self.granted = 0
        self.links = 0  # granted ones that have it as the endpoint's

    def set(self, owner: RequestKey, flags: int) -> None:
        before = self.owners.pop(owner, 0)
        if flags:
            self.owners[owner] = flags
        self.clients += bool(flags & CLIENT) - bool(before & CLIENT)
        self.servers += bool(flags & SERVER) - bool(before & SERVER)
        self.granted += bool(flags & GRANTED) - bool(before & GRANTED)
        self.links += (flags & _LINK == _LINK) - (before & _LINK == _LINK)


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
        self._usable = Ranges(_usable(block, is_shared=is_shared) for block in own)
        whole = self._usable.size
        for _, first, length in own_excludes:
            self._usable.remove(first, blocks.last_of((family, first, length)))
        self.left_out = whole - self._usable.size  # by the endpoint's own spec
        parts = [
            part
            for block in own
            for clear in exclusions.clear_of(block)
            for part in self._usable.within(*clear)
        ]
        self._clear = Ranges(parts)  # of what is in use elsewhere
        self._free = Ranges(parts)
        self._held: dict[int, _Held] = {}
        self._used = self._unconfirmed = 0  # of the usable ones
        # Usable ones that are no client's: an endpoint's on some link, on several granted links.
        self._served = Ranges()
        self._shared: set[int] = set()

    # --- exclusions ----------------------------------------------------------------------------------

    def exclude(self, first: int, last: int) -> None:
        """Somebody uses these now; who has an address keeps it."""
        self._clear.remove(first, last)
        self._free.remove(first, last)

    def include(self, first: int, last: int) -> None:
        """Nobody uses these any more."""
        for part in self._usable.within(first, last):
            self._clear.add(*part)
            self._free.add(*part)
            for number in self.held_within(*part):
                self._free.remove(number, number)

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
            self._serve(number, held)
        if held.owners:
            return False
        del self._held[number]
        if number in self._clear:
            self._free.add(number, number)
        return True

    def _count(self, held: _Held, by: int) -> None:
        if held.granted:
            self._used += by
        elif held.owners:
            self._unconfirmed += by

    def _serve(self, number: int, held: _Held) -> None:
        is_served = held.servers > 0 and not held.clients
        if is_served != (number in self._served):
            (self._served.add if is_served else self._served.remove)(number, number)
        if is_served and held.links > 1:
            self._shared.add(number)
        else:
            self._shared.discard(number)

    # --- handing out ---------------------------------------------------------------------------------

    def owns(self, pair: Pair) -> bool:
        """Whether the endpoint's own spec could give this very pair."""
        return all(number in self._usable for number in pair)

    def may_have(self, owner: RequestKey, pair: Pair, blocked: Blocked) -> bool:
        """Whether nothing but exclusions stands against this very pair."""
        if not self.owns(pair) or any(blocked(number) is not None for number in pair):
            return False
        client, server = self._held.get(pair.client), self._held.get(pair.server)
        if client is not None and (client.servers or _others(client, owner)):
            return False
        if server is None:
            return True
        return not server.clients and (self.is_shared or not _others(server, owner))

    def is_excluded(self, pair: Pair) -> bool:
        return any(number not in self._clear for number in pair)

    def next_pair(self, blocked: Blocked) -> Pair | None:
        """Addresses for a new connection, the lowest ones. Nothing is taken by asking."""
        server = self.endpoint_address()
        if server is None or blocked(server) is not None:
            server = self._free.lowest(blocked)
        client = self._next(blocked, server) if server is not None else None
        return None if server is None or client is None else Pair(server, client)

    def with_endpoint_address(
        self, owner: RequestKey, client: int, blocked: Blocked
    ) -> Pair | None:
        """A client's address beside what is the endpoint's now: where only that is another one, only that changes."""
        server = self.endpoint_address()
        if server is None or server == client:
            return None
        pair = Pair(server, client)
        return pair if self.may_have(owner, pair, blocked) and not self.is_excluded(pair) else None

    def endpoint_address(self) -> int | None:
        """In shared mode: the lowest address that no client has, unless several links have another one.

        Several have another one only after a prefix came to be in use, or left: they are not split. A link whose
        client has the endpoint's address already, and so got a pair of its own, says nothing about the others.
        """
        if not self.is_shared:
            return None
        shared = [number for number in self._shared if number in self._clear]
        if shared:
            return max(shared, key=lambda number: (self._held[number].links, -number))
        served, free = self._served.lowest(self._not_clear), self._free.lowest(_nothing)
        return min((n for n in (served, free) if n is not None), default=None)

    def _next(self, blocked: Blocked, server: int) -> int | None:
        def or_server(number: int) -> int | None:
            return server if number == server else blocked(number)

        return self._free.lowest(or_server)

    def _not_clear(self, number: int) -> int | None:
        return None if number in self._clear else number

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

    def needed(self) -> int:
        """Free addresses that one more connection takes at least."""
        server = self.endpoint_address()
        return 2 if server is None or server in self._free else 1

    def is_swallowed(self) -> bool:
        """Whether prefixes in use elsewhere, rather than connections, are why there is no room.

        They are if they took the larger part, or if nobody has anything of the rest.
        """
        covered = self.size - self._clear.size
        return covered > 0 and (2 * covered > self.size or not self.used + self.held)

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
