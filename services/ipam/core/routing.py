"""Whether an endpoint's routes may be given to a client: none leads into what others use, all can be reached."""

from collections.abc import Iterator, Mapping, Sequence

from schemas import intent
from schemas.reasons import PREFIX_COLLISION
from schemas.subjects import RequestKey
from services.ipam.core import blocks, reach
from services.ipam.core.blocks import Block
from services.ipam.core.pool import Pool
from services.ipam.core.reach import Problem
from services.ipam.core.state import State


def problem_of(
    state: State, request: intent.Request, endpoint: intent.Endpoint, pool: Pool
) -> Problem | None:
    """What is wrong with the first of its routes, or of its policies, that may not be given.

    All Pods of an endpoint object have the same ones.
    """
    object_ = endpoint.pod.namespace, endpoint.endpoint
    problem = reach.problem_of(endpoint, pool, state.pools.lacks(object_))
    if problem is not None:
        return problem
    return next(_collisions(state, request, endpoint), None) or _doubled(
        state, request, endpoint.policies
    )


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


def _collisions(
    state: State, request: intent.Request, endpoint: intent.Endpoint
) -> Iterator[Problem]:
    of_policies = [route for policy in endpoint.policies for route in policy.routes]
    for route in endpoint.routes:
        yield from _overlapping(state, request, f"the route {route.destination}", _block(route))
    for route in of_policies:
        # Its default route is looked up for what matches the policy alone: it takes nothing from others.
        if (block := _block(route))[2]:
            yield from _overlapping(state, request, f"the route {route.destination}", block)
    for route in (*endpoint.routes, *of_policies):
        if route.next_hop:
            hop = blocks.of_host(blocks.read_host(route.next_hop))
            what = f"the route {route.destination} via {route.next_hop}"
            yield from _overlapping(state, request, what, hop)
    for policy in endpoint.policies:
        if (source := blocks.read_source(policy)) is not None:
            what = f"a policy from {blocks.show(source)}"
            yield from _overlapping(state, request, what, source)


def _block(route: intent.Route) -> Block:
    return blocks.read_block(route.destination)


def _overlapping(
    state: State, request: intent.Request, what: str, block: Block
) -> Iterator[Problem]:
    """What a route overlaps, if it does: prefixes in use, the Pod's own address, another connection of it.

    A declared default route overlaps only another one: what the cluster uses stays on the CNI.
    """
    if block[2]:
        use = state.exclusions.overlapping(block)
        if use is not None:
            yield _collision(what, str(use), _AS_DEFAULT[block[0]] if block[2] < _WIDE else "")
        own = next((ip for ip in blocks.read_hosts(request.pod.ips) if blocks.has(block, ip)), None)
        if own is not None:
            where = f"{blocks.show(blocks.of_host(own))} (the Pod's own address)"
            yield _collision(what, where, "")
    other = state.pods.overlapping(request.pod.uid, block, but=request.key)
    if other is not None:
        yield _collision(what, other, reach.ONE_OF_TWO if block[2] else reach.ONE_DEFAULT)


_WIDE = 8  # a shorter prefix means everywhere
_AS_DEFAULT = {
    family: f"write {default}: a default route alone may cover what the cluster uses, which stays on the CNI"
    for family, default in ((4, "0.0.0.0/0"), (6, "::/0"))
}


def _collision(what: str, other: str, remedy: str) -> Problem:
    text = f"declares {what}, which overlaps {other}"
    return Problem(PREFIX_COLLISION, text, is_general=True, remedy=remedy)


def _doubled(
    state: State, request: intent.Request, policies: Sequence[intent.Policy]
) -> Problem | None:
    """Of two connections of a Pod with default routes for the same traffic, one would get nothing of it."""
    wanted = {match: policy for policy in policies for match in _default_matches(policy)}
    if not wanted:
        return None
    for key in sorted(state.pods.connections(request.pod.uid), key=lambda key: key.subject):
        granted = state.grants.get(key) if key != request.key else None
        for policy in granted.policies if granted is not None else ():
            if not wanted.keys().isdisjoint(_default_matches(policy)):
                why = f"declares a policy with a default route, and {_connection(key)} has one for the same traffic"
                return Problem(PREFIX_COLLISION, why, is_general=True, remedy=reach.ONE_DEFAULT)
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
