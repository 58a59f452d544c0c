"""What a pool says of itself: figures per family, and what collides."""

from itertools import islice

from schemas import grant, intent
from services.ipam.core import blocks, reach
from services.ipam.core.blocks import Block
from services.ipam.core.exclusions import Exclusions
from services.ipam.core.holdings import ObjectKey
from services.ipam.core.pool import Pool
from services.ipam.core.spaces import Space

MOST_COLLISIONS = 8  # told of a pool; whoever mends these sees the next ones


def figures(
    object_: ObjectKey,
    pool: Pool,
    endpoint: intent.Endpoint | None,
    exclusions: Exclusions,
    *,
    is_automatic: bool,
    lacks: reach.Lacks,
) -> grant.Pool:
    """The message about a pool. `endpoint`: one of its Pods, for the routes; None: they are gone."""
    return grant.Pool(
        namespace=object_[0],
        endpoint=object_[1],
        families=tuple(map(_family, pool.spaces.values())),
        automatic=is_automatic,
        collisions=_collisions(pool, endpoint, exclusions),
        lacks=tuple(lacks),
        trouble=_trouble(pool, endpoint, lacks),
    )


def _trouble(
    pool: Pool, endpoint: intent.Endpoint | None, lacks: reach.Lacks
) -> grant.Trouble | None:
    problem = reach.trouble_of(endpoint, pool, lacks) if endpoint is not None else None
    if problem is None:
        return None
    return grant.Trouble(reason=problem.code, message=problem.text)


def _family(space: Space) -> grant.PoolFigures:
    return grant.PoolFigures(
        family=space.family,
        prefixes=tuple(map(blocks.show, space.own)),
        size=space.size + space.left_out,
        used=space.used,
        held=space.held,
        excluded=space.excluded + space.left_out,
        free=space.free,
        largest_free=space.largest_free(),
    )


def _collisions(
    pool: Pool, endpoint: intent.Endpoint | None, exclusions: Exclusions
) -> tuple[grant.Collision, ...]:
    routes = _routes(endpoint) if endpoint is not None else ()
    colliding = (
        grant.Collision(prefix=blocks.show(own), overlaps=str(use.prefix), used_by=use.by)
        for own, is_pool in [*((own, True) for own in pool.own), *((r, False) for r in routes)]
        for use in exclusions.hard(own)
        # What the endpoint's own spec leaves out does not collide.
        if not is_pool or pool.spaces[own[0]].could_give(own, blocks.of_prefix(use.prefix))
    )
    return tuple(dict.fromkeys(islice(colliding, MOST_COLLISIONS)))


def _routes(endpoint: intent.Endpoint) -> list[Block]:
    """Declared routes that lead to a prefix. What is none is told where it is asked for."""
    routes = [*endpoint.routes, *(r for policy in endpoint.policies for r in policy.routes)]
    found = []
    for route in routes:
        try:
            block = blocks.read_block(route.destination)
        except ValueError:
            continue
        if block[2]:
            found.append(block)
    return found
