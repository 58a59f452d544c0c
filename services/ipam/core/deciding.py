"""The decision: one request against everything that is known. Changes nothing of what is granted."""

import hashlib
from collections.abc import Mapping

import msgspec

from schemas import grant, intent
from schemas.grant import Connection
from schemas.subjects import EndpointKey, NetworkServiceKey
from services.ipam.core import blocks, choosing, linking, reach, refusing, routing, wording
from services.ipam.core.allocating import Wish, allocate
from services.ipam.core.blocks import Host
from services.ipam.core.choosing import Fallen
from services.ipam.core.holdings import endpoint_key
from services.ipam.core.linking import Link
from services.ipam.core.reach import Problem
from services.ipam.core.spaces import Pair
from services.ipam.core.state import State


class Granted(msgspec.Struct, frozen=True):
    """What a request gets. Equal to what stands already if nothing changed."""

    connection: Connection


class Refused(msgspec.Struct, frozen=True):
    """Why a request gets nothing."""

    refusal: grant.Refusal


def decide(
    state: State,
    request: intent.Request,
    *,
    previous: Connection | None,
    revision: int,
    readdress: bool = False,
) -> Granted | Refused:
    """Answer a request. `previous` is what it has or last had; `revision` the number a change would get.

    `readdress`: addresses that a hard exclusion swallowed are given up.
    """
    current = _current(state, previous)
    choice = choosing.choose(
        state.registry, request, current=current, previous=previous, paths=state.paths
    )
    if isinstance(choice, choosing.NoChoice):
        return Refused(refusing.refuse(request, choice.reason, choice.message, choice.candidates))
    tried: list[Fallen] = []
    for endpoint in choice.candidates():
        result = _connect(state, request, endpoint, choice.namespace, previous, readdress=readdress)
        if isinstance(result, Connection):
            if result == previous:
                return Granted(previous)
            return Granted(msgspec.structs.replace(result, revision=revision))
        is_general = result.is_general and endpoint.key != current
        tried.append(Fallen(endpoint.key, result.code, result.text, is_general, result.remedy))
        if is_general:
            choice.passed.add(endpoint.endpoint)
    return Refused(refusing.refuse_all(request, choice, tried))


def _connect(
    state: State,
    request: intent.Request,
    endpoint: intent.Endpoint,
    namespace: str,
    previous: Connection | None,
    *,
    readdress: bool,
) -> Connection | Problem:
    """The connection to this endpoint, under the revision of the previous one, or why there is none."""
    try:
        pool = state.pool(endpoint)
    except ValueError as exc:
        return Problem("BadEndpoint", f"has a bad spec: {exc}", is_general=True)
    if not pool.spaces:
        return reach.nothing_to_give(state.pools.lacks((endpoint.pod.namespace, endpoint.endpoint)))
    standing = previous if _is_same_pair(previous, request, endpoint) else None
    problem = _new_route_problem(state, request, endpoint, standing) or _silent_client(
        state, request, endpoint, standing
    )
    if problem is not None:
        return problem
    link = linking.link(
        state.facts, state.vnis, request.pod, endpoint.pod, owner=request.key, standing=standing
    )
    if isinstance(link, str):
        return Problem("RemoteNotSupported", link)
    is_readdressing = readdress and standing is not None
    wish = Wish(request, request.key, endpoint, standing, is_readdressing=is_readdressing)
    pairs = allocate(state, pool, wish)
    if isinstance(pairs, Problem):
        return pairs
    problem = _too_few_families(state, endpoint, pairs) or routing.source_problem(
        endpoint, {f: pair.server for f, pair in pairs.items()}
    )
    if problem is not None:
        return problem
    connection = _connection(state, wish, namespace, pairs, link)
    if previous is None:
        return connection
    return msgspec.structs.replace(
        connection,
        revision=previous.revision,
        readdressed=wording.readdressed(state, connection, previous, readdress=readdress),
    )


