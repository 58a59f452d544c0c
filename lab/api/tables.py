"""How `kubectl get` shows our kinds: columns and cells, computed by the server. Pure; `now` is an argument."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import msgspec

from lab.api import definitions, fields
from lab.api.kinds import (
    CONFIG_MAPS,
    DEFINITIONS,
    EVENTS,
    NAMESPACES,
    NEW_EVENTS,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICE_CIDRS,
    SERVICES,
    Kind,
)

Obj = dict[str, Any]
Cells = list[Any]


class Column(msgspec.Struct, frozen=True):
    """A column; `wide` ones are shown by `-o wide` only."""

    name: str
    type: str = "string"
    wide: bool = False

    @property
    def definition(self) -> Obj:
        return {
            "name": self.name,
            "type": self.type,
            "format": "name" if self.name == "Name" else "",
            "description": "",
            "priority": int(self.wide),
        }


def columns(kind: Kind, definition: Obj | None = None) -> list[Obj]:
    """`definition` is a custom kind's."""
    if definition is None:
        return [column.definition for column in _TABLES[kind][0]]
    return [
        {"format": "", "description": "", "priority": 0} | {k: c[k] for k in _TOLD & c.keys()}
        for c in definitions.columns(definition, kind)
    ]


def cells(kind: Kind, obj: Obj, now: dt.datetime, definition: Obj | None = None) -> Cells:
    if definition is None:
        return _TABLES[kind][1](obj, now)
    return [
        _cell(column, definitions.cell(column, obj), now)
        for column in definitions.columns(definition, kind)
    ]


_TOLD = frozenset({"name", "type", "format", "description", "priority"})


def _cell(column: Obj, found: Any, now: dt.datetime) -> Any:
    if column["type"] == "date":
        return age(str(found or ""), now)
    if isinstance(found, list | dict):
        return msgspec.json.encode(found).decode()
    return found


def age(stamp: str, now: dt.datetime) -> str:
    """`5m12s` since `stamp`, as coarse as kubectl says it."""
    then = fields.moment(stamp)
    return "<unknown>" if then is None else duration(int((now - then).total_seconds()))


