"""Why an address is whose it is: answers from a picture of the bus, in lines for people.

Only what stands on the bus is said, with the subject it stands on; where it says nothing, so does the answer.
"""

from collections.abc import Iterable, Iterator, Sequence

from schemas import grant, intent, state
from schemas.grant import Connection, End
from schemas.subjects import EndpointKey, PoolKey, RefusalKey, RequestKey, StatusKey
from schemas.values import Address, Prefix
from services.ipam.core import blocks, pictures
from services.ipam.core.holdings import request_key
from services.ipam.core.pictures import Line, Picture, few

__all__ = [
    "Line",
    "Picture",
    "explain_address",
    "explain_endpoint",
    "explain_pod",
    "explain_prefix",
]

MOST_ROUTES = 20  # of one connection or endpoint


def explain_address(picture: Picture, address: Address) -> list[Line]:
    """Who holds an address, who excludes it, in which pools it is free; at least one line."""
    host = (address.version, int(address))
    block = blocks.of_host(host)
    holders = [*pictures.held_by_grants(picture, block), *pictures.held_back(picture, block)]
    excluded = [*pictures.in_use(picture, block), *pictures.own_addresses(picture, block)]
    lines = [*few(holders), *few(excluded), *few(pictures.routes(picture, block))]
    taken_of = pictures.takers(picture, block)
    lines += pictures.pools_of(picture, host, taken_of=taken_of, is_excluded=bool(excluded))
    return lines or [Line(f"{address} is in no pool, and nothing on the bus speaks of it")]


def explain_prefix(picture: Picture, prefix: Prefix) -> list[Line]:
    """Who holds anything of a prefix, who excludes it, which pools and routes overlap it."""
    block = blocks.of_prefix(prefix)
    lines = [
        *few(pictures.defaults(picture, block)),
        *few(pictures.in_use(picture, block)),
        *few(pictures.own_addresses(picture, block)),
        *few(pictures.pools_overlapping(picture, block)),
        *few(pictures.routes(picture, block)),
        *few(pictures.held_by_grants(picture, block)),
        *few(pictures.held_back(picture, block)),
    ]
    return lines or [Line(f"{prefix} overlaps no pool, and nothing on the bus speaks of it")]


def explain_pod(picture: Picture, namespace: str, pod: str) -> list[Line]:
    """Each interface of a Pod: request, chosen or refused, addresses; and what it serves as an endpoint Pod.

    Nothing of a Pod that the bus does not speak of.
    """
    asked = {
        k: r for k, r in picture.of(intent.Request) if (k.namespace, k.pod) == (namespace, pod)
    }
    granted = {request_key(c): c for c in picture.connections()}
    lines: list[Line] = []
    for key, request in asked.items():
        lines += _of_request(picture, key, request, granted.get(key))
    for key, connection in granted.items():
        if (key.namespace, key.pod) == (namespace, pod) and key not in asked:
            words = f"{key.interface}: nobody asks for it any more, and it has {_ends(connection)}"
            lines.append(Line(words, connection.key.subject))
    for key, tombstone in picture.unconfirmed():
        if (key.namespace, key.pod) == (namespace, pod):
            lines.append(pictures.still_to_confirm(key, tombstone))
    lines += _served(picture, namespace, pod, granted.values())
    return lines


def _of_request(
    picture: Picture, key: RequestKey, request: intent.Request, connection: Connection | None
) -> Iterator[Line]:
    scope = f"@{request.network_service_namespace}" if request.network_service_namespace else ""
    asks = f"{key.interface}: asks for network service {request.network_service}{scope}"
    if request.labels:
        asks += f" with {', '.join(f'{k}={v}' for k, v in sorted(request.labels.items()))}"
    yield Line(asks, key.subject)
    if connection is not None:
        yield Line(f"{key.interface}: granted {_ends(connection)}", connection.key.subject)
        for words in _ways(connection):
            yield Line(f"{key.interface}: {words}", connection.key.subject)
        if connection.readdressed:
            yield Line(f"{key.interface}: re-addressed, because {connection.readdressed}")
        if connection.covered:
            yield Line(
                f"{key.interface}: stays as it is, for nothing else is free, although {connection.covered}"
            )
        yield from _states(picture, connection)
    refusal = picture.messages.get(RefusalKey(key.namespace, key.pod, key.interface))
    if isinstance(refusal, grant.Refusal):
        yield Line(
            f"{key.interface}: refused, {refusal.reason}: {refusal.message}", refusal.key.subject
        )
        for each in refusal.candidates:
            if f"{each.endpoint} {each.reason}" not in refusal.message:  # most messages name them
                yield Line(f"{key.interface}: considered {each.endpoint}: {each.reason}")
    if connection is None and not isinstance(refusal, grant.Refusal):
        yield Line(f"{key.interface}: ipam has not answered yet")


def _states(picture: Picture, connection: Connection) -> Iterator[Line]:
    key = request_key(connection)
    for node in dict.fromkeys((connection.client.pod.node, connection.server.pod.node)):
        where = StatusKey(node, key.namespace, key.pod, key.interface)
        status = picture.messages.get(where)
        if not isinstance(status, state.Status):
            yield Line(f"{key.interface}: node {node} has not said anything about it yet")
            continue
        for side, end in (("client", status.client), ("endpoint Pod", status.server)):
            if end is not None:
                why = f", {end.reason}: {end.message}" if end.reason else ""
                yield Line(
                    f"{key.interface}: node {node} says {end.state} of the {side}'s end, at revision {status.revision}"
                    f"{why}",
                    where.subject,
                )


