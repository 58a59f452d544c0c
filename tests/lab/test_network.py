"""The lab's wires alone, in mounts and networks of their own: quick to lay, and gone without a trace."""

import os
import socket
from pathlib import Path

import pytest

from cli.labs import in_child
from lab import linux
from lab.layout import Layout
from lab.network import Network, Node
from lab.sandboxes import Sandboxes
from schemas.grant import TUNNEL_PORT
from services._node import links, netns
from services.plumber.adapters import reading

NODES = (Node(number=1), Node(number=2))


def _alone() -> None:
    if os.getuid() != 0:
        uid, gid = os.getuid(), os.getgid()
        linux.unshare(linux.CLONE_NEWUSER)
        linux.map_to_root(uid, gid)
    linux.unshare(linux.CLONE_NEWNS)
    linux.keep_mounts_inside()


def _lay_and_remove(directory: Path) -> int:
    _alone()
    network = Network(Layout(directory), NODES)
    network.build()
    for number in range(10):
        path = directory / "netns" / f"pod{number}"
        network.add_pod(path, NODES[0], NODES[0].pod_cidr[2 + number], port=f"port{number}")
    for number in range(10):
        network.remove_pod(directory / "netns" / f"pod{number}", NODES[0], port=f"port{number}")
    with links.Netlink(network.path(NODES[0])) as netlink:
        assert all(netlink.find_link(f"port{number}") is None for number in range(10))
    assert {path.name for path in (directory / "netns").iterdir()} == {"underlay", "node1", "node2"}
    return 0


@pytest.mark.e2e
def test_a_pods_network_takes_less_than_50_ms_and_leaves_nothing(tmp_path):
    assert in_child(lambda: _lay_and_remove(tmp_path)) == 0


def _look_at_underlay(directory: Path) -> int:
    _alone()
    network = Network(Layout(directory), NODES)
    network.build()
    for node in NODES:
        found = reading.read_node(network.path(node))
        assert (found.address, found.mtu) == (str(node.address), 1500), found
    one, two = NODES
    with (
        netns.open_socket(network.path(one), socket.AF_INET, socket.SOCK_DGRAM) as here,
        netns.open_socket(network.path(two), socket.AF_INET, socket.SOCK_DGRAM) as there,
    ):
        there.bind((str(two.address), TUNNEL_PORT))
        there.settimeout(5)
        here.sendto(b"hello", (str(two.address), TUNNEL_PORT))
        assert there.recvfrom(10)[1][0] == str(one.address)
    return 0


@pytest.mark.e2e
def test_nodes_reach_each_other_by_the_address_that_their_plumber_tells(tmp_path):
    assert in_child(lambda: _look_at_underlay(tmp_path)) == 0


def test_addresses_follow_the_nodes_number():
    node = Node(number=7)
    assert (node.name, str(node.pod_cidr)) == ("node7", "10.244.7.0/24")
    assert (str(node.gateway), str(node.address)) == ("10.244.7.1", "172.18.0.17")


def _fail_to_create(directory: Path) -> int:
    _alone()
    layout = Layout(directory)
    network = Network(layout, NODES)
    network.build()
    sandboxes = Sandboxes(layout, network, NODES[0])
    before = sorted(layout.netns.iterdir())
    pod = {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {}}
    layout.cni_results("node1").parent.mkdir(parents=True)
    layout.cni_results("node1").touch()  # no directory: the last step fails
    for _ in range(3):
        try:
            sandboxes.create(pod, now="")
        except OSError:
            continue
        return 1
    with links.Netlink(network.path(NODES[0])) as inside:
        names = {link.get_attr("IFLA_IFNAME") for link in inside.dump(links.link(links.GETLINK))}
    assert sorted(layout.netns.iterdir()) == before
    assert not any(name.startswith("veth") for name in names)
    assert sandboxes._addresses._used == set()
    assert not [path for path in (directory / "pods").rglob("*") if not path.is_dir()]
    return 0


@pytest.mark.e2e
def test_a_sandbox_that_cannot_be_finished_leaves_nothing(tmp_path):
    assert in_child(lambda: _fail_to_create(tmp_path)) == 0
