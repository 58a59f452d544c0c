from pathlib import Path

from services._node import links
from services._node.links import Netlink
from services._node.probe import Side, passes
from tests.node.test_links import dummy_pair


def sides(place: Path, netlink: Netlink) -> tuple[Side, Side]:
    found = {name: netlink.find_link(name) for name in ("a", "b")}
    a, b = (
        Side(str(place), name, link.get_attr("IFLA_ADDRESS"))
        for name, link in found.items()
        if link is not None
    )
    return a, b


def test_frames_cross_a_pair_that_is_up_both_ways(place: Path) -> None:
    with Netlink(place) as netlink:
        dummy_pair(netlink)
        one, other = sides(place, netlink)
        second = netlink.find_link("b")
        assert second is not None
        netlink.request([links.link(links.NEWLINK, index=second["index"], up=True)])

    assert passes(one, other)
    assert passes(other, one)


def test_no_frame_crosses_a_pair_that_is_down(place: Path) -> None:
    with Netlink(place) as netlink:
        dummy_pair(netlink)
        one, other = sides(place, netlink)

    assert not passes(one, other, timeout_seconds=0.1)
