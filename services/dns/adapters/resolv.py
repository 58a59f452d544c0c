"""The cluster's DNS servers: as told, else those that this process itself would ask."""

import ipaddress
from pathlib import Path

RESOLV_CONF = Path("/etc/resolv.conf")


class NoServers(Exception):
    """No usable server of the cluster's DNS is known."""


def cluster_servers(told: str, *, resolv_conf: Path = RESOLV_CONF) -> tuple[str, ...]:
    """Addresses of the cluster's DNS. Raises NoServers."""
    if told:
        return tuple(_address(text.strip()) for text in told.split(",") if text.strip())
    lines = [line.split() for line in resolv_conf.read_text().splitlines()]
    found = [line[1] for line in lines if len(line) > 1 and line[0] == "nameserver"]
    # A loopback address would mean the Pod's own loopback when asked from there.
    usable = tuple(text for text in found if not ipaddress.ip_address(text).is_loopback)
    if not usable:
        raise NoServers(
            f"{resolv_conf} names no server that Pods can reach (it has {found}): set DNS_CLUSTER_SERVERS"
        )
    return usable


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError as exc:
        raise NoServers(f"DNS_CLUSTER_SERVERS: {text!r} is no address: correct it") from exc
