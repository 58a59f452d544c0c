"""The decision: one request against everything that is known. Reads the state, changes nothing."""

import hashlib
import ipaddress

import msgspec

from schemas import grant, intent, values
from schemas.grant import Connection
from schemas.subjects import EndpointKey, NetworkServiceKey
from schemas.values import Address, Prefix
from services.ipam.core import choosing
from services.ipam.core.pools import Exhausted, Pair, Pool
from services.ipam.core.state import ObjectKey, State, Use, endpoint_key


class Granted(msgspec.Struct, frozen=True):
    """What a request gets. Equal to what stands already if nothing changed."""

    connection: Connection


class Refused(msgspec.Struct, frozen=True):
    """Why a request gets nothing."""

    refusal: grant.Refusal


def decide(
    state: State, request: intent.Request, *, previous: Connection | None, revision: int
) -> Granted | Refused:
    """Answer a request. `previous` is what it has or last had; `revision` the number a change would get."""
    current = _current(state, previous)
    choice = choosing.choose(state.registry, request, current=current, load=state.load)
    if isinstance(choice, choosing.NoChoice):
        return _refuse(request, choice.reason, choice.message, choice.candidates)
    fallen = list(choice.ruled_out)
    for endpoint in choice.candidates:
        result = _connect(state, request, endpoint, choice.namespace, previous)
        if isinstance(result, Connection):
            if previous is not None and result == msgspec.structs.replace(previous, revision=0):
                return Granted(previous)
            return Granted(msgspec.structs.replace(result, revision=revision))
        code, text = result
        fallen.append((code, grant.Candidate(endpoint=choosing.describe(endpoint), reason=text)))
    return _refuse_all(request, fallen)


def _connect(
    state: State,
    request: intent.Request,
    endpoint: intent.Endpoint,
    namespace: str,
    previous: Connection | None,
) -> Connection | tuple[str, str]:
    """The connection to this endpoint, revision 0, or (reason code, text)."""
    try:
        pool = state.pool(endpoint)
    except ValueError as exc:
        return "BadEndpoint", f"has a bad spec: {exc}"
    if not pool.prefixes:
        return "NoPrefixes", "names no ipam.prefixes"
    object_ = (endpoint.pod.namespace, endpoint.endpoint)
    shared_of = object_ if pool.is_shared else None
    taken = [
        *(Use(values.parse_prefix_loosely(ip), "the Pod's own address") for ip in request.pod.ips),
        *state.used_by_pod(request.pod.uid, but=request.key),
    ]
    of_server = [
        *map(values.parse_prefix_loosely, endpoint.pod.ips),
        *(
            u.prefix
            for u in state.used_by_pod(endpoint.pod.uid, but=request.key, shared_of=shared_of)
        ),
    ]
    avoid = [prefix for prefix in [*(use.prefix for use in taken), *of_server] if prefix.prefixlen]
    is_standing = _is_same_pair(previous, request, endpoint)
    if previous is None or not is_standing or previous.client.routes != endpoint.routes:
        problem = _route_problem(endpoint, pool.families, state.excluded, taken)
        if problem is not None:
            return problem
    preferred = _preferred(state, request, object_)
    pairs: list[Pair] = []
    for family in pool.families:
        wish = next((pair for pair in preferred if pair.client.version == family), None)
        pair = pool.allocate(
            request.key.subject, family, avoid=avoid, preferred=wish, is_standing=is_standing
        )
        if isinstance(pair, Exhausted):
            return _exhausted(state, pool, pair)
        pairs.append(pair)
    return _connection(state, request, endpoint, namespace, pairs)


