"""What the kernel has: messages turned into our values."""

import socket as sockets
from ipaddress import ip_interface, ip_network

import msgspec

from services._node import decoding, links, netns
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
    missing = end.routes - standing.routes
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
        rivals=tables.rivals(socket, link.index, missing) if missing else frozenset(),
        hollow=(tables.hollow(socket) if len(standing.lookups) < len(end.lookups) else frozenset()),
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
        by_index = {each.index: each for each in socket.links()}
        foreign = {
            each.index
            for each in by_index.values()
            if each.name != "lo" and parse_alias(each.alias) is None
        }
        addresses = socket.addresses()
        routes = [r for family in _FAMILIES for r in _main_routes(socket, family)]
    prefixes = {
        str(ip_interface(each.address).network) for each in addresses if each.index in foreign
    } | {
        canonical(route.destination)
        for route in routes
        if route.index in foreign and not route.gateway
    }
    address, mtu = _underlay(by_index, addresses, routes)
    return Node(address=address, mtu=mtu, prefixes=tuple(sorted(filter(_is_telling, prefixes))))


def _underlay(
    by_index: dict[int, Link],
    addresses: list[decoding.Address],
    routes: list[decoding.Route],
) -> tuple[str, int]:
    """The address that the default route leaves with; without one the first of the node, bridges' last."""
    defaults = [route.index for route in routes if route.destination.endswith("/0")]
    usable = [a for a in addresses if a.index != 1 and a.scope == 0]  # not lo, scope global
    if not usable:
        return "", 1500
    best = min(
        usable,
        key=lambda a: (
            a.index not in defaults,
            a.index in by_index and by_index[a.index].kind == "bridge",  # nodes have some for Pods
            a.family,
            a.index,
        ),
    )
    link = by_index.get(best.index)
    return canonical(best.address).partition("/")[0], (link.mtu if link else 0) or 1500


def _is_telling(prefix: str) -> bool:
    """Default, link-local and very wide ones say nothing about what is in use."""
    network = ip_network(prefix)
    return network.prefixlen > 12 and not (
        network.is_link_local or network.is_loopback or network.is_multicast
    )


def _addresses(socket: Netlink, index: int) -> set[str]:
    return {canonical(each.address) for each in socket.addresses(index=index)}


def _main_routes(socket: Netlink, family: int) -> list[decoding.Route]:
    question = links.route(links.GETROUTE, index=0, family=family)
    return [r for r in socket.routes(question) if (r.kind, r.table) == (_UNICAST, _MAIN)]


def _neighbours(socket: Netlink, index: int) -> set[Neighbour]:
    return {
        Neighbour(address=canonical(each.address), mac=each.mac)
        for each in socket.neighbours(index=index)
        if each.state & _PERMANENT
    }
