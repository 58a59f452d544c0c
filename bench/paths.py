"""What a connection carries: `python -m bench.paths [--seconds 1]`.

TCP throughput of one stream and round trips of small UDP packets between two Pods: on one node and across two, as
the plumber makes it; beside them in the same run the bare pair of interfaces, the network between the nodes, and the
classical tunnel with a bridge and a pair on each node. Sender and receiver share this process, so the figures
compare paths; they are no record. Where `iperf3` and `ping` are installed, they say theirs: two processes, and the
median of a hundred echoes.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench.scene import alone
from services._node import encoding, links, netns, places
from services._node.encoding import Identity
from services.plumber import core
from services.plumber.adapters import Kernel
from services.plumber.model import Create, Wiring
from tests.node.sandboxes import Pod
from tests.plumber.grants import a_grant
from tests.plumber.nodes import ADDRESSES, Nodes, remote

_MESSAGE = bytes(1 << 18)
_ROUNDS = 3
_MTU = 1450


class Between(NamedTuple):
    """Two ends of a path: a network and an address in it, each."""

    client: str
    server: str
    address: str


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    options = parser.parse_args()
    alone()
    with tempfile.TemporaryDirectory() as directory:
        paths = list(_paths(Path(directory)))
        print(f"{'path':44} {'Gbit/s':>8} {'RTT µs':>8} {'iperf3':>8} {'ping µs':>8}")
        for name, between in paths:
            rates = [throughput(between, options.seconds / _ROUNDS) for _ in range(_ROUNDS)]
            own = f"{statistics.median(rates):8.2f} {round_trip(between) * 1e6:8.1f}"
            print(f"{name:44} {own} {iperf3(between, options.seconds):>8} {ping(between):>8}")
        for path in Path(directory).glob("netns-*"):
            netns.delete(path)


def _paths(directory: Path) -> Iterator[tuple[str, Between]]:
    nodes = Nodes(directory)
    pods = [Pod(directory, name, f"10.244.1.{n}") for n, name in enumerate(("client", "server"), 2)]
    bare = [Pod(directory, f"bare{n}", f"10.244.2.{n}") for n in (1, 2)]
    far = [Pod(directory, name, f"10.244.3.{n}") for n, name in enumerate(("near", "far"), 2)]
    old = [Pod(directory, f"old{n}", f"10.244.4.{n}") for n in (1, 2)]
    _join(bare[0].netns, bare[1].netns, ("10.1.0.1/24", "10.1.0.2/24"), mtu=1500)
    yield "bare pair of interfaces", Between(bare[0].netns, bare[1].netns, "10.1.0.2")
    places_ = [places.find(pod.result) for pod in pods]
    _make("", core.wiring(a_grant(mtu=1500), *places_))
    yield "plumber, one node", Between(pods[0].netns, pods[1].netns, "172.16.1.1")
    one, two = nodes.paths.values()
    yield "network between the nodes", Between(one, two, ADDRESSES["node2"][0])
    grant = remote()
    _make(one, core.wiring(grant, places.find(far[0].result), None))
    _make(two, core.wiring(grant, None, places.find(far[1].result)))
    yield "plumber, two nodes", Between(far[0].netns, far[1].netns, "172.16.1.1")
    for path, pod, node, peer, at in (
        (one, old[0], "node1", "node2", 1),
        (two, old[1], "node2", "node1", 2),
    ):
        _bridge(path, pod.netns, ADDRESSES[node][0], ADDRESSES[peer][0], f"10.4.0.{at}/24")
    yield "bridge, pair and tunnel on two nodes", Between(old[0].netns, old[1].netns, "10.4.0.2")


def _make(node: str, wiring: Wiring) -> None:
    kernel = Kernel(node)
    kernel._apply(Create(wiring=wiring))
    kernel.close()


def _join(one: str, other: str, addresses: tuple[str, str], *, mtu: int) -> None:
    fd = netns.open_fd(other)
    ends = [Identity(f"v{n}", f"02:00:00:00:09:0{n}", mtu, 0, 50 + n) for n in (1, 2)]
    with links.Netlink(one) as here, links.Netlink(other) as there:
        here.request([encoding.veth(*ends, other_netns=fd)])
        for inside, end, address in zip((here, there), ends, addresses, strict=True):
            inside.request([encoding.settings(end.number), _address(end.number, address)])
    os.close(fd)


def _bridge(node: str, pod: str, local: str, remote_: str, address: str) -> None:
    own, fd = netns.open_fd(node), netns.open_fd(pod)
    with links.Netlink(node) as inside, links.Netlink(pod) as there:
        info = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
        attrs = [("IFLA_IFNAME", "br0"), ("IFLA_LINKINFO", info)]
        inside.request([links.link(links.NEWLINK, attrs=attrs, flags=links.CREATE)])
        mac = local.rpartition(".")[2]
        tunnel = Identity("vx0", f"02:00:00:00:0a:{mac}", _MTU, 0, 61)
        path = encoding.Path(99, local, remote_, 4789)
        ends = [Identity(f"p{n}", f"02:00:00:0{n}:0b:{mac}", _MTU, 0, 70 + n) for n in (1, 2)]
        inside.request([encoding.vxlan(tunnel, path, netns=own)])
        inside.request([encoding.veth(*ends, other_netns=fd)])
        bridge = inside.look_up(name="br0")
        assert bridge is not None
        inside.request([encoding.settings(bridge.index)])
        for port in (61, 71):
            master = [("IFLA_MASTER", bridge.index)]
            inside.request([links.link(links.NEWLINK, index=port, attrs=master, up=True)])
        there.request([encoding.settings(72), _address(72, address)])
    os.close(own)
    os.close(fd)


def _address(index: int, address: str) -> encoding.Request:
    return links.address(links.NEWADDR, index=index, address=address, flags=links.CREATE)


def throughput(between: Between, seconds: float) -> float:
    """Gbit/s of one TCP stream."""
    with netns.open_socket(between.server, socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind((between.address, 0))
        listening.listen(1)
        sender = netns.open_socket(between.client, socket.AF_INET, socket.SOCK_STREAM)
        sender.connect(listening.getsockname())
        taken, _ = listening.accept()
    received = 0

    def receive() -> None:
        nonlocal received
        buffer = bytearray(1 << 20)
        while size := taken.recv_into(buffer):
            received += size

    thread = threading.Thread(target=receive)
    thread.start()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        sender.sendall(_MESSAGE)
    sender.close()
    thread.join()
    taken.close()
    return received * 8 / (time.perf_counter() - began) / 1e9


def round_trip(between: Between) -> float:
    """Median seconds there and back, both ends in one thread."""
    with (
        netns.open_socket(between.server, socket.AF_INET, socket.SOCK_DGRAM) as there,
        netns.open_socket(between.client, socket.AF_INET, socket.SOCK_DGRAM) as here,
    ):
        there.bind((between.address, 0))
        here.connect(there.getsockname())
        taken = []
        for _ in range(2000):
            began = time.perf_counter()
            here.send(b"ping")
            _, sender = there.recvfrom(16)
            there.sendto(b"pong", sender)
            here.recv(16)
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def iperf3(between: Between, seconds: float) -> str:
    """Gbit/s of one TCP stream, by the tool that everybody knows; nothing where it is not installed."""
    if not shutil.which("iperf3"):
        return "-"
    serve = ["iperf3", "--server", "--one-off", "--forceflush", "--bind", between.address]
    with _started(between.server, serve) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if "listening" in line:
                break
        else:
            raise RuntimeError(f"iperf3 --server ended with {server.wait()}")
        ask = ["iperf3", "--json", "--client", between.address, "--time", str(max(1, int(seconds)))]
        with _started(between.client, ask) as client:
            answer, _ = client.communicate()
        server.communicate()
    return f"{json.loads(answer)['end']['sum_received']['bits_per_second'] / 1e9:.2f}"


def ping(between: Between) -> str:
    """Median µs of a hundred echoes; nothing where the tool is not installed."""
    if not shutil.which("ping"):
        return "-"
    with _started(between.client, ["ping", "-c", "100", "-i", "0.002", between.address]) as pinging:
        said, _ = pinging.communicate()
    times = [
        float(line.partition("time=")[2].split()[0])
        for line in said.splitlines()
        if "time=" in line
    ]
    return f"{statistics.median(times) * 1e3:.0f}"


def _started(network: str, command: list[str]) -> "subprocess.Popen[str]":
    return netns.in_netns(
        network, lambda: subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    )


if __name__ == "__main__":
    main()
