"""From what was found to what it means, stage by stage. Pure: the place comes as an argument.

Each stage says what it has, and where that is not what the one before wanted, why and what to do.
"""

from collections.abc import Iterator, Sequence

import msgspec

from cli import offering
from cli.explain import choosing
from cli.explain.misspelt import misspelt
from cli.explain.model import Evidence, Explanation, Item, Stage
from cli.explain.plumbed import plumbed
from cli.explain.resolved import resolved
from cli.explain.serving import serves
from cli.explain.told import deafness, told_to_pod
from cli.explain.words import ends, labels, routes, scope
from cli.remedies import Place, of_reason
from cli.status.counting import facts_of
from schemas import grant, intent
from schemas.reasons import PREFIX_COLLISION
from schemas.subjects import ConnectionKey, LeaseKey, RequestKey
from services.watcher.core.requests import Wanted, annotation_of, wanted


def explain(found: Evidence, place: Place) -> Explanation:
    """A Pod from its annotation to the kernel."""
    asks = _wanted(found)
    asked = _asked(found, asks)
    why = offering.why_of(found.endpoints, (each.message for each in found.told.values()))
    items = tuple(_item(found, each, asks, place, why) for each in _interfaces(found, asks))
    server = serves(found)
    told = told_to_pod(found, asks, place, why)
    uid, node = _identity(found)
    first = next(
        (
            (f"{where}{stage.name}: {stage.problem}", stage.remedy)
            for where, stage in _in_order(asked, items, server, told)
            if not stage.is_well
        ),
        ("", ""),
    )
    return Explanation(
        pod=f"{found.namespace}/{found.name}",
        node=node,
        uid=uid,
        well=not first[0],
        first=first[0],
        remedy=first[1],
        asked=asked,
        items=items,
        serves=server,
        told=told,
    )


def is_known(found: Evidence) -> bool:
    """Whether anybody knows the Pod."""
    return found.pod is not None or bool(_identity(found)[0])


def _in_order(
    asked: Stage, items: tuple[Item, ...], server: Stage, told: Stage
) -> Iterator[tuple[str, Stage]]:
    yield "", asked
    for item in items:
        for stage in item.stages:
            yield f"{item.interface}: ", stage
    yield "", server
    yield "", told


def _requests(found: Evidence) -> dict[str, intent.Request]:
    return {
        key.interface: each.message
        for key, each in found.told.items()
        if isinstance(key, RequestKey) and isinstance(each.message, intent.Request)
    }


def _identity(found: Evidence) -> tuple[str, str]:
    """(uid, node)"""
    if found.pod is not None:
        return found.pod.uid, found.pod.node
    for each in found.told.values():
        pod = getattr(each.message, "pod", None)
        if isinstance(pod, intent.PodRef) and (pod.namespace, pod.name) == (
            found.namespace,
            found.name,
        ):
            return pod.uid, pod.node
    for each in found.told.values():
        if isinstance(each.message, grant.Connection):
            pod = each.message.client.pod
            if (pod.namespace, pod.name) == (found.namespace, found.name):
                return pod.uid, pod.node
    return "", ""


def _wanted(found: Evidence) -> Wanted | None:
    """What its annotation asks for; None: there is nobody to ask for the annotation."""
    if found.pod is None:
        return None
    standing = _requests(found).values()
    ready = all(each.pod.node_ready for each in standing)  # as the watcher has told
    return wanted(found.pod, found.home, node_ready=ready, standing=standing)


def _interfaces(found: Evidence, asks: Wanted | None) -> list[str]:
    """In the order of the annotation; what it does not ask for comes last."""
    written = [each.interface for each in asks.requests] if asks else []
    own = {key.interface for key in _grants(found)}
    return list(dict.fromkeys((*written, *sorted(_requests(found).keys() | own))))


def _grants(found: Evidence) -> dict[ConnectionKey, grant.Connection]:
    """Those in which it is the client, without the copies for endpoints' nodes."""
    place = (found.namespace, found.name)
    return {
        key: each.message
        for key, each in found.told.items()
        if isinstance(key, ConnectionKey)
        and (key.namespace, key.pod) == place
        and isinstance(each.message, grant.Connection)
        and each.message.client.is_on(key.node)
    }


