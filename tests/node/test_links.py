import errno
import socket
import struct
from pathlib import Path

import pytest

from services._node import encoding, links
from services._node.links import CREATE, REPLACE, LinkError, Netlink


def dummy_pair(netlink: Netlink) -> int:
    """Two veth ends in one namespace; the index of the first."""
    peer = {"attrs": [("IFLA_IFNAME", "b")]}
    info = {
        "attrs": [
            ("IFLA_INFO_KIND", "veth"),
            ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]}),
        ]
    }
    attrs = [("IFLA_IFNAME", "a"), ("IFLA_LINKINFO", info)]
    netlink.request([links.link(links.NEWLINK, flags=CREATE, attrs=attrs)])
    found = netlink.find_link("a")
    assert found is not None
    index = int(found["index"])
    netlink.request([links.link(links.NEWLINK, index=index, up=True)])
    return index


FAMILIES = pytest.mark.parametrize(
    ("own", "peer", "net"),
    [
        ("10.0.0.1/32", "10.0.0.2", "10.9.0.0/16"),
        ("2001:db8::1/128", "2001:db8::2", "2001:db9::/48"),
    ],
    ids=["v4", "v6"],
)


@FAMILIES
def test_many_changes_go_in_one_request(place: Path, own: str, peer: str, net: str) -> None:
    source = own.partition("/")[0]
    host = f"{peer}/{own.partition('/')[2]}"
    with Netlink(place) as netlink:
        index = dummy_pair(netlink)
        netlink.request(
            [
                links.address(links.NEWADDR, index=index, address=own, flags=CREATE),
                links.neighbour(
                    links.NEWNEIGH,
                    index=index,
                    address=peer,
                    mac="02:00:00:00:00:09",
                    flags=REPLACE,
                ),
                links.route(
                    links.NEWROUTE,
                    index=index,
                    destination=host,
                    source=source,
                    protocol=78,
                    flags=CREATE,
                ),
                links.route(
                    links.NEWROUTE,
                    index=index,
                    destination=net,
                    gateway=peer,
                    source=source,
                    protocol=78,
                    flags=CREATE,
                ),
            ]
        )
        family = links.family_of(own)
        addresses = netlink.dump(links.address(links.GETADDR, index=index))
        routes = netlink.dump(links.route(links.GETROUTE, index=index, family=family))
        neighbours = netlink.dump(links.neighbour(links.GETNEIGH, index=index))

    assert source in {each.get_attr("IFA_ADDRESS") for each in addresses}
    ours = {each.get_attr("RTA_DST"): each for each in routes if each["proto"] == 78}
    assert set(ours) == {peer, net.partition("/")[0]}
    assert ours[net.partition("/")[0]].get_attr("RTA_GATEWAY") == peer
    assert {each.get_attr("RTA_PREFSRC") for each in ours.values()} == {source}
    assert (peer, "02:00:00:00:00:09") in {
        (each.get_attr("NDA_DST"), each.get_attr("NDA_LLADDR")) for each in neighbours
    }


def test_a_filtered_dump_shows_one_interface_only(place: Path) -> None:
    with Netlink(place) as netlink:
        index = dummy_pair(netlink)
        netlink.request(
            [links.address(links.NEWADDR, index=1, address="127.0.0.9/32", flags=CREATE)]
        )
        netlink.request(
            [links.address(links.NEWADDR, index=index, address="10.0.0.1/32", flags=CREATE)]
        )

        found = netlink.dump(links.address(links.GETADDR, index=index))

    assert {each["index"] for each in found} == {index}


def test_an_ipv6_address_is_usable_at_once(place: Path) -> None:
    with Netlink(place) as netlink:
        index = dummy_pair(netlink)
        netlink.request(
            [links.address(links.NEWADDR, index=index, address="2001:db8::1/128", flags=CREATE)]
        )
        found = netlink.dump(links.address(links.GETADDR, index=index, family=socket.AF_INET6))

    flags = {each["flags"] for each in found if each.get_attr("IFA_ADDRESS") == "2001:db8::1"}
    assert all(not flag & 0x40 for flag in flags)  # IFA_F_TENTATIVE


