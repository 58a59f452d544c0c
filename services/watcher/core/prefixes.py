"""Prefixes in use by nodes, Services and the cluster, and those the user excluded."""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import yaml

from schemas import values
from schemas.intent import PrefixesInUse, UsedPrefix
from schemas.subjects import PrefixKey
from services.watcher.model import ConfigMap, KubeService, Node, Problem, Ref

KUBEADM: Ref = ("kube-system", "kubeadm-config")
EXCLUDED_NAME = "excluded-prefixes"  # of the ConfigMap in the system namespace
EXCLUDED_DATA = "prefixes"
CLUSTER_IPS = PrefixKey("service", "clusterips")
MALFORMED = "MalformedPrefix"
# One message holds them all and the bus takes a mebibyte: beyond this many they lose their names.
_MOST_NAMED = 4096


def of_node(node: Node) -> PrefixesInUse:
    """Pod CIDRs and addresses of a node."""
    name = node.metadata.name
    cidrs = _used(node.pod_cidrs, f"Pod CIDR of node {name}")
    return PrefixesInUse(
        source="node",
        name=name,
        prefixes=(*cidrs, *_used(node.internal_ips, f"address of node {name}")),
    )


def of_services(addresses: Mapping[Ref, tuple[str, ...]]) -> PrefixesInUse:
    """Every cluster IP; the same one always in the same place, so that equal sets have equal bytes."""
    if sum(map(len, addresses.values())) > _MOST_NAMED:
        return _merged(addresses)
    return PrefixesInUse(
        source=CLUSTER_IPS.source,
        name=CLUSTER_IPS.optional_name,
        prefixes=tuple(
            used
            for ref in sorted(addresses)
            for used in _used(addresses[ref], f"Service {'/'.join(ref)}")
        ),
    )


def _merged(addresses: Mapping[Ref, tuple[str, ...]]) -> PrefixesInUse:
    found = {values.parse_prefix_loosely(each) for listed in addresses.values() for each in listed}
    v4 = ipaddress.collapse_addresses(each for each in found if isinstance(each, IPv4Network))
    v6 = ipaddress.collapse_addresses(each for each in found if isinstance(each, IPv6Network))
    return PrefixesInUse(
        source=CLUSTER_IPS.source,
        name=CLUSTER_IPS.optional_name,
        prefixes=tuple(_used(map(str, [*v4, *v6]), "Services of the cluster")),
    )


def service_ips(found: KubeService) -> tuple[str, ...]:
    return tuple(sorted(found.cluster_ips))


def of_kubeadm(found: ConfigMap) -> PrefixesInUse:
    """What kubeadm was told about the cluster's networks; what cannot be read says nothing."""
    return PrefixesInUse(
        source="cluster",
        name="kubeadm",
        prefixes=tuple(
            used
            for field, what in (("podSubnet", "Pod network"), ("serviceSubnet", "Service network"))
            for used in _used(_subnets(found, field), f"{what} of the cluster (kubeadm)")
        ),
    )


def of_user(found: ConfigMap) -> tuple[PrefixesInUse, Problem | None]:
    """The user's own exclusions; a bad line does not spoil the others."""
    what = f"ConfigMap {'/'.join(found.ref)}"
    good: list[UsedPrefix] = []
    bad: list[str] = []
    for place, text in _lines((found.data or {}).get(EXCLUDED_DATA, "")):
        try:
            good.append(UsedPrefix(prefix=str(values.parse_prefix_loosely(text)), used_by=what))
        except ValueError as exc:
            bad.append(f"{place}: {exc}")
    problem = None
    if bad:
        problem = Problem(
            reason=MALFORMED,
            message=f"{what}, key {EXCLUDED_DATA}: {'; '.join(bad)}; write one prefix such as "
            "10.0.0.0/8 per line (the others are in force)",
        )
    return PrefixesInUse(source="user", name=EXCLUDED_NAME, prefixes=tuple(good)), problem


def _lines(text: str) -> Iterator[tuple[str, str]]:
    listed = _yaml(text)
    if isinstance(listed, list):
        yield from ((f"item {at}", str(each)) for at, each in enumerate(listed, start=1))
        return
    for at, line in enumerate(text.splitlines(), start=1):
        written = line.partition("#")[0].strip()
        if written:
            yield f"line {at}", written


def _subnets(found: ConfigMap, field: str) -> list[str]:
    told = _yaml((found.data or {}).get("ClusterConfiguration", ""))
    networking = told.get("networking") if isinstance(told, dict) else None
    subnets = networking.get(field) if isinstance(networking, dict) else None
    return [each.strip() for each in subnets.split(",")] if isinstance(subnets, str) else []


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: what looks like a date and is none
        return None


def _used(texts: Iterable[str], what: str) -> Iterator[UsedPrefix]:
    for text in texts:
        try:
            yield UsedPrefix(prefix=str(values.parse_prefix_loosely(text)), used_by=what)
        except ValueError:  # Kubernetes checked it; what is none cannot collide
            continue
