"""Whether an endpoint can serve anybody: its routes lead somewhere from its own prefixes, whoever the client is."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from schemas import grant, intent
from services.ipam.core import blocks
from services.ipam.core.blocks import Block
from services.ipam.core.pool import Pool
from services.ipam.core.spaces import Space

Lacks = Sequence[grant.Lack]

ONE_DEFAULT = (
    "a Pod has one default route of a family: take it from one of the two endpoints, or one of the two network "
    "services from the Pod's annotation"
)
ONE_OF_TWO = (
    "change the prefix or route at one of the two endpoints, or take one of the two network services from the Pod's "
    "annotation"
)


class Problem(NamedTuple):
    """Why an endpoint Pod cannot serve: a stable reason and words; no remedy: that of the reason."""

    code: str
    text: str
    is_general: bool = False  # the same is true of all Pods of its object
    remedy: str = ""


def trouble_of(endpoint: intent.Endpoint, pool: Pool, lacks: Lacks) -> Problem | None:
    """Why an endpoint serves no new client, if it serves none."""
    if not pool.spaces:
        return nothing_to_give(lacks)
    cramped = (problem for space in pool.spaces.values() if (problem := too_small(space)))
    return next(cramped, None) or problem_of(endpoint, pool, lacks)


def too_small(space: Space) -> Problem | None:
    """A family of a pool whose spec never has room for both ends of a connection."""
    if space.size >= 2:
        return None
    left = "nothing" if not space.size else "room for one end of a connection only"
    names = ", ".join(map(blocks.show, space.own))
    by = ", as its ipam.excludePrefixes leave the rest out" if space.left_out else ""
    why = f"has {left} in {names}{by}: a connection takes two addresses"
    return Problem("BadEndpoint", why, is_general=True)


def nothing_to_give(lacks: Lacks) -> Problem:
    """The endpoint names no prefix, and got none."""
    why = "; ".join(map(str, lacks)) or "automatic ones are off"
    return Problem("NoPrefixes", f"names no ipam.prefixes, and {why}", is_general=True)


def problem_of(endpoint: intent.Endpoint, pool: Pool, lacks: Lacks) -> Problem | None:
    """What is wrong with the first of its routes, or of its policies, that leads nowhere."""
    try:
        routes = [(route, _read(route)) for route in endpoint.routes]
        of_policies = [(route, _read(route)) for p in endpoint.policies for route in p.routes]
        for policy in endpoint.policies:
            blocks.read_source(policy)
    except ValueError as exc:
        return Problem("BadEndpoint", f"has a bad route or policy: {exc}", is_general=True)
    for _, block in (*routes, *of_policies):
        if block[0] not in pool.spaces:
            return no_family(block, lacks)
    onward = [block for route, block in routes if block[2] and not route.next_hop]
    # A policy's next hop is taken to be on the link: only the routes of the main table have to lead to theirs.
    for why, route in (
        *((_unreachable(route, block, pool, onward), route) for route, block in routes),
        *((_unreachable(route, block, pool, None), route) for route, block in of_policies),
    ):
        if why is not None:
            text = f"declares the route {route.destination} via {route.next_hop}, which {why}"
            return Problem("BadEndpoint", text, is_general=True)
    return None


def no_family(block: Block, lacks: Lacks) -> Problem:
    """A route of a family that a connection has no address of."""
    family = block[0]
    text = (
        f"declares the route {blocks.show(block)}, but has no IPv{family} prefix to reach it from"
    )
    lack = next((each for each in lacks if each.family == family), None)
    if lack is None:
        return Problem("BadEndpoint", text, is_general=True)
    return Problem("NoPrefixes", f"{text}: {lack}", is_general=True)


def families_of(endpoint: intent.Endpoint) -> dict[int, Block]:
    """Families that its routes need addresses of, each with one such route."""
    routes = (*endpoint.routes, *(route for p in endpoint.policies for route in p.routes))
    return {block[0]: block for route in routes if (block := blocks.read_block(route.destination))}


def _read(route: intent.Route) -> Block:
    if "/" in route.next_hop:
        raise ValueError(f"next hop {route.next_hop!r} is no address")
    if route.next_hop:
        blocks.read_host(route.next_hop)
    return blocks.read_block(route.destination)


def _unreachable(
    route: intent.Route, block: Block, pool: Pool, onward: Sequence[Block] | None
) -> str | None:
    if not route.next_hop:
        return None
    hop = blocks.read_host(route.next_hop)
    address = blocks.address_of(hop)
    if hop[0] != block[0] or address.is_unspecified or address.is_multicast or address.is_loopback:
        return "is no next hop"
    if onward is None:
        return None
    reached: Iterable[Block] = (*pool.own, *(other for other in onward if other != block))
    if not any(blocks.has(other, hop) for other in reached):
        return "lies neither in a prefix of it nor behind another route of it"
    return None
