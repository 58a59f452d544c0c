"""From what was found to what it means, stage by stage. Pure: the place comes as an argument.

Each stage says what it has, and where that is not what the one before wanted, why and what to do.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from cli.explain import choosing
from cli.explain.model import Evidence, Explanation, Item, Stage
from cli.explain.resolved import resolved
from cli.explain.serving import serves
from cli.explain.told import told_to_pod
from cli.explain.words import ends, labels, routes, scope
from cli.output import few
from cli.plumb import describe_actual
from cli.remedies import Place, of_reason
from cli.status.counting import facts_of
from schemas import grant, intent, live, state
from schemas.subjects import AliveKey, ConnectionKey, LeaseKey, RequestKey, StatusKey
from services.watcher.core import report
from services.watcher.core.report import Facts
from services.watcher.core.requests import Wanted, annotation_of, wanted


def explain(found: Evidence, place: Place) -> Explanation:
    """A Pod from its annotation to the kernel."""
    asks = _wanted(found)
    asked = _asked(found, asks)
    items = tuple(_item(found, interface, asks, place) for interface in _interfaces(found, asks))
    server = serves(found)
    told = told_to_pod(found, asks, place)
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
    return wanted(found.pod, found.home, node_ready=True, standing=standing)


def _interfaces(found: Evidence, asks: Wanted | None) -> list[str]:
    own = {key.interface for key in _grants(found)}
    names = _requests(found).keys() | own
    return sorted(names | {each.interface for each in asks.requests} if asks else names)


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
        return Stage(
            name="asked",
            state="wrong",
            lines=(f"annotation: {text}",),
            problem=f"{asks.problem.reason}: {asks.problem.message}",
            remedy=of_reason(asks.problem.reason),
        )
    if not (text or "").strip():
        return Stage(name="asked", state="none", lines=("asks for no network service",))
    own = text == annotation_of(found.pod, None)
    lines = (f"annotation of {'the Pod' if own else f'Namespace {found.namespace}'}: {text}",)
    if found.pod.terminal:
        return Stage(name="asked", state="none", lines=(*lines, "the Pod has ended"))
    if not found.pod.node:
        return Stage(
            name="asked",
            state="waits",
            lines=lines,
            problem="the Pod has no node yet: nothing is asked for before it has one",
            remedy=f"kubectl -n {found.namespace} describe pod {found.name}",
        )
    return Stage(name="asked", state="ok", lines=lines)


def _item(found: Evidence, interface: str, asks: Wanted | None, place: Place) -> Item:
    published = _requests(found).get(interface)
    written = next((r for r in asks.requests if r.interface == interface), None) if asks else None
    granted = next((c for k, c in _grants(found).items() if k.interface == interface), None)
    request = written or published
    if request is None:
        assert granted is not None
        return _left(interface, granted, place)
    asked = _published(found, written, published, place, is_known=asks is not None)
    facts = facts_of(request, found.told)
    stages = (
        asked,
        *choosing.chosen(found, request, facts, place),
        *((_granted(facts.grant),) if facts.grant is not None else ()),
    )
    if facts.grant is not None:
        stages += (
            _plumbed(found, request, facts, place),
            resolved(found, request, facts, place),
        )
    return Item(interface=interface, network_service=request.network_service, stages=stages)


def _left(interface: str, granted: grant.Connection, place: Place) -> Item:
    stage = Stage(
        name="granted",
        state="waits",
        lines=(ends(granted),),
        problem="nobody asks for it any more, and it is not released yet",
        remedy=place.see("ipam"),
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
    if not is_known or written == published or (_same(written, published)):
        return Stage(name="asked", state="ok", lines=(what,))
    problem = "the watcher has not put this on the bus"
    if written is None:
        problem = "the annotation does not ask for it any more, and the watcher has not said so"
    elif published is not None:
        problem = "the bus asks for it as it was before: the watcher has not told the change"
    if LeaseKey("watcher") not in found.told:
        problem += ", and nobody leads watcher"
    return Stage(
        name="asked", state="waits", lines=(what,), problem=problem, remedy=place.see("watcher")
    )


def _same(one: intent.Request | None, other: intent.Request | None) -> bool:
    """The same wish of the same Pod: what its node is like is told by the bus alone."""
    if one is None or other is None or one.pod.uid != other.pod.uid:
        return False
    return msgspec.structs.replace(one, pod=other.pod) == other


def _granted(granted: grant.Connection) -> Stage:
    lines = [ends(granted), *routes(granted)]
    if granted.readdressed:
        lines.append(f"has other addresses than before: {granted.readdressed}")
    return Stage(name="granted", state="ok", lines=tuple(lines))


def _plumbed(found: Evidence, request: intent.Request, facts: Facts, place: Place) -> Stage:
    """What the node's kernel has of it."""
    granted = facts.grant
    assert granted is not None
    answer = _plumber_says(found, granted)
    lines = [_actual(answer) if answer is not None else _said(found, facts, granted.node)]
    lines += [f"difference: {each}" for each in (answer or {}).get("differences", ())]
    if answer is not None and answer.get("last_error"):
        lines.append(f"last error: {answer['last_error']}")
    if answer is not None and answer.get("repaired"):
        lines.append(f"repaired: {answer['repaired']}")
    lines += _other_end(found, granted)
    silent = _silent(found, granted)
    lines += [
        f"node {node}: no heartbeat of its plumber: its words are of before" for node in silent
    ]
    link = msgspec.structs.replace(facts, grant=msgspec.structs.replace(granted, dns=None))
    item = report.judge(request, link)
    if not item.ready:
        remedy = of_reason(item.shown.reason)
        if silent:
            remedy = place.start("plumber", silent[0])
        is_failed = item.shown.state == "failed"
        return Stage(
            name="plumbed",
            state="wrong" if is_failed else "waits",
            lines=tuple(lines),
            problem=f"{item.shown.reason}: {item.message}",
            remedy=remedy if is_failed or silent else place.see("plumber", granted.node),
        )
    if silent:
        return Stage(
            name="plumbed",
            state="wrong",
            lines=tuple(lines),
            problem=f"no heartbeat of the plumber of {few(silent)}: the link goes on, changes wait",
            remedy=place.start("plumber", silent[0]),
        )
    differences = (answer or {}).get("differences", ())
    if differences:
        return Stage(
            name="plumbed",
            state="wrong",
            lines=tuple(lines),
            problem=f"the kernel differs from the grant: {differences[0]}",
            remedy="the plumber repairs it within ten seconds; else "
            + place.see("plumber", granted.node),
        )
    return Stage(name="plumbed", state="ok", lines=tuple(lines))


