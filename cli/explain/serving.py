"""What the Pod is as an endpoint Pod: which clients it has, and whether its ends stand."""

from cli.explain.model import Evidence, Stage
from cli.output import few
from cli.remedies import of_reason
from schemas import grant, intent, state
from schemas.subjects import StatusKey


def serves(found: Evidence) -> Stage:
    """All of it in one stage; of most Pods there is nothing to say."""
    offers = _offers(found)
    if not offers:
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
