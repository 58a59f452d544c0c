"""The firewall in the way: it closes the tunnels' port of a node, both ways, and nothing else."""

import errno
import socket
from pathlib import Path

import pytest

from cli.labs import in_child
from lab import blocking
from lab.layout import Layout
from lab.network import Network, Node
from schemas.grant import TUNNEL_PORT
from services._node import netns
from services._node.nft import NftError
from tests.lab.test_network import _alone

NODES = (Node(number=1), Node(number=2))


def _arrives(network: Network, sender: Node, receiver: Node, port: int) -> bool:
    with (
        netns.open_socket(network.path(receiver), socket.AF_INET, socket.SOCK_DGRAM) as hears,
        netns.open_socket(network.path(sender), socket.AF_INET, socket.SOCK_DGRAM) as speaks,
    ):
        hears.bind((str(receiver.address), port))
        hears.settimeout(0.3)
        try:
            speaks.sendto(b"x", (str(receiver.address), port))
            return hears.recv(10) == b"x"
        except (TimeoutError, PermissionError):  # the second: dropped on its way out
            return False


def _block(directory: Path) -> int:
    _alone()
    network = Network(Layout(directory), NODES)
    network.build()
    one, two = NODES
    both = ((one, two), (two, one))
    assert all(_arrives(network, *way, TUNNEL_PORT) for way in both)
    for _ in range(2):  # twice is once
        blocking.block(network.path(two), is_blocked=True)
    assert not any(_arrives(network, *way, TUNNEL_PORT) for way in both)
    assert all(_arrives(network, *way, TUNNEL_PORT + 1) for way in both)
    for _ in range(2):
        blocking.block(network.path(two), is_blocked=False)
    assert all(_arrives(network, *way, TUNNEL_PORT) for way in both)
    return 0


@pytest.mark.parametrize(
    ("code", "is_told"),
    [(errno.EOPNOTSUPP, True), (errno.EPROTONOSUPPORT, True), (errno.ETIMEDOUT, False)],
)
def test_a_module_is_the_remedy_only_where_the_kernel_lacks_it(code, is_told):
    assert ("modprobe" in blocking.remedy(NftError(code, "x"))) == is_told


@pytest.mark.e2e
def test_the_port_is_closed_both_ways_until_it_is_opened(tmp_path):
    assert in_child(lambda: _block(tmp_path)) == 0
