"""The lab's own hands in its cluster: the store as scheduler, kubelets and DNS use it.

Callbacks run after the write that caused them, in order, never inside it: so they may write themselves.
A thing that vanished meanwhile is no error: the next event says so.
"""

import asyncio
import contextlib
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from lab.api import kinds
from lab.api.errors import ApiError
from lab.api.store import Store
from lab.network import DNS_ADDRESS, KUBERNETES_ADDRESS, Node

Json = dict[str, Any]

SYSTEM_NAMESPACE = "nsm-system"
# Roles on the bus: what our services are, and two for people.
ROLES = ("watcher", "ipam", "plumber", "dns", "viewer", "admin")

_KINDS = {kind.plural: kind for kind in kinds.KINDS if not kind.stored_as}


class Cluster:
    """A store, seen by those who run Pods."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def seed(self, nodes: tuple[Node, ...]) -> None:
        """What every cluster has: its nodes, the Services of its API and its DNS, and who our services are."""
        for role in ROLES:
            self.store.create(kinds.SERVICE_ACCOUNTS, {"metadata": _account(role)})
        for node in nodes:
            self.store.create(kinds.NODES, _node(node))
        ports = [{"name": "https", "port": 443, "protocol": "TCP"}]
        self._service("default", "kubernetes", KUBERNETES_ADDRESS, ports)
        ports = [
            {"name": "dns", "port": 53, "protocol": "UDP"},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        ]
        self._service("kube-system", "kube-dns", DNS_ADDRESS, ports)

    def objects(self, plural: str, namespace: str = "") -> list[Json]:
        return self.store.objects(_KINDS[plural], namespace=namespace)

    def watch(self, plural: str, callback: Callable[[str, Json], None]) -> None:
        """Everything there is, then every change: `callback(event type, object)`."""
        loop = asyncio.get_running_loop()

        def later(event: str, obj: Json) -> None:
            loop.call_soon(callback, event, obj)

        self.store.watch(_KINDS[plural], later)

    def bind(self, pod: Json, node: str) -> None:
        with contextlib.suppress(ApiError):  # bound or deleted meanwhile
            self.store.bind(pod["metadata"]["namespace"], pod["metadata"]["name"], node)

    def change_status(self, plural: str, obj: Json, change: Callable[[Json], Json]) -> None:
        """Write `change(newest object)` as its status, unless it stands there already."""
        metadata = obj["metadata"]
        newest = self.store.find(_KINDS[plural], metadata.get("namespace", ""), metadata["name"])
        if newest is None or newest["metadata"]["uid"] != metadata["uid"]:
            return
        status = change(newest)
        if status != newest.get("status"):
            self.store.update_status(_KINDS[plural], newest | {"status": status})

    def confirm_deleted(self, pod: Json) -> None:
        """Nothing of the Pod runs any more: its object may go."""
        metadata = pod["metadata"]
        with contextlib.suppress(ApiError):  # gone, or another Pod bears the name
            self.store.delete(
                kinds.PODS,
                metadata["namespace"],
                metadata["name"],
                grace_seconds=0,
                uid=metadata["uid"],
            )

    def set_node_ready(self, name: str, *, ready: bool) -> None:
        node = self.store.find(kinds.NODES, "", name)
        if node is not None:
            self.change_status(
                "nodes", node, lambda n: n["status"] | {"conditions": [_ready(ready=ready)]}
            )

    def service_addresses(self, name: str, namespace: str) -> list[str] | None:
        """What the DNS says for a Service; None: there is no such Service."""
        service = self.store.find(kinds.SERVICES, namespace, name)
        if service is None:
            return None
        address = service["spec"].get("clusterIP") or "None"
        if address != "None":
            return [address]
        selector = service["spec"].get("selector") or {}
        if not selector:
            return []
        labels = ",".join(f"{key}={value}" for key, value in selector.items())
        pods = self.store.objects(kinds.PODS, namespace=namespace, labels=labels)
        return [pod["status"]["podIP"] for pod in pods if _is_ready(pod)]

    def _service(self, namespace: str, name: str, address: str, ports: list[Json]) -> None:
        self.store.create(
            kinds.SERVICES,
            {
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterIP": address, "ports": ports},
            },
        )


def account_of(role: str) -> str:
    """The ServiceAccount of a role."""
    return f"nsm-{role}"


def _account(role: str) -> Json:
    return {"name": account_of(role), "namespace": SYSTEM_NAMESPACE}


def _is_ready(pod: Json) -> bool:
    status = pod.get("status") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions") or []}
    return conditions.get("Ready") == "True" and bool(status.get("podIP"))


def _node(node: Node) -> Json:
    cidr = str(node.pod_cidr)
    return {
        "metadata": {
            "name": node.name,
            "labels": {"kubernetes.io/hostname": node.name, "kubernetes.io/os": "linux"},
        },
        "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": str(node.address)},
                {"type": "Hostname", "address": node.name},
            ],
            "conditions": [_ready(ready=True)],
            "nodeInfo": {
                "osImage": "network namespace of a lab",
                "kernelVersion": platform.release(),
                "containerRuntimeVersion": "nsm-lab://1",
                "operatingSystem": "linux",
            },
        },
    }


def _ready(*, ready: bool) -> Json:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "type": "Ready",
        "status": "True" if ready else "Unknown",
        "reason": "KubeletReady" if ready else "NodeStatusUnknown",
        "message": "the lab runs this node" if ready else "Kubelet stopped posting node status.",
        "lastTransitionTime": now,
        "lastHeartbeatTime": now,
    }
