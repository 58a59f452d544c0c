"""Whether an endpoint's routes may be given to a client: none leads into what others use, all can be reached."""

from collections.abc import Iterable, Sequence

from schemas import intent
from services.ipam.core import blocks
from services.ipam.core.blocks import Block
from services.ipam.core.pools import Pool
from services.ipam.core.state import State

Problem = tuple[str, str]  # stable reason and words


def problem_of(
    state: State, request: intent.Request, endpoint: intent.Endpoint, pool: Pool
) -> Problem | None:
    """What is wrong with the first of its routes, or of its policies' routes, that may not be given."""
    try:
        routes = [(route, _read(route)) for route in endpoint.routes]
        of_policies = [
            (route, _read(route)) for policy in endpoint.policies for route in policy.routes
        ]
        for policy in endpoint.policies:
            if policy.source:
                blocks.read_block_loosely(policy.source)
    except ValueError as exc:
        return "BadEndpoint", f"has a bad route: {exc}"
    onward = [block for route, block in routes if block[2] and not route.next_hop]
    for route, block in (*routes, *of_policies):
        problem = _unreachable(route, block, pool, onward)
        if problem is not None:
            return "BadEndpoint", f"declares the route {route.destination}{problem}"
    for route, block in routes:
        other = _in_use(state, request, block)
        if other is not None:
            return _collision(route, other)
    for route, block in of_policies:
        # Its default route is looked up for what matches the policy alone: it takes nothing from others.
        other = _in_use(state, request, block) if block[2] else None
        if other is not None:
            return _collision(route, other)
    return None


def _read(route: intent.Route) -> Block:
    if route.next_hop:
        blocks.read_host(_bare(route.next_hop))
    return blocks.read_block(route.destination)


def _bare(next_hop: str) -> str:
    if "/" in next_hop:
        raise ValueError(f"next hop {next_hop!r} is no address")
    return next_hop


def _collision(route: intent.Route, other: str) -> Problem:
    return (
        "PrefixCollision",
        f"declares the route {route.destination}, which overlaps {other}",
    )


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
    route: intent.Route, block: Block, pool: Pool, onward: Sequence[Block]
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
    reached: Iterable[Block] = (*pool.own, *(other for other in onward if other != block))
    if not any(blocks.has(other, hop) for other in reached):
        return f" via {route.next_hop}, which lies neither in a prefix of it nor behind another route of it"
    return None
