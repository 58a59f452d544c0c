"""The addresses of one NetworkServiceEndpoint object: shared by its replicas, each handed out once.

Two addressing modes. `shared`: the first usable address is the endpoint's on all its links, clients get
the following ones. `pointToPoint`: every connection takes the two lowest free addresses, the lower one is
the endpoint's; network and broadcast addresses are used as well.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network

import msgspec

from schemas import intent, values
from schemas.values import Address, Prefix
from services.ipam.core.ranges import Range, Ranges

FAMILIES = (4, 6)


class Pair(msgspec.Struct, frozen=True):
    """One family's addresses of a connection."""

    server: Address
    client: Address


class Exhausted(msgspec.Struct, frozen=True):
    """No pair of `family` is left. `free` counts what is left without this Pod's own constraints."""

    family: int
    free: int


class Excluded:
    """What no connection of anybody may use: one value, shared by all pools."""

    def __init__(self, prefixes: Iterable[Prefix] = ()) -> None:
        self.prefixes = list(prefixes)
        self.ranges = {
            family: Ranges(bounds(p) for p in self.prefixes if p.version == family)
            for family in FAMILIES
        }

    def has(self, address: Address) -> bool:
        return int(address) in self.ranges[address.version]


class Pool:
    """Free and used addresses of an endpoint. Raises ValueError for a spec with what is no prefix."""

    def __init__(self, spec: intent.IpamSpec, excluded: Excluded) -> None:
        self.spec = spec
        self.prefixes = [values.parse_prefix(text) for text in spec.prefixes]
        self._own_excludes = [values.parse_prefix_loosely(text) for text in spec.exclude_prefixes]
        self._space = {family: Ranges() for family in FAMILIES}
        for prefix in self.prefixes:
            first, last = _usable(prefix, shared=self.is_shared)
            self._space[prefix.version].add(first, last)
        for prefix in self._own_excludes:
            self._space[prefix.version].remove(*bounds(prefix))
        self._excluded = excluded
        self._used: dict[Address, str] = {}
        self._servers: dict[Address, set[str]] = {}
        self._free = {family: Ranges() for family in FAMILIES}
        self.exclude(excluded)

    @property
    def is_shared(self) -> bool:
        return self.spec.addressing == "shared"

    @property
    def families(self) -> list[int]:
        """The families the endpoint has prefixes of, in the order it names them."""
        return list(dict.fromkeys(prefix.version for prefix in self.prefixes))

    def exclude(self, excluded: Excluded) -> None:
        """Replace the prefixes in use in the cluster; who has an address keeps it."""
        self._excluded = excluded
        for family in FAMILIES:
            free = self._free[family] = Ranges(self._space[family])
            for first, last in self._space[family]:
                for taken in excluded.ranges[family].within(first, last):
                    free.remove(*taken)
        for address in [*self._used, *self._servers]:
            self._free[address.version].remove(int(address), int(address))

    def colliding(self, family: int) -> list[tuple[Prefix, Prefix]]:
        """(own prefix, prefix in use) wherever they overlap."""
        return [
            (own, other)
            for own in self.prefixes
            if own.version == family
            for other in self._excluded.prefixes
            if values.overlap(own, other)
        ]

    def size(self, family: int | None = None) -> int:
        """Usable addresses, exclusions of the cluster not counted; of one family, or of both."""
        return sum(self._space[f].size() for f in _families(family))

    def used(self, family: int | None = None) -> int:
        """Addresses that connections have or hold."""
        every = [*self._used, *self._servers]
        return sum(address.version in _families(family) for address in every)

    def free(self, family: int | None = None) -> int:
        """Addresses that can be handed out."""
        return sum(self._free[f].size() for f in _families(family))

    def has(self, address: Address) -> bool:
        """Whether the endpoint's own spec could give this address (exclusions of the cluster aside)."""
        return int(address) in self._space[address.version]

    def hold(self, owner: str, *, client: Iterable[Address], server: Iterable[Address]) -> None:
        """`owner` has these addresses, from a grant or from what a node says stands."""
        for address in client:
            self._used[address] = owner
            self._free[address.version].remove(int(address), int(address))
        for address in server:
            self._servers.setdefault(address, set()).add(owner)
            self._free[address.version].remove(int(address), int(address))

    def release(self, owner: str, addresses: Iterable[Address]) -> None:
        """Give back what `owner` has of `addresses`; what somebody else has by now stays his."""
        for address in addresses:
            sharers = self._servers.get(address, set())
            sharers.discard(owner)
            if not sharers:
                self._servers.pop(address, None)
            if self._used.get(address) == owner:
                del self._used[address]
            if address not in self._used and address not in self._servers:
                self._give_back(address)

    def allocate(
        self,
        owner: str,
        family: int,
        *,
        avoid: Sequence[Prefix],
        preferred: Pair | None = None,
        is_standing: bool = False,
    ) -> Pair | Exhausted:
        """A pair for `owner` outside `avoid` (what its Pods use already); the preferred one if possible.

        `is_standing`: the preferred pair is in use right now; exclusions that came later do not take it
        away. Nothing is taken yet: `hold` does, once the whole connection is decided.
        """
        blocked = Ranges(bounds(prefix) for prefix in avoid if prefix.version == family)
        if preferred is not None and self._may_have(owner, preferred, blocked):
            excluded = self._excluded
            if is_standing or not (
                excluded.has(preferred.client) or excluded.has(preferred.server)
            ):
                return preferred
        if self.is_shared:
            pair = self._shared(family, blocked)
            if pair is not None:
                return pair
        pair = self._two_lowest(family, blocked)
        return Exhausted(family, self.free(family)) if pair is None else pair

    def _may_have(self, owner: str, pair: Pair, blocked: Ranges) -> bool:
        for address in (pair.client, pair.server):
            if not self.has(address) or int(address) in blocked:
                return False
        if self._used.get(pair.client, owner) != owner or pair.client in self._servers:
            return False
        others = self._servers.get(pair.server, set()) - {owner}
        return (self.is_shared or not others) and pair.server not in self._used

    def _shared(self, family: int, blocked: Ranges) -> Pair | None:
        server = self._shared_server(family)
        if server is None or int(server) in blocked:
            return None
        beside = Ranges(blocked)
        beside.add(int(server), int(server))
        client = self._free[family].lowest(avoid=beside)
        return None if client is None else Pair(server, _address(family, client))

    def _shared_server(self, family: int) -> Address | None:
        """The address that most links already use, so that late exclusions do not split the endpoint."""
        standing = [
            a
            for a in self._servers
            if a.version == family and self.has(a) and not self._excluded.has(a)
        ]
        if standing:
            return max(standing, key=lambda address: (len(self._servers[address]), -int(address)))
        lowest = self._free[family].lowest(avoid=Ranges())
        return None if lowest is None else _address(family, lowest)

    def _two_lowest(self, family: int, blocked: Ranges) -> Pair | None:
        server = self._free[family].lowest(avoid=blocked)
        if server is None:
            return None
        beside = Ranges(blocked)
        beside.add(server, server)
        client = self._free[family].lowest(avoid=beside)
        if client is None:
            return None
        return Pair(_address(family, server), _address(family, client))

    def _give_back(self, address: Address) -> None:
        if self.has(address) and not self._excluded.has(address):
            self._free[address.version].add(int(address), int(address))


def bounds(prefix: Prefix) -> Range:
    """First and last address of a prefix as integers."""
    return int(prefix.network_address), int(prefix.broadcast_address)


def _families(family: int | None) -> tuple[int, ...]:
    return FAMILIES if family is None else (family,)


def _usable(prefix: Prefix, *, shared: bool) -> Range:
    first, last = bounds(prefix)
    if not shared or prefix.prefixlen >= prefix.max_prefixlen - 1:
        return first, last
    # IPv6 has no broadcast, but its first address is the subnet-router anycast address (RFC 4291).
    return (first + 1, last - 1) if isinstance(prefix, IPv4Network) else (first + 1, last)


def _address(family: int, number: int) -> Address:
    return ipaddress.IPv4Address(number) if family == 4 else ipaddress.IPv6Address(number)