def _connection(
    state: State,
    request: intent.Request,
    endpoint: intent.Endpoint,
    namespace: str,
    pairs: list[Pair],
) -> Connection:
    from_key = request.key.subject
    service = state.registry.network_services.get(
        NetworkServiceKey(namespace, request.network_service)
    )
    client = grant.End(
        pod=_found_by(request.pod),
        interface=request.interface,
        mac=_mac(request.pod.uid, request.interface, "client"),
        addresses=tuple(_host(pair.client) for pair in pairs),
        routes=endpoint.routes,
    )
    server = grant.End(
        pod=_found_by(endpoint.pod),
        interface=f"nse-{hashlib.sha256(from_key.encode()).hexdigest()[:11]}",
        mac=_mac(request.pod.uid, request.interface, "server"),
        addresses=tuple(_host(pair.server) for pair in pairs),
    )
    return Connection(
        node=request.pod.node,
        revision=0,
        network_service=request.network_service,
        network_service_namespace=namespace,
        endpoint=endpoint.endpoint,
        endpoint_namespace=endpoint.pod.namespace,
        client=client,
        server=server,
        payload=service.payload if service is not None else "IP",
        policies=endpoint.policies,
        dns=_dns(request, endpoint, pairs),
    )


def _dns(
    request: intent.Request, endpoint: intent.Endpoint, pairs: list[Pair]
) -> intent.Dns | None:
    """What the endpoint provides, unless the Pod wants none."""
    if endpoint.dns is None or not request.dns:
        return None
    servers = endpoint.dns.servers or tuple(str(pair.server) for pair in pairs)
    return msgspec.structs.replace(endpoint.dns, servers=servers)


def _current(state: State, previous: Connection | None) -> EndpointKey | None:
    """The endpoint Pod a request has: the same Pod, not another one under its name."""
    if previous is None:
        return None
    key = endpoint_key(previous)
    endpoint = state.registry.endpoints.get(key)
    is_same = endpoint is not None and endpoint.pod.uid == previous.server.pod.uid
    return key if is_same else None


def _is_same_pair(
    previous: Connection | None, request: intent.Request, endpoint: intent.Endpoint
) -> bool:
    """Whether what it has is between these very Pods: then it stands, whatever came to be excluded since."""
    return (
        previous is not None
        and endpoint_key(previous) == endpoint.key
        and previous.client.pod.uid == request.pod.uid
        and previous.server.pod.uid == endpoint.pod.uid
    )


def _route_problem(
    endpoint: intent.Endpoint, families: list[int], excluded: list[Use], taken: list[Use]
) -> tuple[str, str] | None:
    """Why one of the endpoint's routes may not be given to this client, or None."""
    for route in endpoint.routes:
        try:
            destination = values.parse_prefix(route.destination)
            next_hop = ipaddress.ip_address(route.next_hop) if route.next_hop else None
        except ValueError as exc:
            return "BadEndpoint", f"has a bad route: {exc}"
        if values.is_default_route(destination):
            return (
                "DefaultRouteNotSupported",
                f"declares the default route {destination}: not supported yet",
            )
        if destination.version not in families:
            return (
                "BadEndpoint",
                f"declares the route {destination}, but has no IPv{destination.version} prefix to reach it from",
            )
        if next_hop is not None and not _may_be_next_hop(next_hop, destination):
            return (
                "BadEndpoint",
                f"declares the route {destination} via {next_hop}, which is no next hop",
            )
        for use in [*excluded, *taken]:
            if use.prefix.prefixlen and values.overlap(destination, use.prefix):
                return (
                    "PrefixCollision",
                    f"declares the route {destination}, which overlaps {use.prefix} ({use.by})",
                )
    return None


def _may_be_next_hop(next_hop: Address, destination: Prefix) -> bool:
    special = next_hop.is_unspecified or next_hop.is_multicast or next_hop.is_loopback
    return next_hop.version == destination.version and not special


