"""The slow obvious opinion: sets of addresses. It says what surely is possible and what surely is wrong, no more.

A core may grant anything legal; it may not refuse where a grant is surely legal, and what stands in a kernel may not
be granted again.
"""

from collections.abc import Iterator

from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.intent import Endpoint, Request
from schemas.state import NodeFacts
from schemas.subjects import RequestKey
from tests.checker.picture import Object, Picture, object_of
from tests.checker.pools import usable
from tests.checker.spans import Cover, Span, address, is_default, size, span, without
from tests.ipam.model_cluster import Cluster, request_key, status_key


def doubled(cluster: Cluster) -> Iterator[str]:
    """What a kernel has of one connection and the bus grants to another."""
    granted = {
        (object_of(c), address(text)): key
        for key, c in cluster.granted().items()
        for text in c.client.addresses
    }
    for where, has in cluster.kernels.items():
        if cluster.unknown.get(where) == has:
            continue
        for text in (*has.client.addresses, *has.server.addresses):
            owner = granted.get((object_of(has), address(text)))
            if owner is not None and owner != request_key(where):
                yield f"{text} is granted to {owner.pod}, {where.node} has it for {where.pod}"


def taken(cluster: Cluster, owner: Object) -> set[Span]:
    """Every address of an object that anybody has, had without confirming, or may have."""
    found: set[Span] = set()
    unconfirmed = [
        s.applied
        for status in cluster.delivered.values()
        if not isinstance(status, Tombstone)
        for s in (status.client, status.server)
        if s is not None and s.applied is not None
    ]
    for one in (*cluster.granted().values(), *cluster.kernels.values(), *unconfirmed):
        if object_of(one) == owner:
            found |= {address(a) for a in (*one.client.addresses, *one.server.addresses)}
    for former in cluster.former:
        said = cluster.delivered.get(status_key(former.key))
        if object_of(former) == owner and (said is None or said.revision <= former.revision):
            found |= {address(a) for a in (*former.client.addresses, *former.server.addresses)}
    for key, grave in cluster.grants.items():
        if not isinstance(grave, Tombstone) or grave.endpoint != "/".join(owner):
            continue
        said = cluster.delivered.get(status_key(key))
        if not isinstance(said, Tombstone) or said.revision < grave.revision:
            found |= {address(a) for a in (*grave.addresses, *grave.peer_addresses)}
    return found


def surely_possible(
    cluster: Cluster, picture: Picture, request: Request, *, but: RequestKey | None = None
) -> str:
    """An endpoint Pod that can serve this request beyond doubt; empty where there is doubt.

    `but`: the connection that the request has, to be replaced by another one.
    """
    if cluster.silent:
        return ""
    others = [c for k, c in cluster.granted().items() if k != but]
    uids = {uid for c in others for uid in (c.client.pod.uid, c.server.pod.uid)}
    clients = {c.client.pod.uid for c in others}
    if request.pod.uid in uids or _leaves(cluster, request):
        return ""
    for endpoint in cluster.endpoints.values():
        if (
            _offers(endpoint, request)
            and endpoint.pod.uid not in clients
            and reaches(cluster, endpoint, request)
            and _routes_are_free(cluster, endpoint, request)
            and _has_room(cluster, picture, endpoint)
        ):
            return endpoint.pod.name
    return ""


def _leaves(cluster: Cluster, request: Request) -> bool:
    """Whether a node has not confirmed yet that something of this very Pod is gone: what that blocks is in doubt."""
    for key, grave in cluster.grants.items():
        if not isinstance(grave, Tombstone):
            continue
        if (key.namespace, key.pod) == (request.pod.namespace, request.pod.name):
            said = cluster.delivered.get(status_key(key))
            if not isinstance(said, Tombstone) or said.revision < grave.revision:
                return True
    return False


def _offers(endpoint: Endpoint, request: Request) -> bool:
    return (
        request.network_service in endpoint.network_services
        and endpoint.ready
        and endpoint.pod.node_ready
        and endpoint.pod.uid != request.pod.uid
    )


def reaches(cluster: Cluster, endpoint: Endpoint, request: Request) -> bool:
    if endpoint.pod.node == request.pod.node:
        return True
    return all(_tunnels(cluster.facts.get(p.node)) for p in (endpoint.pod, request.pod))


def _tunnels(facts: NodeFacts | None) -> bool:
    return facts is not None and "vxlan" in facts.mechanisms and bool(facts.underlay_address)


def _in_use(cluster: Cluster) -> list[Span]:
    return [span(p) for p in (*cluster.hard, *cluster.soft)]


def _routes_are_free(cluster: Cluster, endpoint: Endpoint, request: Request) -> bool:
    own = [address(ip) for p in (endpoint.pod, request.pod) for ip in p.ips]
    cover = Cover([*_in_use(cluster), *own])
    return all(
        is_default(route.destination) or cover.find(span(route.destination)) is None
        for route in endpoint.routes
    )


def _has_room(cluster: Cluster, picture: Picture, endpoint: Endpoint) -> bool:
    """Two free addresses in every family serve any addressing; one does beside the endpoint's shared one."""
    owner = (endpoint.pod.namespace, endpoint.endpoint)
    space = usable(picture, owner, endpoint)
    if not space:
        return False
    own = [address(ip) for e in cluster.endpoints.values() for ip in e.pod.ips]
    own += [address(ip) for r in cluster.requests.values() for ip in r.pod.ips]
    open_to = without(space, [*_in_use(cluster), *own])
    free = without(open_to, taken(cluster, owner))
    shared = _shared(cluster, owner, endpoint, open_to)
    return all(
        size(free, family) >= (1 if family in shared else 2) for family in {s.family for s in space}
    )


def _shared(cluster: Cluster, owner: Object, endpoint: Endpoint, open_to: list[Span]) -> set[int]:
    """Families in which all clients have the endpoint's first address as their peer."""
    if endpoint.ipam.addressing != "shared":
        return set()
    served: list[Connection] = [c for c in cluster.granted().values() if object_of(c) == owner]
    found = set()
    for one in {s.family: s for s in sorted(open_to, reverse=True)}.values():
        peers = {
            at.first
            for c in served
            for at in map(address, c.server.addresses)
            if at.family == one.family
        }
        if peers == {one.first}:
            found.add(one.family)
    return found