def _served(
    picture: Picture, namespace: str, pod: str, granted: Iterable[Connection]
) -> Iterator[Line]:
    for key, endpoint in picture.of(intent.Endpoint):
        if (key.namespace, key.pod) != (namespace, pod):
            continue
        clients = sum(
            (c.endpoint_namespace, c.endpoint, c.server.pod.name)
            == (namespace, endpoint.endpoint, pod)
            for c in granted
        )
        ready = "" if endpoint.ready else ", is not Ready"
        services = ", ".join(endpoint.network_services)
        yield Line(
            f"serves {services} as a Pod of endpoint {namespace}/{endpoint.endpoint}{ready}: "
            f"{_counted(clients, 'connection')}",
            key.subject,
        )


def explain_endpoint(picture: Picture, namespace: str, name: str) -> list[Line]:
    """An endpoint object: its pool, what collides, its Pods, clients and routes. Nothing of one that is not there."""
    place = (namespace, name)
    pods = [(k, e) for k, e in picture.of(intent.Endpoint) if (k.namespace, k.endpoint) == place]
    pool = picture.messages.get(PoolKey(namespace, name))
    granted = [c for c in picture.connections() if (c.endpoint_namespace, c.endpoint) == place]
    lines: list[Line] = []
    if pool or pods or granted:
        lines.append(
            Line(
                f"endpoint {namespace}/{name} has {_counted(len(pods), 'Pod')} and "
                f"{_counted(len(granted), 'connection')} of {_counted(len(_clients(granted)), 'client')}"
            )
        )
    if isinstance(pool, grant.Pool):
        lines += _of_pool(pool)
    for key, endpoint in pods[:1]:  # all Pods of an object say the same
        lines += [Line(words, key.subject) for words in _declared(endpoint)]
    return lines + few(_of_pod(key, endpoint, granted) for key, endpoint in pods)


def _of_pool(pool: grant.Pool) -> Iterator[Line]:
    carved = ", carved for it" if pool.automatic else ""
    for each in pool.families:
        largest = f", the largest prefix of it {each.largest_free}" if each.largest_free else ""
        yield Line(
            f"pool IPv{each.family} {', '.join(each.prefixes)}{carved}: {each.used} of {each.size} used, "
            f"{each.held} held back, {each.excluded} excluded, {each.free} free{largest}",
            pool.key.subject,
        )
    if pool.trouble is not None:
        words = f"{pool.trouble.reason}: it {pool.trouble.message}; new clients are refused"
        yield Line(words, pool.key.subject)
    for collision in pool.collisions:
        yield Line(
            f"{collision.prefix} collides with {collision.overlaps} ({collision.used_by})",
            pool.key.subject,
        )


def _of_pod(key: EndpointKey, endpoint: intent.Endpoint, granted: Iterable[Connection]) -> Line:
    clients = sum(c.server.pod.name == key.pod for c in granted)
    ready = "" if endpoint.ready else ", is not Ready"
    return Line(
        f"pod {key.namespace}/{key.pod} on node {endpoint.pod.node} serves "
        f"{', '.join(endpoint.network_services)}{ready}: {_counted(clients, 'connection')}",
        key.subject,
    )


def _clients(granted: Iterable[Connection]) -> set[str]:
    return {connection.client.pod.uid for connection in granted}


def _ways(connection: Connection) -> Iterator[str]:
    """Where its client gets to by it, beside the other end."""
    if connection.client.routes:
        yield f"routes {_routes(connection.client.routes)}"
    for policy in connection.policies:
        yield f"policy {_policy(policy)}"


def _declared(endpoint: intent.Endpoint) -> Iterator[str]:
    yield from endpoint.edited_in_vain
    if endpoint.routes:
        yield f"declares routes {_routes(endpoint.routes)}"
    for policy in endpoint.policies:
        yield f"declares policy {_policy(policy)}"


def _policy(policy: intent.Policy) -> str:
    match = (
        policy.source and f"from {policy.source}",
        policy.protocol,
        policy.source_port and f"from port {policy.source_port}",
        policy.destination_port and f"to port {policy.destination_port}",
    )
    routes = _routes(policy.routes) if policy.routes else "everything"
    return f"{' '.join(filter(None, match)) or 'everything'}: routes {routes}"


def _routes(routes: Sequence[intent.Route]) -> str:
    told = [
        each.destination + (f" via {each.next_hop}" if each.next_hop else "")
        for each in routes[:MOST_ROUTES]
    ]
    rest = len(routes) - len(told)
    return ", ".join(told) + (f" and {rest} more" if rest else "")


def _ends(connection: Connection) -> str:
    tunnel = f", VNI {connection.vni}" if connection.vni else ""
    return (
        f"{_addresses(connection.client)}, with {_addresses(connection.server)} at endpoint "
        f"{connection.endpoint_namespace}/{connection.endpoint} (pod {connection.server.pod.name} on node "
        f"{connection.server.pod.node}), {connection.mechanism}{tunnel}, MTU {connection.mtu}, revision "
        f"{connection.revision}"
    )


def _addresses(end: End) -> str:
    return ", ".join(end.addresses)


def _counted(number: int, thing: str) -> str:
    """`1 client`, `2 clients`."""
    return f"{number} {thing}" + ("" if number == 1 else "s")
