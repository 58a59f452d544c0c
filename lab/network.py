"""The lab's wires: nodes and Pods are network namespaces, joined as a bridge CNI and a switch would.

    underlay ── bridge 172.18.0.1/24 ──(eth0 172.18.0.10+N)── node N ── cni0 10.244.N.1/24 ──(eth0)── Pods

A node routes to the others' Pods through the underlay and answers for the cluster DNS address itself.
There is no way out: nothing of a lab reaches another network. All functions block for milliseconds.
"""

import os
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from lab.layout import Layout
from services._node import encoding, links, netns

POD_NETWORK = IPv4Network("10.244.0.0/16")
UNDERLAY = IPv4Network("172.18.0.0/24")
DNS_ADDRESS = "10.96.0.10"
KUBERNETES_ADDRESS = "10.96.0.1"
CLUSTER_DOMAIN = "cluster.local"
MAX_NODES = 200

_BRIDGE = "cni0"
_SWITCH = "underlay"
_LOOPBACK = 1  # its index, everywhere
_MTU = 1500
_STATIC = 4  # the route protocol of what an administrator wrote


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node's name and addresses, all from its number."""

    number: int

    @property
    def name(self) -> str:
        return f"node{self.number}"

    @property
    def pod_cidr(self) -> IPv4Network:
        return IPv4Network((int(POD_NETWORK[0]) + (self.number << 8), 24))

    @property
    def gateway(self) -> IPv4Address:
        return self.pod_cidr[1]

    @property
    def address(self) -> IPv4Address:
        return UNDERLAY[10 + self.number]


class Network:
    """Makes and removes the lab's namespaces and links."""

    def __init__(self, layout: Layout, nodes: tuple[Node, ...]) -> None:
        self._layout = layout
        self.nodes = nodes

    def path(self, node: Node) -> Path:
        return self._layout.node_netns(node.name)

    def build(self) -> None:
        """Nodes and what joins them. The directory must not hold namespaces of a living lab."""
        self._layout.netns.mkdir(parents=True, exist_ok=True)
        for leftover in self._layout.netns.iterdir():
            netns.delete(leftover)
        self._make_switch()
        for node in self.nodes:
            self._make_node(node)
        for node in self.nodes:
            self._route_to_others(node)

    def add_pod(self, path: Path, node: Node, address: IPv4Address, *, port: str) -> None:
        """A Pod's namespace at `path` with lo and eth0; `port` names its end on the node's bridge."""
        netns.create(path)
        try:
            self._wire_pod(path, node, address, port)
            _allow_ping(path)
        except BaseException:
            netns.delete(path)
            raise

    def remove_pod(self, path: Path, node: Node, *, port: str) -> None:
        """The namespace ends with its last process; its address is free at once."""
        with links.Netlink(self.path(node)) as inside:
            found = inside.look_up(name=port)
            if found is not None:
                inside.request([encoding.delete_link(found.index)])
        netns.delete(path)

    def set_node_link(self, node: Node, *, up: bool) -> None:
        """Plug or unplug the node's cable, at the switch: the node itself is not touched."""
        with links.Netlink(self._layout.netns / _SWITCH) as switch:
            port = _index(switch, _switch_port(node))
            switch.request([links.link(links.NEWLINK, index=port, up=up)])

    def _make_switch(self) -> None:
        path = self._layout.netns / _SWITCH
        netns.create(path)
        with links.Netlink(path) as switch:
            _add_bridge(switch, "br0", f"{UNDERLAY[1]}/24")

    def _make_node(self, node: Node) -> None:
        path = self.path(node)
        netns.create(path)
        netns.write_sysctls(path, {"ipv4/ip_forward": "1"})
        with links.Netlink(path) as inside, links.Netlink(self._layout.netns / _SWITCH) as switch:
            # Pods send to the DNS address by their default route; the node takes it for its own.
            _set_up(inside, "lo", f"{DNS_ADDRESS}/32")
            _add_bridge(inside, _BRIDGE, f"{node.gateway}/24")
            port = _switch_port(node)
            _add_veth(switch, port, bridge="br0", peer_netns=path, address=node.address)
            _set_up(inside, "eth0", f"{node.address}/24")
        _allow_ping(path)

    def _route_to_others(self, node: Node) -> None:
        with links.Netlink(self.path(node)) as inside:
            uplink = _index(inside, "eth0")
            inside.request(
                [
                    _route(uplink, str(other.pod_cidr), gateway=str(other.address))
                    for other in self.nodes
                    if other != node
                ]
            )

    def _wire_pod(self, path: Path, node: Node, address: IPv4Address, port: str) -> None:
        with links.Netlink(self.path(node)) as outside, links.Netlink(path) as inside:
            _add_veth(outside, port, bridge=_BRIDGE, peer_netns=path, address=address)
            eth0 = _index(inside, "eth0")
            inside.request(
                [
                    encoding.settings(_LOOPBACK),
                    *_up(eth0, f"{address}/24"),
                    _route(eth0, "0.0.0.0/0", gateway=str(node.gateway)),
                ]
            )


def _switch_port(node: Node) -> str:
    return f"port{node.number}"


def _index(netlink: links.Netlink, name: str) -> int:
    found = netlink.look_up(name=name)
    assert found is not None, name
    return found.index


def _route(index: int, destination: str, *, gateway: str) -> Any:
    return links.route(
        links.NEWROUTE,
        index=index,
        destination=destination,
        gateway=gateway,
        protocol=_STATIC,
        flags=links.CREATE,
    )


def _set_up(netlink: links.Netlink, name: str, address: str = "") -> int:
    """Bring an interface up, with an address; its index."""
    index = _index(netlink, name)
    netlink.request(list(_up(index, address)))
    return index


def _up(index: int, address: str) -> Iterator[encoding.Request]:
    yield encoding.settings(index)
    if address:
        yield links.address(links.NEWADDR, index=index, address=address, flags=links.CREATE)


def _add_bridge(netlink: links.Netlink, name: str, address: str) -> None:
    # Without a MAC of its own a bridge takes the lowest of its ports': it would change under its Pods.
    mac = "02:00:" + ":".join(
        f"{byte:02x}" for byte in IPv4Address(address.split("/", maxsplit=1)[0]).packed
    )
    info = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
    attrs = [("IFLA_IFNAME", name), ("IFLA_ADDRESS", mac), ("IFLA_LINKINFO", info)]
    netlink.request([links.link(links.NEWLINK, attrs=attrs, flags=links.CREATE)])
    _set_up(netlink, name, address)


def _add_veth(
    netlink: links.Netlink, port: str, *, bridge: str, peer_netns: Path, address: IPv4Address
) -> None:
    """A cable: `port` on the bridge here, `eth0` in the other namespace, with MACs made of that one's address."""
    ends = (
        encoding.Identity(port, f"02:01:{address.packed.hex(':')}", _MTU, 0),
        encoding.Identity("eth0", f"02:02:{address.packed.hex(':')}", _MTU, 0),
    )
    fd = netns.open_fd(peer_netns)
    try:
        netlink.request([encoding.veth(*ends, other_netns=fd)])
    finally:
        os.close(fd)
    master = _index(netlink, bridge)
    netlink.request([encoding.settings(_index(netlink, port), master=master)])


def _allow_ping(path: Path) -> None:
    """Everybody in the namespace may ping without privileges. In a user namespace only gid 0 is known."""
    for gids in ("0 2147483647", "0 0"):
        try:
            netns.write_sysctls(path, {"ipv4/ping_group_range": gids})
        except OSError:
            continue
        return
