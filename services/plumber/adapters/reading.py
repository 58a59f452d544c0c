"""What the kernel has: messages turned into our values."""

import socket as sockets
from ipaddress import ip_interface, ip_network
from typing import Any

import msgspec

from services._node import links, netns
from services._node.decoding import Link
from services._node.links import Netlink
from services.plumber.adapters import tables
from services.plumber.adapters.tables import canonical
from services.plumber.model import (
    End,
    Found,
    Neighbour,
    Place,
    Stray,
    Traffic,
    Tunnel,
    parse_alias,
)

GROUP = 0x6E736D  # "nsm": our links, also the unnamed ones
DOOMED = GROUP + 1  # those that are being removed, and so do not stand any more

_PERMANENT = 0x80
_UNICAST, _MAIN = 1, 254
_FAMILIES = (sockets.AF_INET, sockets.AF_INET6)


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """The node's own network, as ipam wants to know it."""

    address: str = ""
    mtu: int = 1500
    mechanisms: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()


def read_end(socket: Netlink, end: End, owner: tuple[str, bool]) -> Found | None:
    """An end of ours with all it carries; None if no link, or another's, has the name."""
    link = socket.look_up(name=end.interface)
    alias = parse_alias(link.alias) if link is not None and link.group != DOOMED else None
    if link is None or alias is None or (alias.tag, alias.is_server) != owner:
        return None
    standing = tables.read(socket, link.index, is_client=not alias.is_server)
    return Found(
        place=end.place,
        interface=end.interface,
        index=link.index,
        peer_index=link.peer,
        revision=alias.revision,
        mac=link.mac,
        mtu=link.mtu,
        up=link.up,
        addresses=frozenset(_addresses(socket, link.index)),
        routes=standing.routes,
        neighbours=frozenset(_neighbours(socket, link.index)),
        lookups=standing.lookups,
        kept=standing.kept,
        held=tables.held(socket, GROUP) if end.lookups else frozenset(),
        tunnel=_tunnel(link),
        answers_for_all=link.answers_for_all,
        traffic=_traffic(link),
    )


def _tunnel(link: Link) -> Tunnel | None:
    if link.kind != "vxlan":
        return None
    return Tunnel(vni=link.vni, local=canonical(link.local), remote=canonical(link.remote))


def _traffic(link: Link) -> Traffic:
    received, sent, received_bytes, sent_bytes = link.counters
    return Traffic(received_bytes, sent_bytes, received, sent)


def is_ours(link: Link, connection: str) -> bool:
    """Of our group, and carrying the connection's tag, or none yet: an interrupted creation's."""
    if link.group not in {GROUP, DOOMED}:
        return False
    alias = parse_alias(link.alias)
    return not link.alias or (alias is not None and alias.tag == connection)


def is_complete(link: Link, connection: str, *, is_server: bool) -> bool:
    """An end of that connection that stands: nobody makes or removes it now."""
    alias = parse_alias(link.alias) if link.group == GROUP else None
    return alias is not None and (alias.tag, alias.is_server) == (connection, is_server)


def strays(socket: Netlink, place: Place) -> list[Stray]:
    """Every link of the namespace with an alias and the group of ours."""
    aliases = [
        (each.name, parse_alias(each.alias))
        for each in socket.links()
        if each.group in {GROUP, DOOMED}
    ]
    return [
        Stray(place=place, interface=name, connection=alias.tag)
        for name, alias in aliases
        if alias is not None
    ]


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
        tables.destination(route)
        for route in routes
        if route.get_attr("RTA_OIF") in foreign and route.get_attr("RTA_GATEWAY") is None
    }
    address, mtu = _underlay(by_index, addresses, routes)
    return Node(address=address, mtu=mtu, prefixes=tuple(sorted(filter(_is_telling, prefixes))))


def _underlay(by_index: dict[int, Any], addresses: list[Any], routes: list[Any]) -> tuple[str, int]:
    """The address that the default route leaves with; without one the first of the node, bridges' last."""
    defaults = [r.get_attr("RTA_OIF") for r in routes if r["dst_len"] == 0]
    usable = [a for a in addresses if a["index"] != 1 and a["scope"] == 0]  # not lo, scope global
    if not usable:
        return "", 1500
    best = min(
        usable,
        key=lambda a: (
            a["index"] not in defaults,
            _is_bridge(by_index.get(a["index"])),
            a["family"],
            a["index"],
        ),
    )
    link = by_index.get(best["index"])
    mtu = link.get_attr("IFLA_MTU") if link is not None else None
    return _address(best).partition("/")[0], mtu or 1500


def _is_bridge(link: Any) -> bool:
    """Nodes have bridges for their Pods."""
    info = link.get_attr("IFLA_LINKINFO") if link is not None else None
    return info is not None and info.get_attr("IFLA_INFO_KIND") == "bridge"


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


def _main_routes(socket: Netlink, family: int, index: int = 0) -> list[Any]:
    return [
        each
        for each in socket.dump(links.route(links.GETROUTE, index=index, family=family))
        if each["type"] == _UNICAST and each["table"] == _MAIN
    ]


def _neighbours(socket: Netlink, index: int) -> set[Neighbour]:
    return {
        Neighbour(
            address=canonical(each.get_attr("NDA_DST")), mac=each.get_attr("NDA_LLADDR") or ""
        )
        for each in socket.dump(links.neighbour(links.GETNEIGH, index=index))
        if each["state"] & _PERMANENT
    }
