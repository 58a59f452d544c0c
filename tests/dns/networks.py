"""A node's little network for tests: Pods with an eth0 towards the cluster's DNS, and servers anywhere."""

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from services._node import links, netns
from tests.node.sandboxes import Pod

DNS_V4, DNS_V6 = "10.96.0.10", "fd00:96::10"
ELSEWHERE = "8.8.8.8"  # an address that a program may have been given as its resolver
GATEWAY_V4, GATEWAY_V6 = "10.244.1.1", "fd00:1::1"

Reply = Callable[[bytes], bytes]


def v6_of(pod: Pod) -> str:
    return f"fd00:1::{pod.ip.rpartition('.')[2]}"


class Cluster:
    """The namespace where the cluster's DNS lives."""

    def __init__(self, directory: Path) -> None:
        self.netns = str(directory / "netns-cluster")
        netns.create(self.netns)
        with links.Netlink(self.netns) as netlink:
            netlink.request([links.link(links.NEWLINK, index=1, up=True)])
            for address in (f"{DNS_V4}/32", f"{DNS_V6}/128", f"{ELSEWHERE}/32"):
                netlink.request([_address(1, address)])

    def attach(self, pod: Pod) -> None:
        """The Pod gets an eth0 with its addresses and routes to everything through it."""
        tail = pod.ip.rpartition(".")[2]
        connect(pod.netns, "eth0", self.netns, f"pod{tail}")
        with links.Netlink(pod.netns) as netlink:
            index = index_of(netlink, "eth0")
            for address, gateway, everything in (
                (f"{pod.ip}/32", GATEWAY_V4, "0.0.0.0/0"),
                (f"{v6_of(pod)}/128", GATEWAY_V6, "::/0"),
            ):
                netlink.request([_address(index, address)])
                netlink.request([_route(index, everything, gateway)])
        with links.Netlink(self.netns) as netlink:
            index = index_of(netlink, f"pod{tail}")
            for address, gateway in (
                (f"{pod.ip}/32", GATEWAY_V4),
                (f"{v6_of(pod)}/128", GATEWAY_V6),
            ):
                length = "32" if "." in gateway else "128"
                with contextlib.suppress(links.LinkError):  # every Pod has the same gateway
                    netlink.request([_address(index, f"{gateway}/{length}")])
                netlink.request([_route(index, address)])


def connect(one: str, interface: str, other: str, peer: str) -> None:
    """A veth pair, both ends up."""
    fd = netns.open_fd(other)
    try:
        attrs = [("IFLA_IFNAME", peer), ("IFLA_NET_NS_FD", fd)]
        data = {"attrs": [("VETH_INFO_PEER", {"attrs": attrs})]}
        info = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
        message = [("IFLA_IFNAME", interface), ("IFLA_LINKINFO", info)]
        with links.Netlink(one) as netlink:
            netlink.request([links.link(links.NEWLINK, flags=links.CREATE, attrs=message)])
    finally:
        os.close(fd)
    for place, name in ((one, interface), (other, peer)):
        with links.Netlink(place) as netlink:
            index = index_of(netlink, name)
            netlink.request([links.link(links.NEWLINK, index=index, up=True)])


def join(client: Pod, interface: str, server: Pod, addresses: tuple[str, str]) -> None:
    """A connection of two Pods as a plumber would make it: addresses without length, client's first."""
    peer = f"nse-{client.name}"[:15]
    connect(client.netns, interface, server.netns, peer)
    for pod, name, own, other in (
        (client, interface, addresses[0], addresses[1]),
        (server, peer, addresses[1], addresses[0]),
    ):
        with links.Netlink(pod.netns) as netlink:
            index = index_of(netlink, name)
            netlink.request([_address(index, f"{own}/32")])
            netlink.request([_route(index, f"{other}/32")])


def index_of(netlink: links.Netlink, name: str) -> int:
    found = netlink.find_link(name)
    assert found is not None, f"no interface {name}"
    return int(found["index"])


def _address(index: int, address: str) -> object:
    return links.address(links.NEWADDR, index=index, address=address, flags=links.CREATE)


def _route(index: int, destination: str, gateway: str = "") -> object:
    return links.route(
        links.NEWROUTE, index=index, destination=destination, gateway=gateway, flags=links.CREATE
    )


@contextmanager
def serving(
    where: str, addresses: tuple[str, ...], reply: Reply, port: int = 53
) -> Iterator[list[tuple[str, bytes]]]:
    """A server, UDP and TCP, in a thread; gives what it was asked: who asked, and the packet.

    Of a TCP connection one message of at most 4 KiB is read, and answered by one.
    """
    asked: list[tuple[str, bytes]] = []
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        for address in addresses:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                made = netns.open_socket(where, links.family_of(address), kind)
                stack.callback(made.close)
                made.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    made.listen()
                selector.register(made, selectors.EVENT_READ)
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        stack.callback(theirs.close)
        selector.register(theirs, selectors.EVENT_READ)
        thread = threading.Thread(target=_serve, args=(selector, theirs, reply, asked))
        thread.start()
        try:
            yield asked
        finally:
            ours.send(b"x")
            thread.join()


def _serve(
    selector: selectors.DefaultSelector,
    end: socket.socket,
    reply: Reply,
    asked: list[tuple[str, bytes]],
) -> None:
    while True:
        for key, _ in selector.select():
            made = key.fileobj
            assert isinstance(made, socket.socket)
            if made is end:
                return
            if made.type == socket.SOCK_DGRAM:
                data, source = made.recvfrom(4096)
                asked.append((source[0], data))
                if answer := reply(data):
                    made.sendto(answer, source)
                continue
            connection, source = made.accept()
            with connection:
                connection.settimeout(2)
                with contextlib.suppress(OSError):
                    data = connection.recv(4096)
                    asked.append((source[0], data))
                    connection.sendall(reply(data))


class Client:
    """A program in a Pod with a UDP socket that it keeps."""

    def __init__(self, where: str, family: int = socket.AF_INET, *, mark: int = 0) -> None:
        self._socket = netns.open_socket(where, family, socket.SOCK_DGRAM)
        if mark:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)

    def close(self) -> None:
        self._socket.close()

    def ask(self, server: str, data: bytes = b"?", *, seconds: float = 2.0) -> bytes:
        """The answer; empty if none came."""
        self._socket.settimeout(seconds)
        self._socket.sendto(data, (server, 53))
        try:
            answer, source = self._socket.recvfrom(4096)
        except (TimeoutError, ConnectionRefusedError):
            return b""
        assert source[0] == server, "an answer from an address that was not asked"
        return answer


def ask(
    where: str, server: str, data: bytes = b"?", *, mark: int = 0, seconds: float = 2.0
) -> bytes:
    """Ask once, from a new socket."""
    client = Client(where, links.family_of(server), mark=mark)
    try:
        return client.ask(server, data, seconds=seconds)
    finally:
        client.close()


def ask_tcp(where: str, server: str, data: bytes = b"?") -> bytes:
    """The same over TCP."""
    with netns.open_socket(where, links.family_of(server), socket.SOCK_STREAM) as made:
        made.settimeout(2)
        made.connect((server, 53))
        made.sendall(data)
        return made.recv(4096)
