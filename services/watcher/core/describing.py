"""Describing: the status of a NetworkServiceEndpoint or NetworkService, and what of it stays as it is.

What only ipam or the nodes can say is written once they have told everything; until then what the object
shows goes on being true. A time changes only with the word that it dates.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from schemas.grant import Collision, Pool, PoolFigures
from schemas.reasons import NO_ENDPOINT, PREFIX_COLLISION
from services.watcher.core.tally import Counts
from services.watcher.model import NetworkServiceEndpoint, OurObject, Problem
from services.watcher.wording import listed, shorten

ACCEPTED = "Accepted"
NO_PREFIXES = "NoPrefixes"
USED_AROUND = "UsedAround"  # beside a collision that harms nobody yet
FORWARDING = "Forwarding"
OURS = (ACCEPTED, PREFIX_COLLISION, FORWARDING)

_MESSAGE_BYTES = 4096
# Programs in other languages read a number of JSON as a double: an IPv6 pool may have more addresses.
MOST = 2**53 - 1

Fields = dict[str, Any]


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an object beyond itself."""

    problem: Problem | None = None  # of its spec
    counts: Counts = msgspec.field(default_factory=Counts)
    pool: Pool | None = None
    failing: str = ""  # one of the failed connections and why, in words
    settled: bool = True  # ipam has told everything: what is absent is not there
    heard: bool = True  # so have the nodes of all its connections


class _Word(msgspec.Struct, frozen=True):
    """What a condition says."""

    status: str
    reason: str
    message: str


def describe(found: OurObject, facts: Facts, *, shown: Fields, now: str) -> Fields:
    """The status that an object must have; None in it: the field must not be there."""
    told: Fields = {
        "observedGeneration": found.metadata.generation,
        "endpoints": facts.counts.endpoints,
        "clients": facts.counts.clients,
    }
    words = {ACCEPTED: _accepted(facts)}
    if isinstance(found, NetworkServiceEndpoint):
        told |= _addresses(facts.pool)
        words |= {
            PREFIX_COLLISION: _collision(facts),
            FORWARDING: _forwarding(facts),
        }
    if not facts.settled:
        told = {
            key: value if key in _OUR_OWN else shown.get(key, value) for key, value in told.items()
        }
    told["conditions"] = _conditions(found, words, facts, shown=shown, now=now)
    return told


def differs(shown: Fields, told: Fields) -> bool:
    """Whether writing would change anything."""
    return any(shown.get(key) != value for key, value in told.items())


_OUR_OWN = ("observedGeneration", "endpoints")  # known without ipam


def _addresses(pool: Pool | None) -> Fields:
    families = pool.families if pool is not None else ()
    return {
        "prefixes": [prefix for each in families for prefix in each.prefixes] or None,
        "automatic": pool.automatic if pool is not None else None,
        # A client needs one of each family.
        "free": min((_number(each.free) for each in families), default=None),
        "pools": [_figures(each) for each in families] or None,
    }


def _figures(figures: PoolFigures) -> Fields:
    return {
        "family": figures.family,
        "size": _number(figures.size),
        "used": _number(figures.used),
        "held": _number(figures.held),
        "excluded": _number(figures.excluded),
        "free": _number(figures.free),
        "largestFree": figures.largest_free,
    }


def _number(count: int) -> int:
    return min(count, MOST)


def _accepted(facts: Facts) -> _Word:
    if facts.problem is not None:
        return _Word("False", facts.problem.reason, facts.problem.message)
    trouble = facts.pool.trouble if facts.pool is not None else None
    if trouble is not None:
        told = f"it {trouble.message}; new clients are refused, correct the spec"
        return _Word("False", trouble.reason, told)
    return _Word("True", ACCEPTED, "the spec is understood")


def _collision(facts: Facts) -> _Word:
    pool = facts.pool
    if pool is None and facts.problem is not None:
        return _Word("Unknown", facts.problem.reason, "the spec is not understood")
    if pool is None:
        return _Word(
            "Unknown",
            NO_ENDPOINT,
            "no Pod that podSelector matches is there; collisions are judged once there is one",
        )
    if pool.lacks:
        told = [*map(str, pool.lacks), *_overlaps(pool)]
        remedy = "name ipam.prefixes, or free a supernet of IPAM_AUTOMATIC_PREFIXES"
        return _Word("True", NO_PREFIXES, _with_remedy(told, remedy))
    if not pool.collisions:
        return _Word("False", "NoCollision", "no prefix and no route overlaps a prefix in use")
    return _overlapping(pool)


