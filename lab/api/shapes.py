"""What the fields of our objects look like: OpenAPI schemas, and a check that names every field that is wrong.

The same dictionaries are served under /openapi/v3 (`kubectl explain`) and used to validate. Fields that are
not listed are kept: other writers may know more than we do.
"""

import re
from typing import Any

from lab.api.errors import Cause, bad_type, bad_value, not_supported, required
from lab.api.kinds import (
    EVENTS,
    NETWORK_SERVICE_ENDPOINTS,
    NETWORK_SERVICES,
    NODES,
    PODS,
    SERVICES,
    Kind,
)

Schema = dict[str, Any]

_PYTHON: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


def _object(text: str = "", *, need: tuple[str, ...] = (), **properties: Schema) -> Schema:
    schema: Schema = {"type": "object", "properties": properties}
    schema["x-kubernetes-preserve-unknown-fields"] = True
    if need:
        schema["required"] = list(need)
    return schema | ({"description": text} if text else {})


def _list(item: Schema, text: str = "") -> Schema:
    return {"type": "array", "items": item} | ({"description": text} if text else {})


def _text(text: str = "", *, one_of: tuple[str, ...] = (), pattern: str = "") -> Schema:
    schema: Schema = {"type": "string"} | ({"description": text} if text else {})
    if one_of:
        schema["enum"] = list(one_of)
    if pattern:
        schema["pattern"] = pattern
    return schema


_WORD: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer"}
_FLAG: Schema = {"type": "boolean"}
_WORDS: Schema = {"type": "object", "additionalProperties": _WORD}
_STATUS = _object("What is, written by the system.")

_DESTINATION = _object(
    destinationSelector=_WORDS | {"description": "Labels an endpoint must carry."},
    destination_selector=_WORDS,
    weight={"type": "integer", "description": "Share of the connections.", "minimum": 0},
)
_MATCH = _object(
    sourceSelector=_WORDS | {"description": "Labels a client must carry for this rule."},
    source_selector=_WORDS,
    routes=_list(_DESTINATION),
    fallthrough=_FLAG | {"description": "Try the next rule when this one finds no endpoint."},
)
_ROUTE = _object(destination=_text("Prefix reached through the interface."), nextHop=_WORD)
_ROUTE["required"] = ["destination"]

_POLICY = _object(protocol=_WORD, destinationPort=_WORD, sourcePort=_WORD, routes=_list(_ROUTE))
_POLICY["properties"]["from"] = _WORD

