"""What the plumber thinks in: how two ends shall be, and how the kernel has them. Never crosses the bus."""

from typing import NamedTuple

import msgspec

from schemas.grant import Connection

_SERVER_MARK = "endpoint"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The network of a Pod's sandbox. Another cookie is another namespace, also under the same path."""

    uid: str
    netns: str  # path
    cookie: int


class Route(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A route through one of our links; without gateway the destination is on the link."""

    destination: str
    gateway: str = ""
    source: str = ""


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


class Wiring(msgspec.Struct, frozen=True, kw_only=True):
    """A connection as it shall be: both ends on this node."""

    tag: str  # see core.tag
    revision: int
    mtu: int
    client: End
    server: End


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


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """What stands of a connection."""

    client: Found | None = None
    server: Found | None = None


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """A grant that was applied, and where: what a restarted plumber needs to know its own work."""

    grant: Connection
    client: Place
    server: Place


class Create(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Make both ends, complete."""

    wiring: Wiring


class Adjust(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Change one end in place. Additions come before removals, so no moment lacks both."""

    wiring: Wiring
    end: End
    found: Found
    add_addresses: tuple[str, ...] = ()
    add_routes: tuple[Route, ...] = ()
    change_routes: tuple[Route, ...] = ()  # same destination, another way
    set_neighbours: tuple[Neighbour, ...] = ()
    drop_routes: tuple[Route, ...] = ()
    drop_neighbours: tuple[Neighbour, ...] = ()
    drop_addresses: tuple[str, ...] = ()


class Remove(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Delete what stands of a connection; either end takes the other with it."""

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