def _overlapping(pool: Pool) -> _Word:
    """What collides, and what to do about it; where only prefixes do and enough is left, nothing."""
    prefixes = _prefixes(pool)
    # By what collides, not by what is free: clients come and go, and the reason must not with them.
    has_room = all(2 * each.excluded <= each.size for each in pool.families)
    has_routes = any(each.prefix not in prefixes for each in pool.collisions)
    remedies = []
    if any(each.prefix in prefixes for each in pool.collisions):
        left = " and ".join(f"{_number(f.free)} of {_number(f.size)}" for f in pool.families)
        todo = "nothing needs to be done while these suffice"
        todo = todo if has_room else "choose another prefix"
        remedies.append(f"what overlaps is not given, {left} addresses are free beside it: {todo}")
    if has_routes:
        remedies.append(
            "a connection with such a route is refused, choose another destination or give the prefix free"
        )
    reason = USED_AROUND if has_room and not has_routes else PREFIX_COLLISION
    return _Word("True", reason, _with_remedy(_overlaps(pool), "; ".join(remedies)))


def _with_remedy(told: list[str], remedy: str) -> str:
    return f"{listed(told, _MESSAGE_BYTES - len(remedy.encode()) - 2)}; {remedy}"


def _overlaps(pool: Pool) -> list[str]:
    prefixes = _prefixes(pool)
    return [_overlap(each, is_pool=each.prefix in prefixes) for each in pool.collisions]


def _prefixes(pool: Pool) -> set[str]:
    return {prefix for each in pool.families for prefix in each.prefixes}


def _overlap(collision: Collision, *, is_pool: bool) -> str:
    what = "prefix" if is_pool else "route"
    return f"{what} {collision.prefix} overlaps {collision.overlaps} ({collision.used_by})"


def _forwarding(facts: Facts) -> _Word:
    counts = facts.counts
    ready, failed = len(counts.connections["ready"]), len(counts.connections["failed"])
    if not counts.clients:
        return _Word("Unknown", "NoClients", "no Pod is connected")
    told = f"{ready} of {counts.clients} connections ready"
    if failed:
        told += f", {failed} failed, such as {facts.failing}"
    if ready:
        return _Word("True", "SomeFailed" if failed else "Connected", told)
    return _Word("False", "AllFailed", told) if failed else _Word("Unknown", "Connecting", told)


def _conditions(
    found: OurObject, words: dict[str, _Word], facts: Facts, *, shown: Fields, now: str
) -> list[Fields]:
    before = list(_known(shown.get("conditions")))
    by_type = {each["type"]: each for each in before}
    told = []
    for kind, word in words.items():
        was = by_type.get(kind)
        if _is_kept(kind, word, facts, has_pool_coming=bool(facts.counts.candidates)):
            told += [was] if was is not None else []
        else:
            told.append(_condition(kind, word, found.metadata.generation, was=was or {}, now=now))
    # Somebody else's may stand beside ours.
    return told + [each for each in before if each["type"] not in OURS]


def _is_kept(kind: str, word: _Word, facts: Facts, *, has_pool_coming: bool) -> bool:
    """Whether nobody can say better yet than what is shown."""
    if kind == ACCEPTED:
        return False
    if not facts.settled:
        return True
    if kind == PREFIX_COLLISION:
        return facts.pool is None and has_pool_coming
    return not facts.heard and word.status != "True"


def _known(conditions: object) -> Iterable[Fields]:
    for each in conditions if isinstance(conditions, list) else ():
        if isinstance(each, dict) and isinstance(each.get("type"), str):
            yield each


def _condition(kind: str, word: _Word, generation: int, *, was: Fields, now: str) -> Fields:
    same = was.get("status") == word.status and was.get("lastTransitionTime")
    return {
        "type": kind,
        "status": word.status,
        "observedGeneration": generation,
        "lastTransitionTime": same or now,
        "reason": word.reason,
        "message": shorten(word.message, _MESSAGE_BYTES),
    }
