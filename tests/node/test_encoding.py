"""What is packed by hand is what the kernel takes it for, read back by hand and by pyroute2."""

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services._node import decoding, encoding, links, netns
from services._node.encoding import Identity
from services._node.links import LinkError, Netlink

ONE = Identity("one", "02:00:00:00:00:01", 1400, 7, 1001)
OTHER = Identity("other", "02:00:00:00:00:02", 1300, 8, 1002)


@pytest.fixture
def inside(place: Path) -> Iterator[Netlink]:
    with Netlink(place) as netlink:
        yield netlink


@pytest.fixture
def pair(place: Path, inside: Netlink) -> Netlink:
    fd = netns.open_fd(place)
    inside.request([encoding.veth(ONE, OTHER, other_netns=fd)])
    os.close(fd)
    return inside


def test_a_pair_is_born_as_it_was_said(pair: Netlink) -> None:
    for identity, peer in ((ONE, OTHER), (OTHER, ONE)):
        found = pair.look_up(name=identity.name)

        assert found is not None
        assert (found.index, found.name, found.mac) == (1000 + (peer is ONE) + 1, *identity[:2])
        assert (found.mtu, found.group) == (identity.mtu, identity.group)
        assert (found.kind, found.peer, found.up, found.alias) == ("veth", peer.number, False, "")


def test_a_pair_has_one_queue_each_way(pair: Netlink) -> None:
    found = pair.find_link("other")

    assert found is not None
    assert found.get_attr("IFLA_NUM_TX_QUEUES") == found.get_attr("IFLA_NUM_RX_QUEUES") == 1


def test_settings_are_taken_and_the_interface_comes_up(pair: Netlink) -> None:
    pair.request([encoding.settings(1001, mtu=1350, alias="whose", inet={encoding.PROXY_ARP: 1})])

    found = pair.look_up(index=1001)

    assert found is not None
    assert (found.up, found.mtu, found.alias, found.answers_for_all) == (True, 1350, "whose", True)


@pytest.mark.parametrize(
    ("local", "remote"), [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")]
)
def test_a_tunnel_is_born_as_it_was_said(
    place: Path, inside: Netlink, local: str, remote: str
) -> None:
    fd = netns.open_fd(place)
    inside.request([encoding.vxlan(ONE, encoding.Path(77, local, remote, 14789), netns=fd)])
    os.close(fd)

    found, whole = inside.look_up(name="one"), inside.find_link("one")

    assert found is not None
    assert (found.kind, found.vni, found.local, found.remote) == ("vxlan", 77, local, remote)
    assert whole is not None
    data = whole.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_DATA")
    assert data.get_attr("IFLA_VXLAN_PORT") == 14789
    assert data.get_attr("IFLA_VXLAN_DF") == 1
    assert data.get_attr("IFLA_VXLAN_LEARNING") == 0


def test_a_group_goes_in_one_request_and_takes_its_peers(pair: Netlink) -> None:
    pair.request([encoding.set_group(1001, 99), encoding.delete_link(group=99)])

    assert pair.look_up(name="one") is pair.look_up(name="other") is None


RULES = [
    {"source": "172.16.1.0/24", "protocol": "tcp", "destination_port": "80-90", "source_port": "7"},
    {"protocol": "udp"},
    {"no_default": True},
    {"source": "2001:db8::/32", "protocol": "ipv6-icmp"},
    {},
]


@pytest.mark.parametrize("fields", RULES)
def test_a_rule_is_read_back_as_it_was_made_and_goes_as_it_came(
    inside: Netlink, fields: dict[str, object]
) -> None:
    family = socket.AF_INET6 if ":" in str(fields.get("source", "")) else socket.AF_INET
    before = inside.rules()
    said = {"family": int(family), "priority": 500, "table": 300, "owner": 78, **fields}
    inside.request([encoding.rule(links.NEWRULE, flags=links.CREATE, **said)])  # type: ignore[arg-type]

    (found,) = set(inside.rules()) - set(before)

    nothing = {"source": "", "protocol": "", "destination_port": "", "source_port": ""}
    assert found == decoding.Rule(**{**nothing, "no_default": False, **said})  # type: ignore[arg-type]
    inside.request([encoding.rule(links.DELRULE, **said)])  # type: ignore[arg-type]
    assert inside.rules() == before


@pytest.mark.parametrize("destination", ["10.1.0.0/16", "2001:db8:1::/48"])
def test_a_route_that_yields_leads_to_the_next_rule(inside: Netlink, destination: str) -> None:
    inside.request([encoding.settings(1)])
    request = encoding.route(
        links.NEWROUTE,
        destination=destination,
        table=7,
        type_=encoding.THROW,
        protocol=78,
        flags=links.CREATE,
    )
    inside.request([request])
    family = encoding.family_of(destination)
    question = encoding.route(
        links.GETROUTE, family=family, table=0, type_=encoding.THROW, protocol=78
    )

    (found,) = inside.dump(question)

    assert (found["type"], found.get_attr("RTA_TABLE")) == (encoding.THROW, 7)


def test_an_address_is_local_once_packets_for_it_are_taken_in(pair: Netlink) -> None:
    assert not pair.is_local("2001:db8::1")
    pair.request([encoding.settings(1001), encoding.settings(1002)])
    pair.request(
        [
            links.address(links.NEWADDR, index=1001, address=address, flags=links.CREATE)
            for address in ("2001:db8::1/128", "192.0.2.1/32")
        ]
    )

    for address in ("2001:db8::1", "192.0.2.1"):
        while not pair.is_local(address):
            time.sleep(0.005)  # no event tells; the test's time-out ends it


def test_what_fails_says_what_failed(inside: Netlink) -> None:
    with pytest.raises(LinkError, match="delete rule"):
        inside.request([encoding.rule(links.DELRULE, family=socket.AF_INET, priority=9, table=9)])
