"""What the kernels of both nodes have of a connection, as their plumbers say."""

from collections.abc import Iterator
from typing import Any

import msgspec

from cli.explain.model import Evidence, Stage
from cli.output import few
from cli.plumb import describe_actual
from cli.remedies import Place, of_reason
from schemas import grant, intent, live, state
from schemas.subjects import AliveKey, StatusKey
from services.watcher.core import report
from services.watcher.core.report import Facts, Item


def plumbed(found: Evidence, request: intent.Request, facts: Facts, place: Place) -> Stage:
    """One connection in the kernel."""
    granted = facts.grant
    assert granted is not None
    answer = _plumber_says(found, granted)
    silent = _silent(found, granted)
    lines = [_actual(answer) if answer is not None else _said(found, facts, granted.node)]
    lines += _details(answer or {})
    lines += _other_end(found, granted)
    lines += [
        f"node {node}: no heartbeat of its plumber: its words are of before" for node in silent
    ]
    stage = Stage(name="plumbed", state="ok", lines=tuple(lines))
    link = msgspec.structs.replace(facts, grant=msgspec.structs.replace(granted, dns=None))
    item = report.judge(request, link)
    if not item.ready:
        return _not_ready(
            stage,
            item,
            place.start("plumber", silent[0]) if silent else "",
            place.see("plumber", granted.node),
        )
    if silent:
        return stage.wrong(
            f"no heartbeat of the plumber of {few(silent)}: the link goes on, changes wait",
            place.start("plumber", silent[0]),
        )
    differences = (answer or {}).get("differences", ())
    if differences:
        return stage.wrong(
            f"the kernel differs from the grant: {differences[0]}",
            f"the plumber repairs it within ten seconds; else {place.see('plumber', granted.node)}",
        )
    return stage


def _details(answer: Any) -> Iterator[str]:
    for each in answer.get("differences", ()):
        yield f"difference: {each}"
    if answer.get("last_error"):
        yield f"last error: {answer['last_error']}"
    if answer.get("repaired"):
        yield f"repaired: {answer['repaired']}"


def _not_ready(stage: Stage, item: Item, silent: str, node: str) -> Stage:
    """`silent`, `node`: how to see the plumber that says nothing, and the node's own."""
    problem = f"{item.shown.reason}: {item.message}"
    if item.shown.state == "failed":
        return stage.wrong(problem, silent or of_reason(item.shown.reason))
    return stage.waits(problem, silent or node)


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
