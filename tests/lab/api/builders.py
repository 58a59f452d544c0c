"""Small objects for the tests of the lab's API."""

from typing import Any

Obj = dict[str, Any]


def a_pod(name: str = "web", *, namespace: str = "default", node: str = "", **metadata: Any) -> Obj:
    spec: Obj = {"containers": [{"name": "main", "image": "busybox"}]}
    if node:
        spec["nodeName"] = node
    return {"metadata": {"name": name, "namespace": namespace} | metadata, "spec": spec}


def a_config_map(name: str = "settings", *, namespace: str = "default", **metadata: Any) -> Obj:
    metadata = {"name": name, "namespace": namespace} | metadata
    return {"metadata": metadata, "data": {"key": "value"}}


def an_endpoint(name: str = "vpn", *, namespace: str = "default", **metadata: Any) -> Obj:
    spec = {"networkServices": ["vpn"], "ipam": {"prefixes": ["172.16.1.0/24"]}}
    metadata = {"name": name, "namespace": namespace} | metadata
    return {"metadata": metadata, "spec": spec}


def a_definition(plural: str = "x", *, group: str = "a.example", **schema: Any) -> Obj:
    version: Obj = {"name": "v1", "served": True, "storage": True}
    version["schema"] = {"openAPIV3Schema": {"type": "object", "properties": schema}}
    names = {"plural": plural, "kind": plural.title()}
    spec = {"group": group, "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": f"{plural}.{group}"}, "spec": spec}


def an_event(name: str = "web.1", *, namespace: str = "default", **fields: Any) -> Obj:
    involved = {"kind": "Pod", "name": "web", "namespace": namespace, "uid": "u1"}
    event = {
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": involved,
        "reason": "Connected",
        "message": "connected to vpn",
        "type": "Normal",
        "count": 1,
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    return event | fields