_NETWORK_SERVICE = _object(
    "Rules that choose the endpoint of a network service.",
    spec=_object(
        payload=_text("What the interface carries.", one_of=("IP", "ETHERNET")),
        matches=_list(_MATCH, "The first rule whose selector fits the client's labels decides."),
        allowedNamespaces=_list(_WORD, "Patterns of namespaces that may connect."),
    ),
    status=_STATUS,
)
_ENDPOINT = _object(
    "Pods that offer network services, and the pool their clients get addresses from.",
    need=("spec",),
    spec=_object(
        networkServices=_list(_WORD, "Names of the network services offered."),
        labels=_WORDS | {"description": "What rules and annotations are matched against."},
        podSelector=_object("The Pods of the namespace that are endpoints.", matchLabels=_WORDS),
        ipam=_object(
            prefixes=_list(_WORD, "Prefixes the addresses come from."),
            excludePrefixes=_list(_WORD),
            addressing=_text(one_of=("shared", "pointToPoint")),
        ),
        routes=_list(_ROUTE, "Routes given to the client."),
        policies=_list(_POLICY),
        dns=_object(servers=_list(_WORD), domains=_list(_WORD), searchDomains=_list(_WORD)),
    ),
    status=_STATUS,
)
_CONDITIONS = _list(_object(need=("type",), type=_WORD, status=_WORD))
_CONTAINER_STATUSES = _list(_object(ready=_FLAG, restartCount=_COUNT))
_ADDRESSES = _list(_object(type=_WORD, address=_WORD))
_NODE = _object(
    "A machine that runs Pods.",
    spec=_object(podCIDR=_WORD, podCIDRs=_list(_WORD), unschedulable=_FLAG),
    status=_object(conditions=_CONDITIONS, addresses=_ADDRESSES),
)
_CONTAINER = _object(
    need=("name", "image"),
    name=_text(pattern=r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"),
    image=_WORD,
    command=_list(_WORD),
    args=_list(_WORD),
    env=_list(_object(need=("name",), name=_WORD, value=_WORD)),
    ports=_list(_object(need=("containerPort",), containerPort=_COUNT, protocol=_WORD)),
)
_POD = _object(
    "Containers that share a network.",
    need=("spec",),
    spec=_object(
        need=("containers",),
        containers=_list(_CONTAINER) | {"minItems": 1},
        initContainers=_list(_CONTAINER),
        nodeName=_WORD,
        hostNetwork=_FLAG,
        restartPolicy=_text(one_of=("Always", "OnFailure", "Never")),
        terminationGracePeriodSeconds={"type": "integer", "minimum": 0},
        nodeSelector=_WORDS,
        readinessGates=_list(_object(need=("conditionType",), conditionType=_WORD)),
    ),
    status=_object(
        "What is, written by the kubelet and others.",
        phase=_WORD,
        podIP=_WORD,
        podIPs=_list(_object(ip=_WORD)),
        conditions=_CONDITIONS,
        containerStatuses=_CONTAINER_STATUSES,
        initContainerStatuses=_CONTAINER_STATUSES,
    ),
)
_SERVICE = _object(
    "A stable address for Pods.",
    spec=_object(
        type=_text(one_of=("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")),
        clusterIP=_WORD,
        selector=_WORDS,
        ports=_list(_object(need=("port",), port=_COUNT, name=_WORD, protocol=_WORD)),
    ),
    status=_STATUS,
)
_EVENT = _object(
    need=("involvedObject",),
    involvedObject=_object(),
    reason=_WORD,
    message=_WORD,
    type=_WORD,
    count=_COUNT,
)

_SHAPES: dict[str, Schema] = {
    NETWORK_SERVICES.resource: _NETWORK_SERVICE,
    NETWORK_SERVICE_ENDPOINTS.resource: _ENDPOINT,
    PODS.resource: _POD,
    NODES.resource: _NODE,
    SERVICES.resource: _SERVICE,
    EVENTS.resource: _EVENT,
}
_PLAIN: Schema = _object(data=_WORDS, spec=_object(), status=_object())
_METADATA = _object(labels=_WORDS, annotations=_WORDS, finalizers=_list(_WORD))


def shape_of(kind: Kind) -> Schema:
    """The schema of a kind, with the fields every object has."""
    own = _SHAPES.get(kind.resource, _PLAIN)
    common = {"apiVersion": _WORD, "kind": _WORD, "metadata": _METADATA}
    return own | {"properties": common | own["properties"]}


def check(kind: Kind, obj: dict[str, Any]) -> list[Cause]:
    """Every field of `obj` that has not its shape."""
    causes: list[Cause] = []
    _check(shape_of(kind), obj, "", causes)
    return causes


def _check(schema: Schema, value: Any, where: str, causes: list[Cause]) -> None:
    wanted = schema["type"]
    if not _fits(value, wanted):
        causes.append(bad_type(where, value, wanted))
    elif wanted == "object":
        _check_object(schema, value, where, causes)
    elif wanted == "array":
        if len(value) < schema.get("minItems", 0):
            causes.append(required(where))
        for number, item in enumerate(value):
            _check(schema["items"], item, f"{where}[{number}]", causes)
    else:
        _check_scalar(schema, value, where, causes)


def _fits(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):  # which Python takes for an integer
        return wanted == "boolean"
    return isinstance(value, _PYTHON[wanted])


def _check_object(schema: Schema, value: Any, where: str, causes: list[Cause]) -> None:
    prefix = f"{where}." if where else ""
    causes.extend(required(prefix + n) for n in schema.get("required", ()) if value.get(n) is None)
    for name, below in schema.get("properties", {}).items():
        if value.get(name) is not None:
            _check(below, value[name], prefix + name, causes)
    if each := schema.get("additionalProperties"):
        for name, item in value.items():
            _check(each, item, f"{prefix}{name}", causes)


def _check_scalar(schema: Schema, value: Any, where: str, causes: list[Cause]) -> None:
    if "enum" in schema and value not in schema["enum"]:
        causes.append(not_supported(where, value, schema["enum"]))
    if "minimum" in schema and value < schema["minimum"]:
        causes.append(bad_value(where, value, f"must be at least {schema['minimum']}"))
    if (pattern := schema.get("pattern")) and re.fullmatch(pattern, value) is None:
        causes.append(bad_value(where, value, f"must match the pattern {pattern}"))
