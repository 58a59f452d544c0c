"""A node with an endpoint and many clients, made of namespaces that end with the benchmark."""

import os
from pathlib import Path

from lab import linux
from services._node import encoding, links, netns, places
from services.plumber import core
from services.plumber.model import Wiring
from tests.node.sandboxes import Pod
from tests.plumber.grants import a_grant, with_client, with_server

_AT_ONCE = 50


def alone() -> None:
    """Mounts of our own; for an ordinary user a user namespace, too. Call it before any thread starts."""
    if os.geteuid() != 0:
        uid, gid = os.getuid(), os.getgid()
        linux.unshare(linux.CLONE_NEWUSER)
        linux.map_to_root(uid, gid)
    linux.unshare(linux.CLONE_NEWNS)
    linux.keep_mounts_inside()


class Scene:
    """`count` clients of one endpoint, IPv4, and how their connections shall be."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory = directory
        self.server = Pod(directory, "server", "10.244.1.2")
        self.clients = [
            Pod(directory, f"client{n}", f"10.245.{n >> 8}.{n & 255}") for n in range(count)
        ]
        self.server_fd = netns.open_fd(self.server.netns)
        self.server_pid = f"/proc/{os.getpid()}/fd/{self.server_fd}"
        place = places.find(self.server.result)
        self.wirings = [
            self._wiring(client, number, place) for number, client in enumerate(self.clients)
        ]

    def crowd(self, count: int) -> None:
        """Other interfaces in the endpoint's network."""
        pairs = [
            encoding.veth(
                encoding.Identity(f"a{n}", f"02:01:00:00:{n >> 8:02x}:{n & 255:02x}", 1500, 0),
                encoding.Identity(f"b{n}", f"02:02:00:00:{n >> 8:02x}:{n & 255:02x}", 1500, 0),
                other_netns=self.server_fd,
            )
            for n in range(count // 2)
        ]
        with links.Netlink(self.server.netns) as inside:
            for at in range(0, len(pairs), _AT_ONCE):
                inside.request(pairs[at : at + _AT_ONCE])

    def end(self) -> None:
        os.close(self.server_fd)
        for pod in (*self.clients, self.server):
            pod.end()

    def _wiring(self, client: Pod, number: int, server: places.Place) -> Wiring:
        low, high = number & 255, number >> 8
        grant = a_grant(client=client.name, number=0)
        grant = with_client(
            grant,
            addresses=(f"172.17.{high}.{low}/32",),
            routes=(),
            mac=f"02:00:00:01:{high:02x}:{low:02x}",
        )
        grant = with_server(
            grant, interface=f"nse-{number}", mac=f"02:00:00:02:{high:02x}:{low:02x}"
        )
        return core.wiring(grant, places.find(client.result), server)
