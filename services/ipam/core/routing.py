"""Whether an endpoint's routes may be given to a client: none leads into what others use, all can be reached."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from schemas import intent
from schemas.subjects import RequestKey
from services.ipam.core import blocks
from services.ipam.core.blocks import Block
from services.ipam.core.pool import Pool
from services.ipam.core.state import State


class Problem(NamedTuple):
    """Why an endpoint Pod cannot serve: a stable reason and words."""

    code: str
    text: str
    is_general: bool = False  # the same is true of all Pods of its object


def problem_of(
    state: State, request: intent.Request, endpoint: intent.Endpoint, pool: Pool
) -> Problem | None:
    """What is wrong with the first of its routes, or of its policies, that may not be given.

    All Pods of an endpoint object have the same ones.
    """
    try:
        routes = [(route, _read(route)) for route in endpoint.routes]
        of_policies = [
            (route, _read(route)) for policy in endpoint.policies for route in policy.routes
        ]
        sources = [source for p in endpoint.policies if (source := blocks.read_source(p))]
    except ValueError as exc:
        return Problem("BadEndpoint", f"has a bad route or policy: {exc}", is_general=True)
    onward = [block for route, block in routes if block[2] and not route.next_hop]
    # A policy's next hop is taken to be on the link: only the routes of the main table have to lead to theirs.
    for problem, route in (
        *((_unreachable(route, block, pool, onward), route) for route, block in routes),
        *((_unreachable(route, block, pool, None), route) for route, block in of_policies),
    ):
        if problem is not None:
            why = f"declares the route {route.destination}{problem}"
            return Problem("BadEndpoint", why, is_general=True)
    colliding = _collisions(state, request, routes, of_policies, sources)
    found = next(colliding, None) or _doubled(state, request, endpoint.policies)
    return Problem("PrefixCollision", found, is_general=True) if found else None


def source_problem(endpoint: intent.Endpoint, servers: Mapping[int, int]) -> Problem | None:
    """Whether a policy gives the client the very address that the endpoint has on this link, by family."""
    for policy in endpoint.policies:
        source = blocks.read_source(policy)
        if source is not None and servers.get(source[0]) == source[1]:
            why = (
                f"declares a policy from {blocks.show(source)}, which is the endpoint's own address"
            )
            return Problem("BadEndpoint", why)
    return None


def _read(route: intent.Route) -> Block:
    if route.next_hop:
        blocks.read_host(_bare(route.next_hop))
    return blocks.read_block(route.destination)


def _bare(next_hop: str) -> str:
    if "/" in next_hop:
        raise ValueError(f"next hop {next_hop!r} is no address")
    return next_hop


def _collisions(
    state: State,
    request: intent.Request,
    routes: Iterable[tuple[intent.Route, Block]],
    of_policies: Iterable[tuple[intent.Route, Block]],
    sources: Iterable[Block],
) -> Iterator[str]:
    for route, block in routes:
        yield from _overlapping(state, request, f"the route {route.destination}", block)
    for route, block in of_policies:
        # Its default route is looked up for what matches the policy alone: it takes nothing from others.
        if block[2]:
            yield from _overlapping(state, request, f"the route {route.destination}", block)
    for route, _ in (*routes, *of_policies):
        if route.next_hop:
            hop = blocks.of_host(blocks.read_host(route.next_hop))
            what = f"the route {route.destination} via {route.next_hop}"
            yield from _overlapping(state, request, what, hop)
    for block in sources:
        yield from _overlapping(state, request, f"a policy from {blocks.show(block)}", block)


def _overlapping(state: State, request: intent.Request, what: str, block: Block) -> Iterator[str]:
    other = _in_use(state, request, block)
    if other is not None:
        yield f"declares {what}, which overlaps {other}"


def _doubled(
    state: State, request: intent.Request, policies: Sequence[intent.Policy]
) -> str | None:
    """Of two connections of a Pod with default routes for the same traffic, one would get nothing of it."""
    wanted = {match: policy for policy in policies for match in _default_matches(policy)}
    if not wanted:
        return None
    for key in sorted(state.pods.connections(request.pod.uid), key=lambda key: key.subject):
        granted = state.grants.get(key) if key != request.key else None
        for policy in granted.policies if granted is not None else ():
            if not wanted.keys().isdisjoint(_default_matches(policy)):
                return f"declares a policy with a default route, and {_connection(key)} has one for the same traffic"
    return None


def _default_matches(policy: intent.Policy) -> set[tuple[object, ...]]:
    """What traffic it leads everywhere, by family. Without routes it leads everywhere."""
    source = blocks.read_block_loosely(policy.source) if policy.source else None
    match = (source, policy.protocol.lower(), policy.destination_port, policy.source_port)
    led = [blocks.read_block(route.destination) for route in policy.routes]
    families = {block[0] for block in led if not block[2]}
    if not led:
        families = {source[0]} if source is not None else {4, 6}
    return {(family, *match) for family in families}


def _connection(key: RequestKey) -> str:
    return f"connection {key.interface} of pod {key.namespace}/{key.pod}"


def _in_use(state: State, request: intent.Request, block: Block) -> str | None:
    """A prefix in use that a route overlaps, and whose.

    A declared default route overlaps only another one: what the cluster uses stays on the CNI.
    """
    if block[2]:
        use = state.exclusions.overlapping(block)
        if use is not None:
            return str(use)
        own = next((ip for ip in blocks.read_hosts(request.pod.ips) if blocks.has(block, ip)), None)
        if own is not None:
            return f"{blocks.show(blocks.of_host(own))} (the Pod's own address)"
    return state.pods.overlapping(request.pod.uid, block, but=request.key)


def _unreachable(
    route: intent.Route, block: Block, pool: Pool, onward: Sequence[Block] | None
) -> str | None:
    family = block[0]
    if family not in pool.spaces:
        return f", but has no IPv{family} prefix to reach it from"
    if not route.next_hop:
        return None
    hop = blocks.read_host(route.next_hop)
    address = blocks.address_of(hop)
    if hop[0] != family or address.is_unspecified or address.is_multicast or address.is_loopback:
        return f" via {route.next_hop}, which is no next hop"
    if onward is None:
        return None
    reached: Iterable[Block] = (*pool.own, *(other for other in onward if other != block))
    if not any(blocks.has(other, hop) for other in reached):
        return f" via {route.next_hop}, which lies neither in a prefix of it nor behind another route of it"
    return None
