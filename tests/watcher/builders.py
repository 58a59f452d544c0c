"""Kubernetes objects as the API server writes them, small."""

from typing import Any

import msgspec

from schemas.annotation import ANNOTATION
from schemas.grant import Connection, End
from schemas.intent import PodRef, Request
from schemas.state import EndStatus, Resolver, Status, Upstream
from services.watcher import model


def a_pod(
    name: str = "client",
    *,
    namespace: str = "default",
    uid: str = "",
    asks: str | None = None,
    node: str = "node1",
    phase: str = "Running",
    ready: bool = True,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{namespace}-{name}",
        "labels": labels or {},
        "annotations": dict(annotations or {}),
    }
    if asks is not None:
        metadata["annotations"][ANNOTATION] = asks
    if more.pop("terminating", False):
        metadata["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    spec: dict[str, Any] = {"containers": [{"name": "main", "image": "none"}]}
    if node:
        spec["nodeName"] = node
    if more.pop("host_network", False):
        spec["hostNetwork"] = True
    if more.pop("gated", False):
        spec["readinessGates"] = [{"conditionType": model.CONDITION}]
    status: dict[str, Any] = {
        "phase": phase,
        "podIPs": [{"ip": ip} for ip in more.pop("ips", ())],
        "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
    }
    status["conditions"] += more.pop("conditions", [])
    assert not more, f"unknown: {more}"
    return {"metadata": metadata, "spec": spec, "status": status}


def an_object(name: str, *, namespace: str = "default", **fields: Any) -> dict[str, Any]:
    annotations = fields.pop("annotations", {})
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{namespace}-{name}",
            "annotations": annotations,
        },
        **fields,
    }


def an_endpoint(name: str = "vpn", *, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    whole = {
        "networkServices": ["my-service"],
        "podSelector": {"matchLabels": {"app": "vpn"}},
        "ipam": {"prefixes": ["172.16.1.0/24"]},
        **spec,
    }
    return an_object(name, namespace=namespace, spec=whole)


def a_node(name: str, *, ready: str | None = "True", **spec: Any) -> dict[str, Any]:
    conditions = [] if ready is None else [{"type": "Ready", "status": ready}]
    addresses = spec.pop("addresses", [])
    status = {"addresses": addresses, "conditions": conditions}
    return an_object(name, namespace="", spec=spec, status=status)


def read(kind: type[Any], written: dict[str, Any]) -> Any:
    return msgspec.convert(written, kind)


def pod(*args: Any, **fields: Any) -> model.Pod:
    found: model.Pod = read(model.Pod, a_pod(*args, **fields))
    return found


def a_grant(request: Request, *, revision: int = 1, **fields: Any) -> Connection:
    server = PodRef(namespace="default", name="vpn-0", uid="uid-vpn-0", node=request.pod.node)
    return Connection(
        node=request.pod.node,
        revision=revision,
        network_service=request.network_service,
        network_service_namespace="default",
        endpoint="vpn",
        endpoint_namespace="default",
        client=End(
            pod=request.pod,
            interface=request.interface,
            mac="02:00:00:00:00:01",
            addresses=("172.16.1.2/32",),
        ),
        server=End(
            pod=server, interface="nse-1", mac="02:00:00:00:00:02", addresses=("172.16.1.1/32",)
        ),
        **fields,
    )


def a_status(grant: Connection, *, state: Any = "ready", **fields: Any) -> Status:
    end = EndStatus(
        uid=fields.pop("uid", grant.client.pod.uid),
        state=state,
        interface=grant.client.interface,
        mac=grant.client.mac,
        addresses=grant.client.addresses,
        applied=fields.pop("applied", grant),
        **fields,
    )
    return Status(
        node=grant.node,
        namespace=grant.client.pod.namespace,
        pod=grant.client.pod.name,
        interface=grant.client.interface,
        revision=grant.revision,
        client=end,
    )


def an_upstream(grant: Connection, **fields: Any) -> Upstream:
    assert grant.dns is not None
    told: dict[str, Any] = {
        "name": f"{grant.network_service_namespace}/{grant.network_service}",
        "servers": grant.dns.servers,
        "domains": grant.dns.domains,
        "search_domains": grant.dns.search_domains,
        "interface": grant.client.interface,
        "revision": grant.revision,
    }
    return Upstream(**{**told, **fields})


def a_resolver(*grants: Connection, state: Any = "serving", **fields: Any) -> Resolver:
    """What the node's dns service says once it serves all of these."""
    pod = grants[0].client.pod
    cluster = Upstream(name="cluster", servers=("10.96.0.10",))
    told: dict[str, Any] = {
        "uid": pod.uid,
        "mode": "owned",
        "upstreams": (cluster, *map(an_upstream, grants)),
    }
    return Resolver(
        node=grants[0].node,
        namespace=pod.namespace,
        pod=pod.name,
        state=state,
        **{**told, **fields},
    )
