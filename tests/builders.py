"""Small whole messages for tests: name what matters, the rest is plausible."""

from typing import Any

from schemas.grant import Connection, End, Pool, PoolFigures, Refusal
from schemas.intent import Endpoint, IpamSpec, Leader, PodRef, PrefixesInUse, Request, UsedPrefix
from schemas.state import EndStatus, NodeFacts, Status


def a_pod(name: str = "client", **fields: Any) -> PodRef:
    values: dict[str, Any] = {
        "namespace": "default",
        "name": name,
        "uid": f"uid-of-{name}",
        "node": "node1",
        "ips": ("10.244.1.5",),
    }
    return PodRef(**{**values, **fields})


def a_request(pod: str = "client", interface: str = "nsm-vpn", **fields: Any) -> Request:
    values: dict[str, Any] = {
        "pod": a_pod(pod),
        "interface": interface,
        "network_service": "vpn",
    }
    return Request(**{**values, **fields})


def an_endpoint(endpoint: str = "vpn", pod: str = "gateway", **fields: Any) -> Endpoint:
    values: dict[str, Any] = {
        "endpoint": endpoint,
        "pod": a_pod(pod),
        "ready": True,
        "network_services": ("vpn",),
        "ipam": IpamSpec(prefixes=("172.16.1.0/24",)),
    }
    return Endpoint(**{**values, **fields})


def an_end(pod: str = "client", interface: str = "nsm-vpn", **fields: Any) -> End:
    values: dict[str, Any] = {
        "pod": a_pod(pod),
        "interface": interface,
        "mac": "02:00:00:00:00:01",
        "addresses": ("172.16.1.2/32",),
    }
    return End(**{**values, **fields})


def a_connection(pod: str = "client", interface: str = "nsm-vpn", **fields: Any) -> Connection:
    values: dict[str, Any] = {
        "node": "node1",
        "revision": 1,
        "network_service": "vpn",
        "network_service_namespace": "default",
        "endpoint": "vpn",
        "endpoint_namespace": "default",
        "client": an_end(pod, interface),
        "server": an_end("gateway", "nse-1", mac="02:00:00:00:00:02", addresses=("172.16.1.1/32",)),
    }
    return Connection(**{**values, **fields})


def a_refusal(pod: str = "client", interface: str = "nsm-vpn", **fields: Any) -> Refusal:
    values: dict[str, Any] = {
        "namespace": "default",
        "pod": pod,
        "interface": interface,
        "uid": f"uid-of-{pod}",
        "network_service": "vpn",
        "reason": "NoEndpoint",
        "message": "no endpoint offers vpn: start one",
    }
    return Refusal(**{**values, **fields})


def a_pool(endpoint: str = "vpn", **fields: Any) -> Pool:
    values: dict[str, Any] = {
        "namespace": "default",
        "endpoint": endpoint,
        "families": (
            PoolFigures(family=4, prefixes=("172.16.1.0/24",), size=254, used=1, free=253),
        ),
    }
    return Pool(**{**values, **fields})


def a_prefix_in_use(prefix: str = "10.96.0.0/16", **fields: Any) -> PrefixesInUse:
    values: dict[str, Any] = {
        "source": "cluster",
        "prefixes": (UsedPrefix(prefix=prefix, used_by="Services"),),
    }
    return PrefixesInUse(**{**values, **fields})


def a_leader(service: str = "ipam", **fields: Any) -> Leader:
    values: dict[str, Any] = {"service": service, "holder": "holder-1", "incarnations": {}}
    return Leader(**{**values, **fields})


def an_end_status(pod: str = "client", **fields: Any) -> EndStatus:
    values: dict[str, Any] = {
        "uid": f"uid-of-{pod}",
        "state": "ready",
        "interface": "nsm-vpn",
        "ifindex": 7,
        "mac": "02:00:00:00:00:01",
        "addresses": ("172.16.1.2/32",),
        "applied": a_connection(pod),
    }
    return EndStatus(**{**values, **fields})


def a_status(pod: str = "client", interface: str = "nsm-vpn", **fields: Any) -> Status:
    values: dict[str, Any] = {
        "node": "node1",
        "namespace": "default",
        "pod": pod,
        "interface": interface,
        "revision": 1,
        "client": an_end_status(pod),
    }
    return Status(**{**values, **fields})


def node_facts(node: str = "node1", **fields: Any) -> NodeFacts:
    return NodeFacts(node=node, **fields)
