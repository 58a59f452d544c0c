"""The environment's proxy for an address, read as kubectl reads it: the library's way knows no networks in NO_PROXY."""

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass


def proxy_for(url: str) -> str:
    """Its URL; empty: there is none, or it is not for this host. Raises ValueError: `url` is none."""
    host = urlsplit(url)
    name = host.hostname or ""
    proxies = getproxies()
    if proxy_bypass(name) or _is_spared(name, proxies.get("no", "")):
        return ""
    return proxies.get(host.scheme, "")


def _is_spared(name: str, spared: str) -> bool:
    """It is this machine, or in one of the networks."""
    try:
        address = ip_address(name)
    except ValueError:
        return name == "localhost"
    return address.is_loopback or any(address in each for each in _networks(spared))


def _networks(spared: str) -> Iterator[IPv4Network | IPv6Network]:
    for each in spared.split(","):
        with suppress(ValueError):  # a name
            yield ip_network(each.strip(), strict=False)