def _asked(found: Evidence, asks: Wanted | None) -> Stage:
    """The annotation as a whole."""
    if found.pod is None or asks is None:
        why = found.api_note or "the Pod is gone from Kubernetes; what is left of it is below"
        return Stage(name="asked", state="unknown", lines=(f"annotation not known: {why}",))
    text = annotation_of(found.pod, found.home)
    if asks.problem is not None:
        return Stage(name="asked", state="ok", lines=(f"annotation: {text}",)).wrong(
            f"{asks.problem.reason}: {asks.problem.message}", of_reason(asks.problem.reason)
        )
    unread = [*_unread(found)]
    if not (text or "").strip():
        return _asks_nothing(unread if text is None else [])
    own = text == annotation_of(found.pod, None)
    holds = f"annotation of {'the Pod' if own else f'Namespace {found.namespace}'}: {text}"
    lines = (holds, *(said for said, _ in unread))
    if found.pod.terminal:
        return Stage(name="asked", state="none", lines=(*lines, "the Pod has ended"))
    stage = Stage(name="asked", state="ok", lines=lines)
    if not found.pod.node:
        return stage.waits(
            "the Pod has no node yet: nothing is asked for before it has one",
            f"kubectl -n {found.namespace} describe pod {found.name}",
        )
    return stage


def _asks_nothing(unread: Sequence[tuple[str, str]]) -> Stage:
    stage = Stage(name="asked", state="none", lines=("asks for no network service",))
    for said, meant in unread:
        return stage.wrong(said, f"rename it to {meant}; of a Deployment's Pod in its template")
    return stage


def _unread(found: Evidence) -> Iterator[tuple[str, str]]:
    """Annotations that were probably meant for us, in words, and what was meant."""
    for whose, holder in (("the Pod", found.pod), (f"Namespace {found.namespace}", found.home)):
        for key, meant in misspelt(holder.annotations if holder is not None else ()):
            yield f"nobody reads annotation {key} of {whose}; did you mean {meant}?", meant


def _item(
    found: Evidence, interface: str, asks: Wanted | None, place: Place, why: offering.Why
) -> Item:
    published = _requests(found).get(interface)
    written = next((r for r in asks.requests if r.interface == interface), None) if asks else None
    granted = next((c for k, c in _grants(found).items() if k.interface == interface), None)
    request = written or published
    if request is None:
        assert granted is not None
        return _left(interface, granted, place)
    asked = _published(found, written, published, place, is_known=asks is not None)
    facts = facts_of(request, found.told, why)
    stages = (asked, *choosing.chosen(found, request, facts, place))
    if facts.grant is not None:
        wired = plumbed(found, request, facts, place), resolved(found, request, facts, place)
        # What does not work comes first: a connection that is covered does.
        works = all(each.is_well for each in wired)
        stages += (_granted(facts.grant, works=works), *wired)
    return Item(interface=interface, network_service=request.network_service, stages=stages)


def _left(interface: str, granted: grant.Connection, place: Place) -> Item:
    stage = Stage(name="granted", state="ok", lines=(ends(granted),)).waits(
        "nobody asks for it any more, and it is not released yet", place.see("ipam")
    )
    return Item(interface=interface, network_service=granted.network_service, stages=(stage,))


def _published(
    found: Evidence,
    written: intent.Request | None,
    published: intent.Request | None,
    place: Place,
    *,
    is_known: bool,
) -> Stage:
    """Whether the bus asks for what the annotation does."""
    request = written or published
    assert request is not None
    what = f"network service {request.network_service}{scope(request)}{labels(request.labels)}"
    stage = Stage(name="asked", state="ok", lines=(what,))
    if not is_known or written == published or _same(written, published):
        return stage
    problem = "the watcher has not put this on the bus"
    if written is None:
        problem = "the annotation does not ask for it any more, and the watcher has not said so"
    elif published is not None:
        problem = "the bus asks for it as it was before: the watcher has not told the change"
    if LeaseKey("watcher") not in found.told:
        problem += ", and nobody leads watcher"
    elif deaf := deafness(found, place):
        return stage.waits(f"{problem}, and {deaf}", place.see_api())
    return stage.waits(problem, place.see("watcher"))


def _same(one: intent.Request | None, other: intent.Request | None) -> bool:
    """The same wish of the same Pod: what its node is like is told by the bus alone."""
    if one is None or other is None or one.pod.uid != other.pod.uid:
        return False
    return msgspec.structs.replace(one, pod=other.pod) == other


def _granted(granted: grant.Connection, *, works: bool) -> Stage:
    lines = [ends(granted), *routes(granted)]
    if granted.readdressed:
        lines.append(f"has other addresses than before: {granted.readdressed}")
    stage = Stage(name="granted", state="ok", lines=tuple(lines))
    if not granted.covered:
        return stage
    stays = f"{PREFIX_COLLISION}: it stays, for nothing else is free, although {granted.covered}"
    if works:
        return stage.wrong(stays, of_reason(PREFIX_COLLISION))
    return msgspec.structs.replace(stage, lines=(*stage.lines, stays))