def test_an_error_is_told_in_the_kernels_words_and_the_rest_is_tried(place: Path) -> None:
    with Netlink(place) as netlink:
        index = dummy_pair(netlink)
        with pytest.raises(LinkError, match="add route: Invalid prefsrc") as caught:
            netlink.request(
                [
                    links.route(
                        links.NEWROUTE,
                        index=index,
                        destination="10.1.0.0/16",
                        source="192.0.2.1",
                        flags=CREATE,
                    ),
                    links.address(links.NEWADDR, index=index, address="10.0.0.1/32", flags=CREATE),
                ]
            )
        assert caught.value.errno == errno.EINVAL
        assert netlink.dump(links.address(links.GETADDR, index=index, family=socket.AF_INET))


def test_more_requests_than_one_datagram_holds_are_all_done(place: Path) -> None:
    with Netlink(place) as netlink:
        index = dummy_pair(netlink)
        netlink.request(
            [
                links.address(
                    links.NEWADDR,
                    index=index,
                    address=f"10.0.{n // 250}.{n % 250 + 1}/32",
                    flags=CREATE,
                )
                for n in range(500)
            ]
        )
        found = netlink.dump(links.address(links.GETADDR, index=index, family=socket.AF_INET))

    assert len(found) == 500


def test_a_missing_interface_is_none(place: Path) -> None:
    with Netlink(place) as netlink:
        assert netlink.find_link("nothing") is None


def test_a_kernel_that_does_not_answer_is_a_link_error(place: Path) -> None:
    with Netlink(place) as netlink:
        moment = struct.pack("@ll", 0, 10_000)
        netlink._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, moment)
        with pytest.raises(LinkError, match="no answer") as caught:
            list(netlink._receive())

    assert caught.value.errno == errno.ETIMEDOUT


@pytest.mark.parametrize(
    ("own", "behind", "destination"),
    [
        ("192.0.2.1/24", "192.0.2.9", "198.51.100.0/24"),
        ("2001:db8::1/64", "2001:db8::9", "2001:db8:1::/48"),
        ("192.0.2.1/24", "192.0.2.9", "0.0.0.0/0"),
        ("2001:db8::1/64", "2001:db8::9", "::/0"),
    ],
)
def test_what_is_unpacked_by_hand_is_what_pyroute2_reads(
    place: Path, own: str, behind: str, destination: str
) -> None:
    with Netlink(place) as netlink:
        index = dummy_pair(netlink)
        mac = "02:00:00:00:00:09"
        netlink.request(
            [
                encoding.settings(index),
                links.address(links.NEWADDR, index=index, address=own, flags=links.CREATE),
                links.neighbour(
                    links.NEWNEIGH, index=index, address=behind, mac=mac, flags=links.REPLACE
                ),
                links.route(
                    links.NEWROUTE,
                    index=index,
                    destination=destination,
                    gateway=behind,
                    source=own.partition("/")[0],
                    table=300,
                    metric=7,
                    protocol=78,
                    flags=links.CREATE,
                ),
            ]
        )
        family = links.family_of(own)
        question = links.route(links.GETROUTE, index=index, family=family, table=300)
        (route,) = netlink.routes(question)
        (known,) = netlink.dump(question)
        addresses = {each.address for each in netlink.addresses(index=index)}
        neighbours = {(n.address, n.mac) for n in netlink.neighbours(index=index)}

    assert (route.table, route.protocol, route.metric) == (300, 78, 7)
    assert (route.destination, route.gateway) == (destination, behind)
    assert route.source == own.partition("/")[0]
    assert (route.index, route.family, route.kind) == (index, family, known["type"])
    assert route.gateway == known.get_attr("RTA_GATEWAY")
    assert own in addresses
    assert (behind, mac) in neighbours