def duration(seconds: int) -> str:
    """Seconds for people: one unit, and the next smaller one while it matters."""
    seconds = max(seconds, 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return _two(minutes, "m", seconds % 60, "s")
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return _two(hours, "h", minutes % 60, "m")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return _two(days, "d", hours % 24, "h")
    if days < 730:
        return f"{days}d"
    return _two(days // 365, "y", days % 365, "d")


def _two(large: int, unit: str, small: int, small_unit: str) -> str:
    return f"{large}{unit}" + (f"{small}{small_unit}" if small else "")


def _created(obj: Obj, now: dt.datetime) -> str:
    return age(fields.text(obj, "metadata", "creationTimestamp"), now)


def _or_none(text: str) -> str:
    return text or "<none>"


# ---- pods


def _pod(pod: Obj, now: dt.datetime) -> Cells:
    statuses = fields.items(pod, "status", "containerStatuses")
    total = len(fields.items(pod, "spec", "containers"))
    ready = sum(status.get("ready") is True for status in statuses)
    restarts = sum(status.get("restartCount", 0) for status in statuses)
    return [
        fields.name_of(pod),
        f"{ready}/{total}",
        pod_state(pod),
        str(restarts),
        _created(pod, now),
        _or_none(fields.text(pod, "status", "podIP")),
        _or_none(fields.text(pod, "spec", "nodeName")),
        _or_none(fields.text(pod, "status", "nominatedNodeName")),
        _gates(pod),
    ]


def pod_state(pod: Obj) -> str:
    """What the STATUS column says: the most telling of phase, reason and container states."""
    if fields.text(pod, "metadata", "deletionTimestamp"):
        return "Terminating"
    state = fields.text(pod, "status", "reason") or fields.text(pod, "status", "phase") or "Unknown"
    for status in fields.items(pod, "status", "containerStatuses"):
        waiting = fields.text(status, "state", "waiting", "reason")
        ended = fields.text(status, "state", "terminated", "reason")
        state = waiting or ended or state
    return state


def _gates(pod: Obj) -> str:
    gates = [
        fields.text(gate, "conditionType") for gate in fields.items(pod, "spec", "readinessGates")
    ]
    if not gates:
        return "<none>"
    conditions = fields.items(pod, "status", "conditions")
    true = {c.get("type") for c in conditions if c.get("status") == "True"}
    return f"{sum(gate in true for gate in gates)}/{len(gates)}"


# ---- nodes


def _node(node: Obj, now: dt.datetime) -> Cells:
    conditions = {
        c.get("type"): c.get("status") for c in fields.items(node, "status", "conditions")
    }
    state = {"True": "Ready", None: "Unknown"}.get(conditions.get("Ready"), "NotReady")
    if fields.part(node, "spec").get("unschedulable"):
        state += ",SchedulingDisabled"
    role = "node-role.kubernetes.io/"
    roles = sorted(n.removeprefix(role) for n in fields.labels_of(node) if n.startswith(role))
    addresses = {a.get("type"): a.get("address") for a in fields.items(node, "status", "addresses")}
    info = fields.part(node, "status", "nodeInfo")
    return [
        fields.name_of(node),
        state,
        _or_none(",".join(roles)),
        _created(node, now),
        fields.text(info, "kubeletVersion"),
        _or_none(addresses.get("InternalIP") or ""),
        _or_none(addresses.get("ExternalIP") or ""),
        fields.text(info, "osImage") or "<unknown>",
        fields.text(info, "kernelVersion") or "<unknown>",
        fields.text(info, "containerRuntimeVersion") or "<unknown>",
    ]


# ---- the others


def _service(service: Obj, now: dt.datetime) -> Cells:
    ports = [
        f"{port.get('port')}/{port.get('protocol', 'TCP')}"
        for port in fields.items(service, "spec", "ports")
    ]
    selector = fields.part(service, "spec", "selector")
    return [
        fields.name_of(service),
        fields.text(service, "spec", "type"),
        _or_none(fields.text(service, "spec", "clusterIP")),
        _or_none(fields.text(service, "spec", "externalName")),
        _or_none(",".join(ports)),
        _created(service, now),
        _or_none(",".join(f"{key}={value}" for key, value in sorted(selector.items()))),
    ]


def _namespace(namespace: Obj, now: dt.datetime) -> Cells:
    phase = fields.text(namespace, "status", "phase")
    return [fields.name_of(namespace), phase, _created(namespace, now)]


def _config_map(config_map: Obj, now: dt.datetime) -> Cells:
    size = len(fields.part(config_map, "data")) + len(fields.part(config_map, "binaryData"))
    return [fields.name_of(config_map), size, _created(config_map, now)]


def _service_account(account: Obj, now: dt.datetime) -> Cells:
    return [fields.name_of(account), len(fields.items(account, "secrets")), _created(account, now)]


def _event(event: Obj, now: dt.datetime) -> Cells:
    created = fields.text(event, "metadata", "creationTimestamp")
    first = fields.text(event, "firstTimestamp") or fields.text(event, "eventTime") or created
    last = fields.text(event, "lastTimestamp") or first
    count = event.get("count") or 1
    seen = age(last, now) + (f" (x{count} over {age(first, now)})" if count > 1 else "")
    source = fields.text(event, "source", "component") or fields.text(event, "reportingComponent")
    host = fields.text(event, "source", "host")
    involved = fields.part(event, "involvedObject")
    return [
        seen,
        fields.text(event, "type"),
        fields.text(event, "reason"),
        f"{fields.text(involved, 'kind').lower()}/{fields.text(involved, 'name')}",
        fields.text(involved, "fieldPath"),
        source + (f", {host}" if host else ""),
        fields.text(event, "message").strip(),
        age(first, now),
        count,
        fields.name_of(event),
    ]


def _service_cidr(found: Obj, now: dt.datetime) -> Cells:
    cidrs = ",".join(map(str, fields.items(found, "spec", "cidrs")))
    return [fields.name_of(found), cidrs, _created(found, now)]


def _definition(definition: Obj, _: dt.datetime) -> Cells:
    return [fields.name_of(definition), fields.text(definition, "metadata", "creationTimestamp")]


def _columns(*names: str) -> tuple[Column, ...]:
    """`+` marks a wide column, `#` a number."""
    return tuple(
        Column(name.strip("+#"), "integer" if "#" in name else "string", "+" in name)
        for name in names
    )


_EVENT_COLUMNS = _columns(
    "Last Seen", "Type", "Reason", "Object", "+Subobject", "+Source", "Message", "+First Seen"
) + _columns("+#Count", "+Name")

_TABLES: dict[Kind, tuple[tuple[Column, ...], Callable[[Obj, dt.datetime], Cells]]] = {
    PODS: (
        _columns("Name", "Ready", "Status", "Restarts", "Age", "+IP", "+Node")
        + _columns("+Nominated Node", "+Readiness Gates"),
        _pod,
    ),
    NODES: (
        _columns("Name", "Status", "Roles", "Age", "Version", "+Internal-IP", "+External-IP")
        + _columns("+OS-Image", "+Kernel-Version", "+Container-Runtime"),
        _node,
    ),
    SERVICES: (
        _columns("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", "+Selector"),
        _service,
    ),
    NAMESPACES: (_columns("Name", "Status", "Age"), _namespace),
    CONFIG_MAPS: (_columns("Name", "#Data", "Age"), _config_map),
    SERVICE_ACCOUNTS: (_columns("Name", "#Secrets", "Age"), _service_account),
    EVENTS: (_EVENT_COLUMNS, _event),
    NEW_EVENTS: (_EVENT_COLUMNS, _event),
    SERVICE_CIDRS: (_columns("Name", "CIDRs", "Age"), _service_cidr),
    DEFINITIONS: ((Column("Name"), Column("Created At", "date")), _definition),
}
