"""What `nsm lab interfaces` reads of a real kernel: tables and rules beside the main ones, too."""

import json
import os
import sys
from collections.abc import Iterator

from cli import labs
from cli.lab import interfaces
from lab import linux
from services._node import encoding, links
from services._node.encoding import Request


def _laid_out() -> int:
    """In a network with one link: a default route in table 7, which leaves a prefix to the main one."""
    if os.getuid() != 0:
        uid, gid = os.getuid(), os.getgid()
        linux.unshare(linux.CLONE_NEWUSER)
        linux.map_to_root(uid, gid)
    linux.unshare(linux.CLONE_NEWNET)
    peer = {"attrs": [("IFLA_IFNAME", "peer")]}
    info = {
        "attrs": [
            ("IFLA_INFO_KIND", "veth"),
            ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", peer)]}),
        ]
    }
    with links.Netlink() as netlink:
        attrs = [("IFLA_IFNAME", "nsm-1"), ("IFLA_LINKINFO", info)]
        netlink.request([links.link(links.NEWLINK, flags=links.CREATE, attrs=attrs)])
        made = netlink.find_link("nsm-1")
        assert made is not None
        index = int(made["index"])
        netlink.request(
            [
                links.link(links.NEWLINK, index=index, up=True),
                links.address(
                    links.NEWADDR, index=index, address="172.16.1.2/32", flags=links.CREATE
                ),
                *_routes(index),
                links.rule(links.NEWRULE, family=2, priority=20002, table=7, flags=links.CREATE),
                links.rule(
                    links.NEWRULE,
                    family=2,
                    priority=20001,
                    table=254,
                    no_default=True,
                    flags=links.CREATE,
                ),
                links.rule(
                    links.NEWRULE,
                    family=2,
                    priority=10000,
                    table=7,
                    source="172.16.1.2/32",
                    protocol="tcp",
                    destination_port="6666",
                    flags=links.CREATE,
                ),
            ]
        )
    found = interfaces.read()
    sys.stdout.write(json.dumps(next(each for each in found if each["name"] == "nsm-1")) + "\n")
    interfaces._print(found)
    return 0


def _routes(index: int) -> Iterator[Request]:
    yield links.route(links.NEWROUTE, index=index, destination="172.16.1.1/32", flags=links.CREATE)
    yield links.route(
        links.NEWROUTE,
        index=index,
        destination="0.0.0.0/0",
        gateway="172.16.1.1",
        table=7,
        flags=links.CREATE,
    )
    yield links.route(
        links.NEWROUTE,
        destination="10.96.0.0/16",
        table=7,
        type_=encoding.THROW,
        flags=links.CREATE,
    )


def test_routes_of_all_tables_and_the_rules_that_lead_there_are_told(capfd):
    assert labs.in_child(_laid_out) == 0
    first, *told = capfd.readouterr().out.splitlines()
    link = json.loads(first)
    routes = {
        (route["destination"], route["via"], route["table"], route["yields"])
        for route in link["routes"]
        if route["family"] == 4
    }
    assert routes == {
        ("172.16.1.1/32", "", 254, False),
        ("0.0.0.0/0", "172.16.1.1", 7, False),
        ("10.96.0.0/16", "", 7, True),
    }
    assert [rule["priority"] for rule in link["rules"]] == [10000, 20001, 20002]
    text = "\n".join(told)
    for words in (
        "0.0.0.0/0 via 172.16.1.1 (table 7)",
        "stays on the Pod's own interface: 10.96.0.0/16 (table 7)",
        "10000   IPv4     from 172.16.1.2/32 protocol tcp to port 6666   7",
        "main, but not its default route",
    ):
        assert words in text
    assert told.index(next(line for line in told if line.startswith("20002"))) == len(told) - 1
