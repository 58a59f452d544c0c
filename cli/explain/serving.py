"""What the Pod is as an endpoint Pod: which clients it has, and whether its ends stand."""

from collections.abc import Collection
from typing import Any

from cli.explain.model import Evidence, Stage
from cli.output import few
from cli.remedies import of_reason
from schemas import grant, intent, state
from schemas.subjects import StatusKey
from services.watcher.core import specs
from services.watcher.core.describing import ACCEPTED
from services.watcher.model import NetworkServiceEndpoint, Problem


def serves(found: Evidence) -> Stage:
    """All of it in one stage; of most Pods there is nothing to say."""
    offers = _offers(found)
    refused = _refused(found, {each.endpoint for each in offers})
    if not offers and refused is None:
        return Stage(name="serves", state="none", lines=())
    lines = []
    for each in offers:
        services = ", ".join(each.network_services)
        lines.append(f"{services}, as a Pod of endpoint {found.namespace}/{each.endpoint}")
        lines += each.edited_in_vain
    connections = _connections(found)
    failing = [(c, end) for c in connections if (end := _own_end(found, c)) is None or end.reason]
    lines.append(f"connections: {len(connections)}, ready: {len(connections) - len(failing)}")
    stage = Stage(name="serves", state="ok", lines=tuple(lines))
    if refused is not None:
        name, problem = refused
        said = f"endpoint {found.namespace}/{name}: {problem.reason}: {problem.message}"
        return stage.wrong(said, of_reason(problem.reason))
    if failing:
        return _failing(stage, *failing[0])
    closed = [each.endpoint for each in offers if not each.ready]
    if closed:
        return stage.waits(
            f"the Pod is not Ready: it gets no new clients of {few(closed)}",
            f"kubectl -n {found.namespace} describe pod {found.name}",
        )
    return stage


def _failing(stage: Stage, connection: grant.Connection, end: state.EndStatus | None) -> Stage:
    client = f"{connection.client.pod.namespace}/{connection.client.pod.name}"
    what = f"its end of {client} {connection.client.interface}"
    if end is None:
        silent = f"node {connection.server.pod.node} has said nothing of it"
        return stage.waits(f"{what}: Connecting: {silent}", of_reason("Connecting"))
    problem = f"{what}: {end.reason}: {end.message}"
    if end.state == "failed":
        return stage.wrong(problem, of_reason(end.reason))
    return stage.waits(problem, of_reason(end.reason))


def _offers(found: Evidence) -> list[intent.Endpoint]:
    """What it is an endpoint Pod of."""
    place = (found.namespace, found.name)
    return [
        each.message
        for each in found.told.values()
        if isinstance(each.message, intent.Endpoint)
        and (each.message.pod.namespace, each.message.pod.name) == place
    ]


def _refused(found: Evidence, offered: Collection[str]) -> tuple[str, Problem] | None:
    """The first endpoint of this Pod that gets no new clients for what stands in its spec, and why."""
    for each in found.endpoints:
        namespace, name = each.ref
        if namespace != found.namespace or not (name in offered or _is_meant(found, each)):
            continue
        told = next(filter(_is_refusal, each.shown.get("conditions") or ()), None)
        if told is not None:
            return name, Problem(reason=str(told["reason"]), message=str(told.get("message")))
        if isinstance(problem := specs.read_endpoint(each), Problem):
            return name, problem
    return None


def _is_refusal(condition: Any) -> bool:
    return (
        isinstance(condition, dict)
        and (condition.get("type"), condition.get("status")) == (ACCEPTED, "False")
        and bool(condition.get("reason"))
    )


def _is_meant(found: Evidence, endpoint: NetworkServiceEndpoint) -> bool:
    """Whether the labels that it asks for are the Pod's, as far as its spec can be read."""
    spec = endpoint.spec if isinstance(endpoint.spec, dict) else {}
    selector = spec.get("podSelector")
    labels = selector.get("matchLabels") if isinstance(selector, dict) else None
    own = found.pod.labels if found.pod is not None else {}
    return isinstance(labels, dict) and bool(labels) and labels.items() <= own.items()


def _connections(found: Evidence) -> list[grant.Connection]:
    """Those it serves, as granted to its own node."""
    place = (found.namespace, found.name)
    return [
        each.message
        for each in found.told.values()
        if isinstance(each.message, grant.Connection)
        and (each.message.server.pod.namespace, each.message.server.pod.name) == place
        and each.message.server.is_on(each.message.node)
    ]


def _own_end(found: Evidence, connection: grant.Connection) -> state.EndStatus | None:
    pod = connection.client.pod
    key = StatusKey(connection.node, pod.namespace, pod.name, connection.client.interface)
    told = found.told.get(key)
    said = told.message if told is not None else None
    return said.server if isinstance(said, state.Status) else None
