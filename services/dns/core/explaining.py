"""Who would be asked for a name, and why; what each said last and how it is. For people."""

import msgspec

from schemas.state import Upstream
from services.dns.core import searching, wire
from services.dns.core.health import State
from services.dns.core.plans import Plans, places
from services.dns.core.queries import Query, plain_answer
from services.dns.core.scope import Scope
from services.dns.core.servers import Where
from services.dns.model import Profile


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One server."""

    upstream: str
    server: str
    interface: str  # `cluster`, or that of the connection
    asked: bool  # for this name
    why: str
    state: str = "unused"  # else what it is thought to be; `unheard`: it never answered, which is no proof yet
    unanswered: int = 0  # queries in a row
    last: str = ""  # what its latest answer was worth, for whatever name
    last_seconds_ago: float | None = None
    rtt_ms: float | None = None


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One name of one Pod. `searched`: asked if nobody knows the name as it is, nor as the Pod's `own_list` has it."""

    name: str
    servers: tuple[Asked, ...]
    searched: tuple[str, ...] = ()
    own_list: tuple[str, ...] = ()


def explain(profile: Profile, plans: Plans, name: str, now: float) -> Explained:
    """What would happen to a query for this name. Raises ValueError for what is no name."""
    labels = wire.wire_name(name)
    if labels is None:
        raise ValueError(f"{name!r} is no name: labels of 1 to 63 ASCII characters between dots")
    scope = Scope(profile)
    servers = tuple(
        _asked(
            plans,
            upstream,
            where,
            now,
            asked=scope.covers(upstream, labels),
            why=scope.why(upstream, labels),
        )
        for upstream in profile.upstreams
        for where in places(upstream)
    )
    question = labels + b"\0\1\0\1"
    query = Query(labels, 1, question, b"\0" * 10 + question, 512, False, plain_answer(question))
    searched = tuple(
        f"{wire.text_name(candidate.query.name)} of {candidate.upstream.name}"
        for candidate in searching.candidates(query, profile.upstreams, scope)
    )
    own = searching.own(query, profile.upstreams) if searched else ()
    return Explained(
        name=wire.text_name(labels),
        servers=servers,
        searched=searched,
        own_list=tuple(wire.text_name(each.name) for each in own),
    )


def _asked(
    plans: Plans, upstream: Upstream, where: Where, now: float, *, asked: bool, why: str
) -> Asked:
    server = plans.find(where)
    about = Asked(
        upstream=upstream.name, server=where.address, interface=where.via, asked=asked, why=why
    )
    if server is None:
        return about
    health = server.health
    heard = health.heard_at > float("-inf")
    is_thought_well = (
        health.state is State.WELL
    )  # before the first answer, too: nobody waits for less
    return msgspec.structs.replace(
        about,
        state="unheard" if is_thought_well and not heard else health.state.value,
        unanswered=health.silent_queries,
        last=server.said.name.lower() if server.said is not None else "",
        last_seconds_ago=round(now - health.heard_at, 1) if heard else None,
        rtt_ms=round(health.srtt_seconds * 1000, 2) if health.srtt_seconds else None,
    )
