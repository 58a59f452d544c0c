"""Decides, on plain values, what the kernel shall look like and how to get there.

`judge` turns a grant into a wiring or into reasons; `plan` compares wirings with what stands and lists
operations in safe order: removals first (they free names and addresses), then changes in place, then
new links. `plan(d, d)` is empty, and any prefix of a plan may be applied and planned anew.
"""

import hashlib
from collections.abc import Collection, Mapping
from ipaddress import ip_address, ip_interface, ip_network

import msgspec

from schemas import grant as grants
from schemas.intent import Route as GrantedRoute
from schemas.state import EndState, EndStatus, Status
from schemas.subjects import ConnectionKey
from services.plumber import model
from services.plumber.model import (
    Adjust,
    Blocked,
    Create,
    End,
    Found,
    Operation,
    Pair,
    Place,
    Remove,
    Waiting,
    Wiring,
)

MECHANISM = "veth"

_NO_NETWORK = "PodNetworkNotFound"


def tag(key: ConnectionKey) -> str:
    """The short name of a connection in the kernel and in the runtime directory."""
    return hashlib.sha256(key.subject.encode()).hexdigest()[:16]


def judge(
    grant: grants.Connection,
    *,
    node: str,
    places: Mapping[str, Place],
    ended: Collection[str],
) -> Wiring | Waiting:
    """How the connection shall be wired on `node`, or why it cannot be now.

    `places` are the networks found, by Pod uid; `ended` the uids whose network was there and is gone.
    """
    if grant.mechanism != MECHANISM or not (grant.client.is_on(node) and grant.server.is_on(node)):
        return _remote(grant, node)
    client, server = places.get(grant.client.pod.uid), places.get(grant.server.pod.uid)
    if client is None or server is None:
        return _missing(grant, client, server, ended)
    try:
        return wiring(grant, client, server)
    except ValueError as exc:
        blocked = Blocked(
            state="failed", reason="BadGrant", message=f"the grant is unusable: {exc}"
        )
        return Waiting(client=blocked, server=blocked)


def wiring(grant: grants.Connection, client: Place, server: Place) -> Wiring:
    """Both ends of a grant, complete. Raises ValueError for what is no address or prefix."""
    return Wiring(
        tag=tag(grant.key),
        revision=grant.revision,
        mtu=grant.mtu,
        client=_end(client, grant.client, grant.server, grant.payload),
        server=_end(server, grant.server, grant.client, grant.payload),
    )


def plan(
    desired: Mapping[str, Wiring],
    actual: Mapping[str, Pair],
    formerly: Mapping[str, Wiring],
) -> list[Operation]:
    """The way from what stands to what shall be, all by tag.

    `formerly` is what was applied before: addresses and neighbours that are in neither are foreign and stay.
    """
    removals: list[Operation] = []
    changes: list[Operation] = []
    creations: list[Operation] = []
    for connection in sorted(desired.keys() | actual.keys()):
        pair, wanted = actual.get(connection, Pair()), desired.get(connection)
        standing = tuple(end for end in (pair.client, pair.server) if end is not None)
        if wanted is not None and _fits(wanted, pair):
            changes += _adjustments(wanted, pair, formerly.get(connection))
            continue
        if standing:
            removals.append(Remove(connection=connection, ends=standing))
        if wanted is not None:
            creations.append(Create(wiring=wanted))
    return removals + changes + creations


def same_links(one: Wiring, other: Wiring) -> bool:
    """Whether two wirings are the same pair of links, whatever they carry."""
    return _link(one.client) == _link(other.client) and _link(one.server) == _link(other.server)


def status(
    grant: grants.Connection,
    *,
    node: str,
    pair: Pair,
    waiting: Waiting,
    applied: grants.Connection | None = None,
) -> Status:
    """What to say of a connection: a section per end that lives on this node.

    `applied` is the grant that what stands was made from: after a failed change not the newest one.
    """
    return Status(
        node=node,
        namespace=grant.client.pod.namespace,
        pod=grant.client.pod.name,
        interface=grant.client.interface,
        revision=grant.revision,
        client=_section(grant.client, pair.client, waiting.client, applied)
        if grant.client.is_on(node)
        else None,
        server=_section(grant.server, pair.server, waiting.server, applied)
        if grant.server.is_on(node)
        else None,
    )


def unseen(status: Status, applied: grants.Connection) -> Status:
    """The same where nobody could look: what was applied counts as standing."""

    def holding(end: EndStatus | None) -> EndStatus | None:
        return None if end is None else msgspec.structs.replace(end, applied=applied)

    return msgspec.structs.replace(
        status, client=holding(status.client), server=holding(status.server)
    )


def _section(
    end: grants.End,
    found: Found | None,
    blocked: Blocked | None,
    applied: grants.Connection | None,
) -> EndStatus:
    state: EndState = "ready"
    if blocked is not None:
        state = "failed" if blocked.state == "failed" else "pending"
    elif found is None:
        blocked = Blocked(
            state="pending", reason="PeerNotReady", message="the other end is not ready"
        )
        state = "pending"
    return EndStatus(
        uid=end.pod.uid,
        state=state,
        reason=blocked.reason if blocked else "",
        message=blocked.message if blocked else "",
        interface=end.interface,
        ifindex=found.index if found else 0,
        mac=found.mac if found else "",
        addresses=tuple(
            a for a in end.addresses if found and str(ip_interface(a)) in found.addresses
        ),
        applied=applied if found else None,
    )