def _plumber_says(found: Evidence, granted: grant.Connection) -> Any | None:
    for answer in found.plumbers:
        for each in answer["connections"]:
            if each["connection"] == granted.key.subject and each["role"] == "client":
                return each
    return None


def _actual(answer: Any) -> str:
    told = describe_actual(answer["actual"], "client")
    end = (answer["actual"] or {}).get("client")
    if end is None:
        return f"kernel: {told}"
    _, _, received, sent = end["traffic"]
    return f"kernel: {told}; {received} packets received, {sent} sent"


def _said(found: Evidence, facts: Facts, node: str) -> str:
    why = (
        f"; its plumber cannot be asked from here: {found.plumber_note}"
        if found.plumber_note
        else ""
    )
    end = facts.status.client if facts.status is not None else None
    if facts.status is None or end is None:
        return f"node {node} has said nothing of it{why}"
    return f"node {node} said {end.state} at revision {facts.status.revision}{why}"


def _other_end(found: Evidence, granted: grant.Connection) -> list[str]:
    pod, node = granted.client.pod, granted.server.pod.node
    key = StatusKey(node, pod.namespace, pod.name, granted.client.interface)
    status = found.told.get(key)
    said = status.message if status is not None else None
    if not isinstance(said, state.Status) or said.server is None:
        return [f"other end: node {node} has said nothing of it"]
    why = f", {said.server.reason}: {said.server.message}" if said.server.reason else ""
    return [f"other end: node {node} said {said.server.state}{why}"]


def _silent(found: Evidence, granted: grant.Connection) -> list[str]:
    nodes = dict.fromkeys((granted.client.pod.node, granted.server.pod.node))
    return [node for node in nodes if not isinstance(_message(found, AliveKey(node)), live.Alive)]


def _message(found: Evidence, key: AliveKey) -> Any:
    told = found.told.get(key)
    return told.message if told is not None else None
