"""Which way the kernel would send a packet, as `ip route get` asks; and a CNI's network for a Pod."""

import os
import socket
import struct
from typing import NamedTuple

from services._node import encoding, links, netns
from services._node.nft import raw
from tests.node.sandboxes import Pod
from tests.plumber.grants import there

_LOOKUP_TABLE = 0x1000
_PROTOCOLS = {"tcp": 6, "udp": 17}
_STATIC = 4

GATEWAYS = ("10.244.1.1", "fd00:244::1")


class Way(NamedTuple):
    interface: str
    table: int
    gateway: str = ""
    source: str = ""  # empty: as asked


def way(
    pod: Pod,
    destination: str,
    *,
    source: str = "",
    protocol: str = "",
    destination_port: int = 0,
    source_port: int = 0,
) -> Way:
    """Raises LinkError where there is none."""
    family = encoding.family_of(destination)

    def packed(address: str) -> bytes:
        return socket.inet_pton(family, address)

    bits = 32 if family == socket.AF_INET else 128
    flags = _LOOKUP_TABLE if family == socket.AF_INET else 0  # IPv6 tells it unasked
    body = struct.pack("=BBBBBBBBI", family, bits, bits if source else 0, 0, 0, 0, 0, 0, flags)
    body += raw(1, packed(destination))
    if source:
        body += raw(2, packed(source))
    if protocol:
        body += raw(27, bytes([_PROTOCOLS[protocol]]))
    if source_port:
        body += raw(28, struct.pack(">H", source_port))
    if destination_port:
        body += raw(29, struct.pack(">H", destination_port))
    with links.Netlink(pod.netns) as netlink:
        found = netlink.get(encoding.Request(links.GETROUTE, body))
        link = netlink.get(links.link(links.GETLINK, index=found.get_attr("RTA_OIF")))
    return Way(
        interface=link.get_attr("IFLA_IFNAME"),
        table=found.get_attr("RTA_TABLE"),
        gateway=found.get_attr("RTA_GATEWAY") or "",
        source=found.get_attr("RTA_PREFSRC") or "",
    )


def add_eth0(pod: Pod, *addresses: str) -> None:
    """What a CNI gives: eth0 with addresses, and default routes over gateways that are somewhere else."""
    with links.Netlink(pod.netns) as inside:
        info = {"attrs": [("IFLA_INFO_KIND", "veth")]}
        attrs = [("IFLA_IFNAME", "eth0"), ("IFLA_LINKINFO", info)]
        inside.request([links.link(links.NEWLINK, flags=links.CREATE, attrs=attrs)])
        peer = there(inside.find_link("eth0")).get_attr("IFLA_LINK")
        index = pod.index("eth0")
        fd = netns.open_fd(_elsewhere(pod))
        inside.request([links.link(links.NEWLINK, index=peer, attrs=[("IFLA_NET_NS_FD", fd)])])
        os.close(fd)
        inside.request([encoding.settings(index)])
        for address in addresses:
            inside.request(
                [links.address(links.NEWADDR, index=index, address=address, flags=links.CREATE)]
            )
            is_v6 = ":" in address
            inside.request(
                [
                    links.route(
                        links.NEWROUTE,
                        index=index,
                        destination="::/0" if is_v6 else "0.0.0.0/0",
                        gateway=GATEWAYS[is_v6],
                        protocol=_STATIC,
                        flags=links.CREATE,
                    )
                ]
            )
    with links.Netlink(_elsewhere(pod)) as outside:
        outside.request([encoding.settings(peer)])


def _elsewhere(pod: Pod) -> str:
    path = f"{pod.netns}-cni"
    if not os.path.exists(path):  # noqa: PTH110
        netns.create(path)
    return path


def rules_and_routes(pod: Pod) -> tuple[set[str], set[str]]:
    """Everything of the Pod's routing, to compare before with after."""
    with links.Netlink(pod.netns) as inside:
        rules = inside.dump(links.rule(links.GETRULE))
        routes = [
            each
            for family in (socket.AF_INET, socket.AF_INET6)
            for each in inside.dump(links.route(links.GETROUTE, family=family, table=0))
        ]
    return {_text(each) for each in rules}, {
        _text(each)
        for each in routes
        if not (each.get_attr("RTA_DST") or "").startswith("f")  # come when the kernel has time
        and (each["family"] != socket.AF_INET6 or each["table"] != 255)
    }


def _text(message: object) -> str:
    fields = {k: v for k, v in message.items() if k not in {"header", "attrs", "flags"}}  # type: ignore[attr-defined]
    attrs = [
        (name, value)
        for name, value in message["attrs"]  # type: ignore[index]
        if name not in {"RTA_CACHEINFO", "UNKNOWN"}
    ]
    return f"{fields} {attrs}"