def _remote(grant: grants.Connection, node: str) -> Waiting:
    ends = f"{grant.client.pod.node} and {grant.server.pod.node}"
    blocked = Blocked(
        state="failed",
        reason="RemoteNotSupported",
        message=(
            f"mechanism {grant.mechanism!r} between nodes {ends} is not supported by the plumber of "
            f"{node}; place client and endpoint on the same node"
        ),
    )
    return Waiting(client=blocked, server=blocked)


def _missing(
    grant: grants.Connection, client: Place | None, server: Place | None, ended: Collection[str]
) -> Waiting:
    def absent(end: grants.End) -> Blocked:
        pod = f"{end.pod.namespace}/{end.pod.name}"
        gone = "is gone" if end.pod.uid in ended else "was not found yet"
        return Blocked(
            state="pending", reason=_NO_NETWORK, message=f"the network of Pod {pod} {gone}"
        )

    def waits_for(end: grants.End, *, is_server: bool) -> Blocked:
        blocked = absent(end)
        gone = is_server and end.pod.uid in ended
        return Blocked(
            state="pending",
            reason="EndpointPodGone" if gone else "PeerNotReady",
            message=blocked.message,
        )

    return Waiting(
        client=absent(grant.client) if client is None else waits_for(grant.server, is_server=True),
        server=absent(grant.server) if server is None else waits_for(grant.client, is_server=False),
    )


def _end(place: Place, own: grants.End, peer: grants.End, payload: str) -> End:
    ours = [ip_interface(address) for address in own.addresses]
    theirs = [ip_interface(address).ip for address in peer.addresses]
    sources: dict[int, str] = {each.version: str(each.ip) for each in reversed(ours)}
    gateways: dict[int, str] = {each.version: str(each) for each in reversed(theirs)}
    routes = {
        str(host): model.Route(destination=str(host), source=sources.get(host.version, ""))
        for host in map(ip_network, theirs)
    }
    for granted in own.routes:
        route = _route(granted, sources, gateways)
        routes.setdefault(route.destination, route)
    neighbours = {str(address) for address in theirs}
    neighbours |= {route.gateway for route in routes.values() if route.gateway}
    return End(
        place=place,
        interface=own.interface,
        mac=own.mac.lower(),
        addresses=frozenset(map(str, ours)),
        routes=frozenset(routes.values()),
        neighbours=frozenset(
            model.Neighbour(address=address, mac=peer.mac.lower()) for address in neighbours
        )
        if payload == "IP"
        else frozenset(),
    )


def _route(
    granted: GrantedRoute, sources: Mapping[int, str], gateways: Mapping[int, str]
) -> model.Route:
    destination = ip_network(granted.destination)
    gateway = (
        str(ip_address(granted.next_hop))
        if granted.next_hop
        else gateways.get(destination.version, "")
    )
    return model.Route(
        destination=str(destination),
        gateway=gateway,
        source=sources.get(destination.version, ""),
    )


def _link(end: End) -> tuple[Place, str, str]:
    return end.place, end.interface, end.mac


def _fits(wanted: Wiring, pair: Pair) -> bool:
    client, server = pair.client, pair.server
    if client is None or server is None:
        return False
    return (
        (client.place, client.interface, client.mac) == _link(wanted.client)
        and (server.place, server.interface, server.mac) == _link(wanted.server)
        and client.peer_index == server.index
        and server.peer_index == client.index
    )


def _adjustments(wanted: Wiring, pair: Pair, formerly: Wiring | None) -> list[Operation]:
    found: list[Operation] = []
    for end, before, stands in (
        (wanted.client, formerly.client if formerly else None, pair.client),
        (wanted.server, formerly.server if formerly else None, pair.server),
    ):
        assert stands is not None  # _fits saw both
        change = _adjustment(wanted, end, before, stands)
        if change is not None:
            found.append(change)
    return found


def _adjustment(wanted: Wiring, end: End, before: End | None, stands: Found) -> Adjust | None:
    destinations = {route.destination for route in stands.routes}
    missing = sorted(end.routes - stands.routes)
    replaced = {route.destination for route in missing}
    old_addresses = before.addresses if before else frozenset[str]()
    old_neighbours = before.neighbours if before else frozenset[model.Neighbour]()
    at = {neighbour.address for neighbour in end.neighbours}
    change = Adjust(
        wiring=wanted,
        end=end,
        found=stands,
        add_addresses=tuple(sorted(end.addresses - stands.addresses)),
        add_routes=tuple(r for r in missing if r.destination not in destinations),
        change_routes=tuple(r for r in missing if r.destination in destinations),
        set_neighbours=tuple(sorted(end.neighbours - stands.neighbours)),
        drop_routes=tuple(
            sorted(r for r in stands.routes - end.routes if r.destination not in replaced)
        ),
        drop_neighbours=tuple(
            sorted(n for n in stands.neighbours & old_neighbours if n.address not in at)
        ),
        drop_addresses=tuple(sorted((stands.addresses & old_addresses) - end.addresses)),
    )
    same = Adjust(wiring=wanted, end=end, found=stands)
    marked = stands.up and (stands.revision, stands.mtu) == (wanted.revision, wanted.mtu)
    return None if marked and change == same else change
