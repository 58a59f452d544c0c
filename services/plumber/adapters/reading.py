"""What the kernel has: messages turned into our values."""

import socket as sockets
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import msgspec

from services._node import links, netns
from services._node.links import Netlink
from services.plumber.model import End, Found, Neighbour, Place, Route, Stray, parse_alias

PROTOCOL = 78  # of our routes: 'N'; unassigned in rt_protos

_PERMANENT = 0x80
_UNICAST, _MAIN = 1, 254
_FAMILIES = (sockets.AF_INET, sockets.AF_INET6)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """The node's own network, as ipam wants to know it."""

    address: str = ""
    mtu: int = 1500
    prefixes: tuple[str, ...] = ()


def read_end(socket: Netlink, end: End, owner: tuple[str, bool]) -> Found | None:
    """An end of ours with all it carries; None if no link, or another's, has the name."""
    link = socket.find_link(end.interface)
    alias = parse_alias(link.get_attr("IFLA_IFALIAS")) if link is not None else None
    if link is None or alias is None or (alias.tag, alias.is_server) != owner:
        return None
    index = link["index"]
    return found(
        link,
        end,
        alias.revision,
        addresses=frozenset(_addresses(socket, index)),
        routes=frozenset(_routes(socket, index)),
        neighbours=frozenset(_neighbours(socket, index)),
    )


def found(
    link: Any,
    end: End,
    revision: int,
    *,
    addresses: frozenset[str],
    routes: frozenset[Route],
    neighbours: frozenset[Neighbour],
) -> Found:
    return Found(
        place=end.place,
        interface=end.interface,
        index=link["index"],
        peer_index=link.get_attr("IFLA_LINK") or 0,
        revision=revision,
        mac=link.get_attr("IFLA_ADDRESS") or "",
        mtu=link.get_attr("IFLA_MTU") or 0,
        up=bool(link["flags"] & links.IFF_UP),
        addresses=addresses,
        routes=routes,
        neighbours=neighbours,
    )


def strays(socket: Netlink, place: Place, group: int) -> list[Stray]:
    """Every link of the namespace with an alias and the group of ours."""
    aliases = [
        (each.get_attr("IFLA_IFNAME"), parse_alias(each.get_attr("IFLA_IFALIAS")))
        for each in socket.dump(links.link(links.GETLINK))
        if each.get_attr("IFLA_GROUP") == group
    ]
    return [
        Stray(place=place, interface=name, connection=alias.tag)
        for name, alias in aliases
        if alias is not None
    ]


def held_addresses(socket: Netlink) -> set[str]:
    """Every address of the namespace, without lengths."""
    return {a.partition("/")[0] for a in _addresses(socket, 0)}


def canonical(address: str) -> str:
    """The one spelling that is compared; the kernel has another one for IPv4-mapped addresses.

    Raises ValueError.
    """
    return str(ip_address(address))


def read_node(target: netns.Target | None) -> Node:
    """Underlay address and MTU, and the prefixes that the node is directly connected to."""
    with Netlink(target) as socket:
        by_index = {each["index"]: each for each in socket.dump(links.link(links.GETLINK))}
        foreign = {
            index
            for index, each in by_index.items()
            if each.get_attr("IFLA_IFNAME") != "lo"
            and parse_alias(each.get_attr("IFLA_IFALIAS")) is None
        }
        addresses = socket.dump(links.address(links.GETADDR, index=0))
        routes = [r for family in _FAMILIES for r in _main_routes(socket, family)]
    prefixes = {
        str(ip_interface(_address(each)).network) for each in addresses if each["index"] in foreign
    } | {
        _destination(route)
        for route in routes
        if route.get_attr("RTA_OIF") in foreign and route.get_attr("RTA_GATEWAY") is None
    }
    address, mtu = _underlay(by_index, addresses, routes)
    return Node(address=address, mtu=mtu, prefixes=tuple(sorted(filter(_is_telling, prefixes))))


def _underlay(by_index: dict[int, Any], addresses: list[Any], routes: list[Any]) -> tuple[str, int]:
    """The address that the default route leaves with; without one, the first address of the node."""
    defaults = [r.get_attr("RTA_OIF") for r in routes if r["dst_len"] == 0]
    usable = [a for a in addresses if a["index"] != 1 and a["scope"] == 0]  # not lo, scope global
    if not usable:
        return "", 1500
    best = min(usable, key=lambda a: (a["index"] not in defaults, a["family"], a["index"]))
    link = by_index.get(best["index"])
    mtu = link.get_attr("IFLA_MTU") if link is not None else None
    return _address(best).partition("/")[0], mtu or 1500


def _is_telling(prefix: str) -> bool:
    """Default, link-local and very wide ones say nothing about what is in use."""
    network = ip_network(prefix)
    return network.prefixlen > 12 and not (
        network.is_link_local or network.is_loopback or network.is_multicast
    )


def _addresses(socket: Netlink, index: int) -> set[str]:
    return {_address(each) for each in socket.dump(links.address(links.GETADDR, index=index))}


def _address(message: Any) -> str:
    ip = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    return f"{canonical(ip)}/{message['prefixlen']}"


def _routes(socket: Netlink, index: int) -> set[Route]:
    return {
        Route(
            destination=_destination(each),
            gateway=_canonical(each.get_attr("RTA_GATEWAY")),
            source=_canonical(each.get_attr("RTA_PREFSRC")),
        )
        for family in _FAMILIES
        for each in _main_routes(socket, family, index)
        if each["proto"] == PROTOCOL and each.get_attr("RTA_OIF") == index
    }


def _main_routes(socket: Netlink, family: int, index: int = 0) -> list[Any]:
    return [
        each
        for each in socket.dump(links.route(links.GETROUTE, index=index, family=family))
        if each["type"] == _UNICAST and each["table"] == _MAIN
    ]


def _destination(message: Any) -> str:
    zero = "::" if message["family"] == sockets.AF_INET6 else "0.0.0.0"  # noqa: S104
    return f"{canonical(message.get_attr('RTA_DST') or zero)}/{message['dst_len']}"


def _canonical(address: str | None) -> str:
    return canonical(address) if address else ""


def _neighbours(socket: Netlink, index: int) -> set[Neighbour]:
    return {
        Neighbour(
            address=_canonical(each.get_attr("NDA_DST")), mac=each.get_attr("NDA_LLADDR") or ""
        )
        for each in socket.dump(links.neighbour(links.GETNEIGH, index=index))
        if each["state"] & _PERMANENT
    }
