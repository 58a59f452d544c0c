"""Requests of rtnetlink as bytes: what is sent often, packed by hand.

pyroute2's encoding of one connection costs 2 ms, this one 0.1. Each function returns one request for
`links.Netlink`; only what we use is here. Answers are pyroute2's to decode.
"""

import socket
import struct
from typing import NamedTuple

from services._node.nft import nested, raw, text

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30
NEWRULE, DELRULE, GETRULE = 32, 33, 34

CREATE, REPLACE = 0x400 | 0x200, 0x400 | 0x100  # must be new; new or changed
IFF_UP = 1
UNICAST, THROW = 1, 9  # types of routes
RP_FILTER, PROXY_ARP = 8, 3  # IPv4 settings of an interface

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxHiHBB")
_RULE = struct.Struct("=BBBBBxxBI")
_MAC, _NAME, _MTU, _MASTER, _LINKINFO, _ALIAS, _AF_SPEC = 1, 3, 4, 10, 18, 20, 26
_GROUP, _NETNS = 27, 28
_EXTENT, _NO_FIGURES = 29, 8
_TX_QUEUES, _RX_QUEUES = 31, 32
_KIND, _DATA, _PEER, _INET_CONF = 1, 2, 1, 1
_VXLAN_ID, _VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_DF = 1, 7, 15, 29
_VXLAN_REMOTE = {int(socket.AF_INET): 2, int(socket.AF_INET6): 16}
_VXLAN_LOCAL = {int(socket.AF_INET): 4, int(socket.AF_INET6): 17}
_NODAD, _ONLINK, _PERMANENT, _TO_TABLE = 0x02, 4, 0x80, 1
_SCOPE_LINK = 253
_PROTOCOLS = {"": 0, "icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58, "sctp": 132}


class Request(NamedTuple):
    """A message without its header."""

    kind: int
    body: bytes
    flags: int = 0


class Identity(NamedTuple):
    """What an interface is born with. Number 0: the kernel chooses."""

    name: str
    mac: str
    mtu: int
    group: int
    number: int = 0


class Path(NamedTuple):
    """Where a tunnel leads, over which network."""

    vni: int
    local: str
    remote: str
    port: int


def veth(one: Identity, other: Identity, *, other_netns: int) -> Request:
    """Both ends of a new pair, the `other` one in the namespace of that descriptor."""
    # Queues of each core cost memory and time, and a veth gains nothing by them.
    queues = _number(_TX_QUEUES, 1) + _number(_RX_QUEUES, 1)
    peer = _LINK.pack(0, 0, other.number, 0, 0) + _born(other) + _number(_NETNS, other_netns)
    info = text(_KIND, "veth") + nested(_DATA, raw(_PEER, peer + queues))
    body = _LINK.pack(0, 0, one.number, 0, 0) + _born(one) + queues + nested(_LINKINFO, info)
    return Request(NEWLINK, body, CREATE)


def vxlan(identity: Identity, path: Path, *, netns: int) -> Request:
    """A new tunnel: its frames arrive in the namespace of that descriptor, its packets leave this one."""
    family = family_of(path.remote)
    data = (
        _number(_VXLAN_ID, path.vni)
        + raw(_VXLAN_LOCAL[family], _packed(path.local))
        + raw(_VXLAN_REMOTE[family], _packed(path.remote))
        + raw(_VXLAN_PORT, struct.pack(">H", path.port))
        + raw(_VXLAN_LEARNING, b"\0")  # who sends to us does not choose where we send to
        + raw(_VXLAN_DF, b"\1")
    )
    info = text(_KIND, "vxlan") + nested(_DATA, data)
    body = _LINK.pack(0, 0, identity.number, 0, 0) + _born(identity) + _number(_NETNS, netns)
    return Request(NEWLINK, body + nested(_LINKINFO, info), CREATE)


def settings(
    index: int,
    *,
    mtu: int = 0,
    alias: str = "",
    master: int = 0,
    inet: dict[int, int] | None = None,
) -> Request:
    """An interface comes up, and gets what is given."""
    body = _LINK.pack(0, 0, index, IFF_UP, IFF_UP)
    if mtu:
        body += _number(_MTU, mtu)
    if alias:
        body += raw(_ALIAS, alias.encode())
    if master:
        body += _number(_MASTER, master)
    if inet:
        values = b"".join(_number(key, value) for key, value in inet.items())
        body += nested(_AF_SPEC, nested(socket.AF_INET, nested(_INET_CONF, values)))
    return Request(NEWLINK, body)


def get_link(*, name: str = "", index: int = 0) -> Request:
    """The question for an interface; as a dump, for all."""
    body = _LINK.pack(0, 0, index, 0, 0)
    return Request(GETLINK, body + (text(_NAME, name) if name else b""))


def see_link(index: int) -> Request:
    """The question for an interface of whose answer nobody reads more than that it came."""
    return Request(GETLINK, _LINK.pack(0, 0, index, 0, 0) + _number(_EXTENT, _NO_FIGURES))


def set_alias(index: int, alias: str) -> Request:
    return Request(NEWLINK, _LINK.pack(0, 0, index, 0, 0) + raw(_ALIAS, alias.encode()))


def set_group(index: int, group: int) -> Request:
    return Request(NEWLINK, _LINK.pack(0, 0, index, 0, 0) + _number(_GROUP, group))


def delete_link(index: int = 0, *, group: int = 0) -> Request:
    """An interface, or all of a group."""
    body = _LINK.pack(0, 0, index, 0, 0)
    return Request(DELLINK, body + (_number(_GROUP, group) if group else b""))


def address(
    kind: int, *, index: int, address: str = "", family: int = 0, flags: int = 0
) -> Request:
    """About an address with its length on an interface (0 in a dump: any); never waits for DAD."""
    if not address:
        return Request(kind, _ADDRESS.pack(family, 0, 0, 0, index), flags)
    ip, _, length = address.partition("/")
    family = family_of(ip)
    packed = _packed(ip)
    head = _ADDRESS.pack(family, int(length), _NODAD if family == socket.AF_INET6 else 0, 0, index)
    return Request(kind, head + raw(2, packed) + raw(1, packed), flags)


def route(
    kind: int,
    *,
    index: int = 0,
    destination: str = "",
    gateway: str = "",
    source: str = "",
    protocol: int = 0,
    family: int = 0,
    table: int = 254,
    type_: int = UNICAST,
    metric: int = 0,
    flags: int = 0,
) -> Request:
    """About a route through an interface (0 in a dump: any; table 0 in a dump: any)."""
    length, onlink = 0, 0
    scope = 0
    body = b""
    if destination:
        ip, _, text_length = destination.partition("/")
        family, length = family_of(ip), int(text_length)
        body += raw(1, _packed(ip))
        if not gateway and family == socket.AF_INET and type_ == UNICAST:
            scope = _SCOPE_LINK
    if index:
        body += _number(4, index)
    if gateway:
        onlink = _ONLINK  # a next hop need not be covered by a route
        body += raw(5, _packed(gateway))
    if source:
        body += raw(7, _packed(source))
    if metric:
        body += _number(6, metric)
    if table > 255:
        body += _number(15, table)
    head = _ROUTE.pack(
        family,
        length,
        0,
        0,
        table if table < 256 else 0,
        protocol,
        scope,
        0 if kind == GETROUTE and not protocol else type_,
        onlink,
    )
    return Request(kind, head + body, flags)


def ask_way(destination: str) -> Request:
    """Which way would a packet go?"""
    packed = _packed(destination)
    head = _ROUTE.pack(family_of(destination), len(packed) * 8, 0, 0, 0, 0, 0, 0, 0)
    return Request(GETROUTE, head + raw(1, packed))


def neighbour(
    kind: int, *, index: int, address: str = "", mac: str = "", family: int = 0, flags: int = 0
) -> Request:
    """About a permanent neighbour on an interface."""
    if kind == GETNEIGH:  # strict dumps filter by attribute
        head = _NEIGHBOUR.pack(family, 0, 0, 0, 0, 0)
        return Request(kind, head + (_number(8, index) if index else b""), flags)
    head = _NEIGHBOUR.pack(family_of(address), 0, index, _PERMANENT, 0, 0)
    body = raw(1, _packed(address))
    if mac:
        body += raw(2, bytes.fromhex(mac.replace(":", "")))
    return Request(kind, head + body, flags)


def rule(
    kind: int,
    *,
    family: int = 0,
    priority: int = 0,
    table: int = 0,
    source: str = "",
    protocol: str = "",
    destination_port: str = "",
    source_port: str = "",
    no_default: bool = False,
    owner: int = 0,
    flags: int = 0,
) -> Request:
    """About a rule that leads to a table; in a dump all of the family (0: all). `owner`: who made it."""
    if kind == GETRULE:
        return Request(kind, _RULE.pack(family, 0, 0, 0, 0, 0, 0), flags)
    ip, _, length = source.partition("/")
    body = _number(6, priority) + _number(15, table) + raw(21, bytes([owner]))
    if source:
        body += raw(2, _packed(ip))
    if protocol:
        body += raw(22, bytes([_PROTOCOLS[protocol]]))
    if source_port:
        body += raw(23, _range(source_port))
    if destination_port:
        body += raw(24, _range(destination_port))
    if no_default:
        body += _number(14, 0)
    head = _RULE.pack(family, 0, int(length or 0), 0, table if table < 256 else 0, _TO_TABLE, 0)
    return Request(kind, head + body, flags)


def protocol_name(number: int) -> str:
    """The name that `rule` takes for it."""
    return {value: name for name, value in _PROTOCOLS.items()}.get(number, str(number))


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _born(identity: Identity) -> bytes:
    return (
        text(_NAME, identity.name)
        + _number(_MTU, identity.mtu)
        + raw(_MAC, bytes.fromhex(identity.mac.replace(":", "")))
        + _number(_GROUP, identity.group)
    )


def _number(kind: int, value: int) -> bytes:
    return raw(kind, struct.pack("=I", value))


def _packed(address: str) -> bytes:
    return socket.inet_pton(family_of(address), address)


def _range(ports: str) -> bytes:
    first, _, last = ports.partition("-")
    return struct.pack("=HH", int(first), int(last or first))
