"""What has become of the requests, by the watcher's own judgement; and how far anybody is behind."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cli import offering
from cli.status.model import Counts, Lag
from cli.status.survey import Follower, Told, of
from schemas import grant, intent, state
from schemas.subjects import ConnectionKey, Key, RefusalKey, ResolverKey, StatusKey
from services.watcher.core import report, spoiled
from services.watcher.core.report import Facts, Item


class Judged(msgspec.Struct, frozen=True):
    """A request, what it has come to, and how old the newest word about it is."""

    request: intent.Request
    item: Item
    facts: Facts
    age: float


def judge_all(told: Iterable[Told], now: float, why: offering.Why) -> list[Judged]:
    """Every request."""
    by_key = {each.key: each for each in told}
    found = []
    for each in of(by_key.values(), intent.Request):
        facts = facts_of(each.message, by_key, why)
        grant_at = by_key[facts.grant.key].at if facts.grant is not None else each.at
        age = max(0.0, now - max(each.at, grant_at))
        found.append(Judged(each.message, report.judge(each.message, facts), facts, age))
    return found


def facts_of(request: intent.Request, by_key: Mapping[Key, Told], why: offering.Why) -> Facts:
    """What the bus holds about a request: of this very Pod. `why` nobody serves it, objects may tell."""
    pod = request.pod
    place = (pod.namespace, pod.name, request.interface)

    def held(key: Key) -> Any:
        return by_key[key].message if key in by_key else None

    granted, refused = held(ConnectionKey(pod.node, *place)), held(RefusalKey(*place))
    said, resolver = (
        held(StatusKey(pod.node, *place)),
        held(ResolverKey(pod.node, pod.namespace, pod.name)),
    )
    is_granted = isinstance(granted, grant.Connection) and granted.client.pod.uid == pod.uid
    is_refused = isinstance(refused, grant.Refusal) and refused.uid == pod.uid
    refusal = None
    if is_refused and not is_granted:
        refusal = spoiled.explained(request, refused, why)
    return Facts(
        grant=granted if is_granted else None,
        refusal=refusal,
        status=said
        if isinstance(said, state.Status) and said.client and said.client.uid == pod.uid
        else None,
        resolver=resolver
        if isinstance(resolver, state.Resolver) and resolver.uid == pod.uid
        else None,
    )


def count(judged: Iterable[Judged], told: Iterable[Told]) -> Counts:
    """Requests by what has become of them, and pools."""
    states: dict[str, Counter[str]] = {"waiting": Counter(), "refused": Counter()}
    states["failed"] = Counter()
    requests = connected = 0
    for each in judged:
        requests += 1
        shown = each.item.shown
        if shown.state == "ready":
            connected += 1
        else:
            states[shown.state][shown.reason] += 1
    pools: list[grant.Pool] = [each.message for each in of(told, grant.Pool)]
    return Counts(
        requests=requests,
        connected=connected,
        **{name: dict(counter.most_common()) for name, counter in states.items()},
        pools=len(pools),
        pools_full=sum(any(not f.free for f in pool.families) for pool in pools),
        pools_colliding=sum(bool(pool.collisions) for pool in pools),
    )


def lag(judged: Iterable[Judged], followers: Iterable[Follower] | None) -> Lag:
    """Who waits for whom, and since when."""
    waiting = [each for each in judged if each.item.shown.state == "waiting"]
    unanswered = [each.age for each in waiting if each.facts.grant is None]
    unwired = [each.age for each in waiting if each.facts.grant is not None]
    return Lag(
        pending=None if followers is None else sum(each.pending for each in followers),
        unanswered=len(unanswered),
        oldest_unanswered=max(unanswered, default=None),
        unwired=len(unwired),
        oldest_unwired=max(unwired, default=None),
    )
