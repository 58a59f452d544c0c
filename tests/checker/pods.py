"""What one Pod sees: its interfaces, addresses and routes of all connections, in either role, do not overlap."""

import re
from collections import defaultdict
from collections.abc import Iterator

from schemas import values
from schemas.grant import Connection, End
from schemas.intent import Route
from tests.checker.picture import Object, Picture, name, object_of
from tests.checker.pools import prefixes_of
from tests.checker.spans import Cover, Span, address, clashes, is_default, network, span

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def ends(picture: Picture) -> Iterator[str]:
    """Both ends have the same families, whole host addresses, sane MACs and names of their own."""
    interfaces: dict[tuple[str, str], set[str]] = defaultdict(set)
    macs: dict[tuple[str, str], set[str]] = defaultdict(set)
    ips = _own_addresses(picture)
    for connection in picture.grants():
        label = name(connection)
        families = [[network(a).version for a in e.addresses] for e in _ends(connection)]
        if families[0] != families[1] or not families[0]:
            yield f"{label}: families {families[0]} at the client, {families[1]} at the endpoint"
        if len(set(families[0])) < len(families[0]):
            yield f"{label}: two addresses of one family"
        if connection.client.mac == connection.server.mac:
            yield f"{label}: both ends have MAC {connection.client.mac}"
        for end in _ends(connection):
            yield from (f"{label}: {problem}" for problem in _end(end, ips[end.pod.uid]))
            interfaces[end.pod.uid, end.interface].add(label)
            macs[end.pod.uid, end.mac].add(label)
    for (uid, what), labels in [*interfaces.items(), *macs.items()]:
        if len(labels) > 1:
            yield f"{what} of Pod {uid} belongs to {' and '.join(sorted(labels))}"


def _end(end: End, ips: set[Span]) -> Iterator[str]:
    if _MAC.fullmatch(end.mac) is None or int(end.mac[:2], 16) & 3 != 2:
        yield f"{end.mac!r} is no MAC for one interface of ours"
    problem = values.interface_problem(end.interface)
    if problem is not None:
        yield f"interface {problem}"
    for text in end.addresses:
        if "/" not in text or network(text).num_addresses != 1:
            yield f"{text} is no single address with its length"
        if address(text) in ips:
            yield f"{text} is the Pod's own address"


def _own_addresses(picture: Picture) -> dict[str, set[Span]]:
    """What the cluster gave a Pod, by its uid."""
    found: dict[str, set[Span]] = defaultdict(set)
    pods = [r.pod for r in picture.requests.values()] + [e.pod for e in picture.endpoints.values()]
    for pod in pods:
        found[pod.uid] |= {address(ip) for ip in pod.ips}
    return found


def routes(picture: Picture, late: frozenset[str]) -> Iterator[str]:
    """No route, of a policy neither, overlaps what is in use or the Pod's own addresses; default routes may."""
    exclusions = picture.exclusions()
    hard = Cover(e for e in exclusions if e.what.partition(" ")[0] not in late)
    declared = {
        owner: {span(r.destination, "-") for r in spec.routes}
        | {span(r.destination, "-") for p in spec.policies for r in p.routes}
        for owner, spec in picture.objects().items()
    }
    ips = _own_addresses(picture)
    for connection in picture.grants():
        for end, route in _routes(connection):
            label = f"{name(connection)}: route {route.destination}"
            if span(route.destination, "-") not in declared.get(object_of(connection), set()):
                yield f"{label} is not declared by {connection.endpoint}"
            if is_default(route.destination):
                continue
            taken = hard.find(span(route.destination))
            if taken is not None:
                yield f"{label} overlaps what is in use: {taken.what}"
            for ip in ips[end.pod.uid]:
                if ip.overlaps(span(route.destination)):
                    yield f"{label} overlaps {ip.what} of its own Pod"


def next_hops(picture: Picture) -> Iterator[str]:
    """A next hop is an address that the connection reaches."""
    objects = picture.objects()
    own: dict[Object, list[Span]] = {}
    for connection in picture.grants():
        owner = object_of(connection)
        if owner not in own:
            own[owner] = prefixes_of(picture, owner, objects.get(owner))
        reached = [*own[owner], *(address(a) for e in _ends(connection) for a in e.addresses)]
        reached += [span(r.destination) for _, r in _routes(connection) if not r.next_hop]
        cover = Cover(reached)
        for _, route in _routes(connection):
            if route.next_hop and cover.find(address(route.next_hop)) is None:
                yield f"{name(connection)}: next hop {route.next_hop} of {route.destination} is out of reach"


def overlaps(picture: Picture) -> Iterator[str]:
    """Two connections of one Pod share no address and no route but an endpoint's own shared address."""
    used: dict[str, set[Span]] = defaultdict(set)
    defaults: dict[tuple[str, int], set[str]] = defaultdict(set)
    shared = {o for o, spec in picture.objects().items() if spec.ipam.addressing == "shared"}
    for connection in picture.grants():
        label = name(connection)
        for end, peer in (
            (connection.client, connection.server),
            (connection.server, connection.client),
        ):
            uid = end.pod.uid
            used[uid] |= {address(a, f"{a} of {label}", label) for a in peer.addresses}
            used[uid] |= _own(connection, end, shared)
            for route in end.routes:
                if is_default(route.destination):
                    defaults[uid, network(route.destination).version].add(label)
                else:
                    what = f"route {route.destination} of {label}"
                    used[uid].add(span(route.destination, what, label))
        for policy in connection.policies:
            for route in policy.routes:
                if not is_default(route.destination):
                    what = f"policy route {route.destination} of {label}"
                    used[connection.client.pod.uid].add(span(route.destination, what, label))
    for uid, spans in used.items():
        for one, other in clashes(spans):
            yield f"Pod {uid}: {one.what} overlaps {other.what}"
    for (uid, family), labels in defaults.items():
        if len(labels) > 1:
            yield f"Pod {uid}: default routes (IPv{family}) of {' and '.join(sorted(labels))}"


def _own(connection: Connection, end: End, shared: set[Object]) -> set[Span]:
    """Its addresses; those of an endpoint Pod in shared mode count once, as its object's."""
    owner = object_of(connection)
    is_shared = end is connection.server and owner in shared
    who = f"shared by {'/'.join(owner)}" if is_shared else name(connection)
    return {address(a, f"{a} of {who}", who) for a in end.addresses}


def _ends(connection: Connection) -> tuple[End, End]:
    return connection.client, connection.server


def _routes(connection: Connection) -> list[tuple[End, Route]]:
    found = [(end, route) for end in _ends(connection) for route in end.routes]
    found += [(connection.client, r) for p in connection.policies for r in p.routes]
    return found
