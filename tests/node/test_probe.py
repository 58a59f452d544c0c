from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from services._node import links, netns, probe
from services._node.links import Netlink
from services._node.probe import Side, passes
from tests.node.test_links import dummy_pair


@contextmanager
def sides(place: Path, netlink: Netlink) -> Iterator[tuple[Side, Side]]:
    found = {name: netlink.find_link(name) for name in ("a", "b")}
    a, b = (
        Side(netns.in_netns(place, probe.open_socket), name, link.get_attr("IFLA_ADDRESS"))
        for name, link in found.items()
        if link is not None
    )
    try:
        yield a, b
    finally:
        a.opened.close()
        b.opened.close()


def test_frames_cross_a_pair_that_is_up_both_ways(place: Path) -> None:
    with Netlink(place) as netlink:
        dummy_pair(netlink)
        second = netlink.find_link("b")
        assert second is not None
        netlink.request([links.link(links.NEWLINK, index=second["index"], up=True)])
        with sides(place, netlink) as (one, other):
            assert passes(one, other)
            assert passes(other, one)


def test_no_frame_crosses_a_pair_that_is_down(place: Path) -> None:
    with Netlink(place) as netlink:
        dummy_pair(netlink)
        with sides(place, netlink) as (one, other):
            assert not passes(one, other, timeout_seconds=0.1)
