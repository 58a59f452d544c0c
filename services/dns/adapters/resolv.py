"""The cluster's DNS servers: as told, else those that this process itself would ask. What its node searches: only here.

A kubelet writes the `resolv.conf` of this process as that of every Pod of the node that asks the cluster's DNS.
"""

import ipaddress
from pathlib import Path

from services._runtime.settings import SettingsError

RESOLV_CONF = Path("/etc/resolv.conf")


class NoServers(SettingsError):
    """No usable server of the cluster's DNS is known."""


def cluster_servers(told: str, *, resolv_conf: Path = RESOLV_CONF) -> tuple[str, ...]:
    """Addresses of the cluster's DNS. Raises NoServers."""
    if told:
        return _told(told, "DNS_CLUSTER_SERVERS")
    lines = [line.split() for line in resolv_conf.read_text().splitlines()]
    named = [line[1] for line in lines if len(line) > 1 and line[0] == "nameserver"]
    remedy = "correct it, or set DNS_CLUSTER_SERVERS"
    found = [_address(text, where=str(resolv_conf), remedy=remedy) for text in named]
    # A loopback address would mean the Pod's own loopback when asked from there.
    usable = tuple(text for text in found if not ipaddress.ip_address(text).is_loopback)
    if not usable:
        raise NoServers(
            f"{resolv_conf} names no server that Pods can reach (it has {found}): set DNS_CLUSTER_SERVERS"
        )
    return usable


def node_servers(told: str) -> tuple[str, ...]:
    """Addresses of the servers that the nodes' own resolv.conf names; none if not told. Raises NoServers."""
    return _told(told, "DNS_NODE_SERVERS") if told else ()


def node_searches(cluster_domain: str, *, resolv_conf: Path = RESOLV_CONF) -> tuple[str, ...]:
    """Search domains that the kubelet takes from its node; none if this process's file is not a kubelet's."""
    try:
        lines = [line.split() for line in resolv_conf.read_text().splitlines()]
    except (OSError, UnicodeDecodeError):
        return ()
    lists = [line[1:] for line in lines if line and line[0] in {"search", "domain"}]
    found = (
        [domain.rstrip(".").lower() for domain in lists[-1]] if lists else []
    )  # the last one counts
    of_services = f"svc.{cluster_domain}"
    if of_services not in found:
        return ()
    own = (cluster_domain, of_services)
    return tuple(d for d in found if d and d not in own and not d.endswith(f".{of_services}"))


def _told(told: str, setting: str) -> tuple[str, ...]:
    texts = [text.strip() for text in told.split(",") if text.strip()]
    if not texts:
        raise NoServers(f"{setting}: {told!r} names no server: give addresses, or leave it empty")
    return tuple(_address(text, where=setting, remedy="correct it") for text in texts)


def _address(text: str, *, where: str, remedy: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as exc:
        raise NoServers(f"{where}: {text!r} is no address: {remedy}") from exc
