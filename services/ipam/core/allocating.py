"""Addresses for one connection out of its endpoint's pool, clear of everything that its two Pods use."""

from collections.abc import Collection, Mapping

import msgspec

from schemas import intent
from schemas.grant import Connection
from schemas.reasons import PREFIX_COLLISION
from schemas.subjects import RequestKey
from services.ipam.core import blocks, reach
from services.ipam.core.holdings import ObjectKey
from services.ipam.core.pool import Pool
from services.ipam.core.reach import Problem
from services.ipam.core.spaces import Blocked, Pair, Space
from services.ipam.core.state import State


class Wish(msgspec.Struct, frozen=True):
    """What is asked of a pool, and what is to be kept if possible."""

    request: intent.Request
    key: RequestKey
    endpoint: intent.Endpoint
    standing: Connection | None  # between these very Pods
    is_readdressing: bool = False

    @property
    def object(self) -> ObjectKey:
        return self.endpoint.pod.namespace, self.endpoint.endpoint


def allocate(state: State, pool: Pool, wish: Wish) -> dict[int, Pair] | Problem:
    """A pair of every family, those it has or last had if nothing stands against them."""
    silent = state.registry.nodes_of(wish.object).keys() & state.silent if state.silent else ()
    preferred = _preferred(state, wish)
    if silent and wish.standing is not None and preferred:
        return preferred
    is_automatic = bool(state.automatic.given(wish.object))
    pairs: dict[int, Pair] = {}
    fallen_away: Problem | None = None
    for family in _families(pool, wish, preferred, is_automatic=is_automatic):
        found = _pair(state, pool.spaces[family], wish, preferred.get(family), silent)
        if isinstance(found, Pair):
            pairs[family] = found
        elif is_automatic and wish.standing is None and _is_swallowed(found):
            fallen_away = fallen_away or found
        else:
            return found
    return pairs or fallen_away or {}


def _families(
    pool: Pool, wish: Wish, preferred: Mapping[int, Pair], *, is_automatic: bool
) -> list[int]:
    """All of the pool. Of carved prefixes, which come and go with their supernets, what stands keeps those it has."""
    spaces = pool.spaces
    if wish.standing is None:
        return list(spaces)
    # Nobody's address changes when prefixes are written in another order.
    families = list(preferred if preferred.keys() == spaces.keys() else spaces)
    kept = [f for f in families if f in preferred and spaces[f].owns(preferred[f])]
    if not is_automatic or not kept:
        return families
    needed = reach.families_of(wish.endpoint)
    return [f for f in families if f in kept or f in needed]


def _pair(
    state: State, space: Space, wish: Wish, pair: Pair | None, silent: Collection[str]
) -> Pair | Problem:
    blocked = _blocked(state, wish, space.family)
    if pair is not None and not _may_keep(state, wish, space, pair, blocked):
        pair = space.with_endpoint_address(wish.key, pair.client, blocked)
    if silent and not (pair and all(space.has(wish.key, number) for number in pair)):
        return Problem("NodeSilent", _silent(sorted(silent)), is_general=True)
    return pair or _new(state, space, wish, blocked) or _exhausted(state, space, wish)


def _may_keep(state: State, wish: Wish, space: Space, pair: Pair, blocked: Blocked) -> bool:
    """What stands is not taken away by prefixes that came to be in use later, unless it is to be given up."""
    if not space.may_have(wish.key, pair, blocked):
        return False
    if wish.standing is None:
        return not space.is_excluded(pair)
    return not wish.is_readdressing or not any(
        state.exclusions.hard_of_host((space.family, number)) for number in pair
    )


def _new(state: State, space: Space, wish: Wish, blocked: Blocked) -> Pair | None:
    pair = space.next_pair(blocked)
    if pair is not None or not (space.is_swallowed() or wish.is_readdressing):
        return pair
    # Of a carved prefix others took the larger part, or what is to be given up here: carve one more.
    if space.free >= space.needed() or not state.pools.extend(wish.object, space.family):
        return None
    return state.pool(wish.endpoint).spaces[space.family].next_pair(blocked)


