"""Ping over real sockets, in a network namespace with nothing but its own loopback."""

import os
from pathlib import Path

import pytest

from cli import icmp, labs
from cli.icmp import Target
from lab import linux


def _alone(expected: list[tuple[str, bool]]) -> int:
    """In a new network: 0 if pinging gives, per target, an answer or not."""
    if os.getuid() != 0:
        uid, gid = os.getuid(), os.getgid()
        linux.unshare(linux.CLONE_NEWUSER)
        linux.map_to_root(uid, gid)
    linux.unshare(linux.CLONE_NEWNET)
    Path("/proc/sys/net/ipv4/ping_group_range").write_text("0 0")
    from services._node import links

    with links.Netlink() as netlink:
        netlink.request([links.link(links.NEWLINK, index=1, up=True)])
    targets = [Target(address=address) for address, _ in expected]
    found = list(icmp.ping(targets, count=2, interval_seconds=0, timeout_seconds=0.3))
    answered = {o.target.address: o.milliseconds is not None for o in found}
    return 0 if answered == dict(expected) and len(found) == 2 * len(expected) else 1


@pytest.mark.parametrize(
    "expected",
    [
        [("127.0.0.1", True)],
        [("::1", True)],
        [("127.0.0.1", True), ("::1", True), ("10.99.0.1", False)],
    ],
    ids=["v4", "v6", "unreachable"],
)
def test_who_is_there_answers_and_who_is_not_does_not(expected):
    assert labs.in_child(lambda: _alone(expected)) == 0
