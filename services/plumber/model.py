"""What the plumber thinks in: how ends shall be, and how the kernel has them. Never crosses the bus."""

from typing import NamedTuple

import msgspec

from schemas.grant import Connection
from services._node import places

MAIN = 254  # the table that the CNI's routes are in
# Priorities of rules, see core.lookups; a policy's is the first one plus its place in the list.
POLICIES, REPLIES, SPECIFIC, DEFAULT = 10_000, 20_000, 20_001, 20_002

_SERVER_MARK = "endpoint"

Place = places.Place


class Route(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A route through one of our links; without gateway the destination is on the link.

    One that `yields` leads nowhere: its table says nothing of the destination, the next rule decides.
    """

    destination: str
    gateway: str = ""
    source: str = ""
    yields: bool = False


class Rival(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A route of the main table that stands where one of a link shall, and is none of that link's own."""

    destination: str
    gateway: str = ""
    interface: str = ""  # none: it leads nowhere, or over several
    is_here: bool = False  # through the link itself
    is_ours: bool = False  # another connection's

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        return f"{self.destination}{via}" + (f" dev {self.interface}" if self.interface else "")


class Rule(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What is looked up in which table, in order of priority. Table 0: the first free one."""

    family: int  # 4 or 6
    priority: int
    table: int = 0
    source: str = ""  # prefix
    protocol: str = ""
    destination_port: str = ""  # "6666" or "6667-6670"
    source_port: str = ""
    no_default: bool = False  # a default route that the table answers with does not count


class Lookup(msgspec.Struct, frozen=True, kw_only=True):
    """A table of our own, and the rule that leads to it."""

    rule: Rule
    routes: frozenset[Route] = frozenset()


class Neighbour(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """An address behind the link, and the peer's MAC for it: nobody needs to ask."""

    address: str
    mac: str


class End(msgspec.Struct, frozen=True, kw_only=True):
    """One end as it shall be."""

    place: Place
    interface: str
    mac: str
    addresses: frozenset[str] = frozenset()
    routes: frozenset[Route] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    lookups: frozenset[Lookup] = frozenset()
    answers_for_all: bool = False  # ARP, for what the peer takes to be on the link
    asks: tuple[str, str] = (
        "",
        "",
    )  # an own address and one of the peer, to ask whether it is there


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """What carries a connection between two nodes: addresses of the underlay, and whose frames they are."""

    vni: int
    local: str
    remote: str


class Wiring(msgspec.Struct, frozen=True, kw_only=True):
    """A connection as it shall be on this node: both ends, or by a tunnel the one that is here."""

    tag: str  # see core.tag
    revision: int
    mtu: int
    client: End | None = None
    server: End | None = None
    tunnel: Tunnel | None = None

    @property
    def ends(self) -> tuple[End, ...]:
        """Those of this node, the client's first."""
        return tuple(end for end in (self.client, self.server) if end is not None)


class Traffic(NamedTuple):
    """What an interface has carried since it was made."""

    received_bytes: int = 0
    sent_bytes: int = 0
    received_packets: int = 0
    sent_packets: int = 0


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One end as the kernel has it. `routes` are ours only; `addresses` and `neighbours` anybody's."""

    place: Place
    interface: str
    index: int
    peer_index: int
    revision: int
    mac: str
    mtu: int
    up: bool
    addresses: frozenset[str] = frozenset()
    routes: frozenset[Route] = frozenset()
    neighbours: frozenset[Neighbour] = frozenset()
    lookups: frozenset[Lookup] = frozenset()  # of tables with routes through this link
    kept: frozenset[Rule] = frozenset()  # our rules of the namespace that lead to the CNI's table
    held: frozenset[str] = frozenset()  # addresses of the Pod on links that are none of ours
    rivals: frozenset[Rival] = frozenset()  # where a route is missing
    hollow: frozenset[Rule] = frozenset()  # our rules of the namespace whose tables are empty
    tunnel: Tunnel | None = None
    answers_for_all: bool = False
    traffic: Traffic = Traffic()


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """What stands of a connection on this node."""

    client: Found | None = None
    server: Found | None = None

    @property
    def ends(self) -> tuple[Found, ...]:
        return tuple(end for end in (self.client, self.server) if end is not None)


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A grant that was applied, and where: what a restarted plumber needs to know its own work.

    An end without a place is on another node. `cluster` are the prefixes that stay on the CNI.
    """

    grant: Connection
    client: Place | None = None
    server: Place | None = None
    cluster: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(place for place in (self.client, self.server) if place is not None)


class Create(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make the ends of this node, complete."""

    wiring: Wiring


class Adjust(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Change one end in place. Additions come before removals, so no moment lacks both."""

    wiring: Wiring
    end: End
    found: Found
    add_addresses: tuple[str, ...] = ()
    add_routes: tuple[Route, ...] = ()
    change_routes: tuple[Route, ...] = ()  # what stands there is ours, or took our place
    set_neighbours: tuple[Neighbour, ...] = ()
    drop_routes: tuple[Route, ...] = ()
    drop_neighbours: tuple[Neighbour, ...] = ()
    drop_addresses: tuple[str, ...] = ()
    add_lookups: tuple[Lookup, ...] = ()  # in tables that are free when it is done
    change_lookups: tuple[tuple[Lookup, Lookup], ...] = ()  # other routes, same rule: before, after
    drop_lookups: tuple[Lookup, ...] = ()
    add_rules: tuple[Rule, ...] = ()
    drop_rules: tuple[Rule, ...] = ()


class Remove(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Delete what stands of a connection; of a pair either end takes the other with it."""

    connection: str  # tag
    ends: tuple[Found, ...]


Operation = Create | Adjust | Remove


class Stray(msgspec.Struct, frozen=True, kw_only=True):
    """A link that carries our alias and group, whatever we know of its connection."""

    place: Place
    interface: str
    connection: str  # tag


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """Why an end cannot be ready now. `reason` is stable CamelCase."""

    state: str  # pending or failed
    reason: str
    message: str


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing of this connection may stand now, and why, per local end."""

    client: Blocked | None = None
    server: Blocked | None = None


class Alias(NamedTuple):
    """What a link's alias says: whose it is."""

    tag: str
    revision: int
    is_server: bool


def render_alias(connection: str, revision: int, *, is_server: bool) -> str:
    mark = f":{_SERVER_MARK}" if is_server else ""
    return f"nsm:{connection}:{revision}{mark}"


def parse_alias(text: str | None) -> Alias | None:
    """The alias of one of our links, or None."""
    match (text or "").split(":"):
        case ["nsm", connection, revision] if len(connection) == 16 and revision.isdigit():
            return Alias(connection, int(revision), is_server=False)
        case ["nsm", connection, revision, mark] if (
            len(connection) == 16 and revision.isdigit() and mark == _SERVER_MARK
        ):
            return Alias(connection, int(revision), is_server=True)
    return None