def _exhausted(state: State, pool: Pool, exhausted: Exhausted) -> tuple[str, str]:
    """Full, or swallowed by prefixes in use? The user mends these in different places."""
    family = exhausted.family
    names = ", ".join(str(prefix) for prefix in pool.prefixes if prefix.version == family)
    used, size = pool.used(family), pool.size(family)
    colliding = pool.colliding(family)
    if colliding and not exhausted.free and used < size:
        by = {use.prefix: use.by for use in state.excluded}
        pairs = "; ".join(f"{own} overlaps {other} ({by[other]})" for own, other in colliding[:3])
        return (
            "PrefixCollision",
            f"has {used} of {size} addresses used and none left outside of prefixes in use: {pairs}",
        )
    if exhausted.free >= (1 if pool.is_shared else 2):
        return (
            "PrefixCollision",
            f"of {names} {exhausted.free} free, but none that this Pod or the endpoint Pod does not use already",
        )
    return "PoolExhausted", f"pool {names} is full: {used} of {size} addresses used"


def _preferred(state: State, request: intent.Request, object_: ObjectKey) -> list[Pair]:
    """Addresses by family that this (namespace, pod, interface) has or last had of this endpoint's object.

    Not what another node has, or still has to take down: both Pods could be alive.
    """
    holding = state.last_known(request.key)
    if holding is None or holding.object != object_:
        return []
    granted = state.grants.get(request.key)
    if granted is None or granted.node != request.pod.node:
        standing = [held.node for held in state.held(request.key)]
        standing += [granted.node] if granted is not None else []
        if any(node != request.pod.node for node in standing):
            return []
    return [
        Pair(server, client) for server, client in zip(holding.server, holding.client, strict=False)
    ]


_PRECEDENCE = (
    # The cause nearest to a connection is the one to mend first.
    "PoolExhausted",
    "PrefixCollision",
    "DefaultRouteNotSupported",
    "BadEndpoint",
    "NoPrefixes",
    "RemoteNotSupported",
    "EndpointNotReady",
    "NoMatchingEndpoint",
)

_REMEDIES = {
    "PoolExhausted": "add a prefix to the endpoint's ipam.prefixes or remove clients",
    "PrefixCollision": "give the endpoint a prefix or route that nothing in the cluster uses",
    "DefaultRouteNotSupported": "declare the routes that are needed",
    "BadEndpoint": "correct the NetworkServiceEndpoint",
    "NoPrefixes": "add ipam.prefixes to the NetworkServiceEndpoint",
    "RemoteNotSupported": "run an endpoint Pod on the client's node",
    "EndpointNotReady": "see why the endpoint Pod is not Ready",
    "NoMatchingEndpoint": "correct the labels in the annotation or on the endpoint",
}


def _refuse_all(request: intent.Request, fallen: list[tuple[str, grant.Candidate]]) -> Refused:
    reason = min((code for code, _ in fallen), key=_PRECEDENCE.index)
    why = "; ".join(f"{candidate.endpoint} {candidate.reason}" for _, candidate in fallen)
    message = f"network service {request.network_service}: {why}; {_REMEDIES[reason]}"
    return _refuse(request, reason, message, tuple(candidate for _, candidate in fallen))


def _refuse(
    request: intent.Request, reason: str, message: str, candidates: tuple[grant.Candidate, ...]
) -> Refused:
    refusal = grant.Refusal(
        namespace=request.pod.namespace,
        pod=request.pod.name,
        interface=request.interface,
        uid=request.pod.uid,
        network_service=request.network_service,
        reason=reason,
        message=message,
        candidates=candidates,
    )
    return Refused(refusal)


def _found_by(pod: intent.PodRef) -> intent.PodRef:
    """What a node finds a Pod by. Its addresses and its node's health may change without a new revision."""
    return msgspec.structs.replace(pod, ips=(), node_ready=True)


def _host(address: Address) -> str:
    return f"{address}/{address.max_prefixlen}"


def _mac(uid: str, interface: str, side: str) -> str:
    """A locally administered unicast MAC, the same whenever the same connection is made again."""
    digest = hashlib.sha256(f"{uid}/{interface}/{side}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (0x02, *digest[:5]))