def _new_route_problem(
    state: State,
    request: intent.Request,
    endpoint: intent.Endpoint,
    standing: Connection | None,
) -> Problem | None:
    """What stands keeps routes that came to collide later; new ones are looked at."""
    if standing is not None and (standing.client.routes, standing.policies) == (
        endpoint.routes,
        endpoint.policies,
    ):
        return None
    if not endpoint.routes and not endpoint.policies:
        return None
    return routing.problem_of(state, request, endpoint, state.pool(endpoint))


def _too_few_families(
    state: State, endpoint: intent.Endpoint, pairs: Mapping[int, Pair]
) -> Problem | None:
    """Carved prefixes of a family may be there and have come to be in use."""
    if not endpoint.routes and not endpoint.policies:
        return None
    for family, block in reach.families_of(endpoint).items():
        if family not in pairs:
            return reach.no_family(block, [state.pools.lack(family)])
    return None


def _silent_client(
    state: State,
    request: intent.Request,
    endpoint: intent.Endpoint,
    standing: Connection | None,
) -> Problem | None:
    """A silent node may have tunnels of which nobody knows the numbers."""
    node = request.pod.node
    if standing is not None or node not in state.silent or endpoint.pod.node == node:
        return None
    return Problem(
        "NodeSilent",
        f"is on another node, and the client's, {node}, has not told yet which tunnels it has: no new one until it has",
    )


def _connection(
    state: State, wish: Wish, namespace: str, pairs: Mapping[int, Pair], link: Link
) -> Connection:
    request, endpoint = wish.request, wish.endpoint
    service = state.registry.network_services.get(
        NetworkServiceKey(namespace, request.network_service)
    )
    return Connection(
        node=request.pod.node,
        revision=0,
        network_service=request.network_service,
        network_service_namespace=namespace,
        endpoint=endpoint.endpoint,
        endpoint_namespace=endpoint.pod.namespace,
        client=grant.End(
            pod=_found_by(request.pod),
            interface=request.interface,
            mac=_mac(request.pod.uid, request.interface, "client"),
            addresses=tuple(_host((family, pair.client)) for family, pair in pairs.items()),
            routes=endpoint.routes,
            underlay=link.client_underlay,
        ),
        server=grant.End(
            pod=_found_by(endpoint.pod),
            interface=_server_interface(wish),
            mac=_mac(request.pod.uid, request.interface, "server"),
            addresses=tuple(_host((family, pair.server)) for family, pair in pairs.items()),
            underlay=link.server_underlay,
        ),
        payload=service.payload if service is not None else "IP",
        mechanism=link.mechanism,
        vni=link.vni,
        mtu=link.mtu,
        policies=endpoint.policies,
        dns=_dns(request, endpoint, pairs),
    )


def _dns(
    request: intent.Request, endpoint: intent.Endpoint, pairs: Mapping[int, Pair]
) -> intent.Dns | None:
    """What the endpoint provides, unless the Pod wants none."""
    if endpoint.dns is None or not request.dns:
        return None
    own = (str(blocks.address_of((family, pair.server))) for family, pair in pairs.items())
    return msgspec.structs.replace(endpoint.dns, servers=endpoint.dns.servers or tuple(own))


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


def _found_by(pod: intent.PodRef) -> intent.PodRef:
    """What a node finds a Pod by. Its addresses and its node's health may change without a new revision."""
    if not pod.ips and pod.node_ready:
        return pod
    return msgspec.structs.replace(pod, ips=(), node_ready=True)


def _server_interface(wish: Wish) -> str:
    if wish.standing is not None:
        return wish.standing.server.interface
    key = wish.key
    name = f"{key.namespace}/{key.pod}/{key.interface}"
    return f"nse-{hashlib.sha256(name.encode()).hexdigest()[:11]}"


def _host(host: Host) -> str:
    return f"{blocks.address_of(host)}/{blocks.BITS[host[0]]}"


def _mac(uid: str, interface: str, side: str) -> str:
    """A locally administered unicast MAC, the same whenever the same connection is made again."""
    digest = hashlib.sha256(f"{uid}/{interface}/{side}".encode()).digest()
    return f"02:{digest[:5].hex(':')}"