def _preferred(state: State, wish: Wish) -> dict[int, Pair]:
    """Addresses by family that this (namespace, pod, interface) has or last had of this endpoint's object.

    Not what a client on another node has, or still has to take down: both Pods could be alive.
    """
    key, node = wish.key, wish.request.pod.node
    holding = state.last_known(key)
    standing = wish.standing
    if standing is not None and key not in state.grants:
        # Adopted as it was reported.
        pairs = zip(standing.server.addresses, standing.client.addresses, strict=False)
        hosts = [(blocks.read_host(server), blocks.read_host(client)) for server, client in pairs]
        return {server[0]: Pair(server[1], client[1]) for server, client in hosts}
    if holding is None or holding.object != wish.object:
        return {}
    granted = state.grants.get(key)
    if granted is None or granted.client.pod.node != node:
        elsewhere = [held.node for held in state.held(key) if held.node in held.nodes]
        if granted is not None:
            elsewhere.append(granted.client.pod.node)
        if any(other != node for other in elsewhere):
            return {}
    return {
        server[0]: Pair(server[1], client[1])
        for server, client in zip(holding.server, holding.client, strict=False)
    }


def _blocked(state: State, wish: Wish, family: int) -> Blocked:
    """What this connection's two Pods use already; with their own addresses, that the cluster gave them."""
    client, server, key, object_ = (
        wish.request.pod,
        wish.endpoint.pod,
        wish.key,
        wish.object,
    )
    ips = set(blocks.read_hosts((*client.ips, *server.ips)))
    used = state.pods.blocked_to

    def blocked_to(number: int) -> int | None:
        if (family, number) in ips:
            return number
        to = used(client.uid, family, number, but=key)
        return to if to is not None else used(server.uid, family, number, but=object_)

    return blocked_to


def _is_swallowed(problem: Problem) -> bool:
    return problem.code == PREFIX_COLLISION and problem.is_general


def _silent(nodes: list[str]) -> str:
    named = ", ".join(nodes[:3]) + (f" and {len(nodes) - 3} more" if len(nodes) > 3 else "")
    return f"has Pods on node {named}, which has not told yet what is in use there: no new addresses until it has"


def _exhausted(state: State, space: Space, wish: Wish) -> Problem:
    """Full, or swallowed by prefixes in use? The user mends these in different places."""
    names = ", ".join(map(blocks.show, space.own))
    if space.free >= space.needed():
        why = f"has {_counted(space.free)} of {names} free, but for this Pod none that {_user(state, space, wish)}"
        return Problem(PREFIX_COLLISION, why, remedy=reach.ONE_OF_TWO)
    if space.is_swallowed():
        found = [
            f"{blocks.show(own)} overlaps {use}"
            for own in space.own
            if (use := state.exclusions.overlapping(own)) is not None
        ]
        return Problem(
            PREFIX_COLLISION,
            f"has none of {_counted(space.size)} left outside of prefixes in use: {'; '.join(found[:3])}",
            is_general=True,
        )
    too_small = reach.too_small(space)
    if too_small is not None:
        return too_small
    # Those given back count as taken: when a node confirms elsewhere, the text stays as it is.
    numbers = f"{space.used + space.held} of {_counted(space.size)} taken"
    if space.excluded:
        numbers += f", {space.excluded} in use elsewhere"
    return Problem("PoolExhausted", f"pool {names} is full: {numbers}", is_general=True)


def _user(state: State, space: Space, wish: Wish) -> str:
    """What keeps free addresses from this very pair of Pods."""
    for pod, but in ((wish.request.pod, wish.key), (wish.endpoint.pod, wish.object)):
        for own in space.own:
            user = state.pods.overlapping(pod.uid, own, but=but)
            if user is not None:
                return f"{user} leaves to it"
    return "the two Pods' own addresses leave to it"


def _counted(number: int) -> str:
    """`1 address`, `2 addresses`."""
    return f"{number} address" + ("" if number == 1 else "es")
