"""What the bus holds, as rows."""

from typing import Any

import pytest
from msgspec.structs import replace

from cli.lab import busrows
from schemas.grant import ClusterPrefixes, Collision, Connection, End, Pool, PoolFigures, Refusal
from schemas.intent import Endpoint, Leader, PodRef, PrefixesInUse, Request, UsedPrefix
from schemas.state import EndStatus, Resolver, Status, Upstream

CLIENT = PodRef(namespace="apps", name="app", uid="u", node="node1")
SERVER = PodRef(namespace="default", name="vpn-1", uid="v", node="node1")
MESSAGES: dict[str, Any] = {
    "connections": Connection(
        node="node1",
        revision=2,
        network_service="vpn",
        network_service_namespace="default",
        endpoint="vpn",
        endpoint_namespace="default",
        client=End(pod=CLIENT, interface="nsm-1", mac="m", addresses=("172.16.1.2/32",)),
        server=End(pod=SERVER, interface="nse-1", mac="n", addresses=("172.16.1.1/32",)),
    ),
    "requests": Request(pod=CLIENT, interface="nsm-1", network_service="vpn", labels={"a": "b"}),
    "endpoints": Endpoint(endpoint="vpn", pod=SERVER, ready=True, network_services=("vpn",)),
    "refusals": Refusal(
        namespace="apps",
        pod="app",
        interface="nsm-1",
        uid="u",
        network_service="vpn",
        reason="PoolExhausted",
        message="172.16.1.0/24 is full",
    ),
    "statuses": Status(
        node="node1",
        namespace="apps",
        pod="app",
        interface="nsm-1",
        revision=2,
        client=EndStatus(uid="u", state="ready"),
        server=EndStatus(uid="v", state="pending", reason="EndpointPodGone", message="it ended"),
    ),
    "resolvers": Resolver(
        node="node1",
        namespace="apps",
        pod="app",
        uid="u",
        state="serving",
        mode="owned",
        upstreams=(
            Upstream(name="cluster", servers=("10.96.0.10",)),
            Upstream(name="default/vpn", servers=("172.16.1.1",), domains=("corp.example",)),
        ),
    ),
    "pools": Pool(
        namespace="default",
        endpoint="vpn",
        families=(PoolFigures(family=4, prefixes=("172.16.1.0/24",), size=254, used=2, free=252),),
    ),
    "prefixes": PrefixesInUse(
        source="node",
        name="node1",
        prefixes=(UsedPrefix(prefix="10.244.1.0/24", used_by="Pod CIDR of node node1"),),
    ),
    "cluster": ClusterPrefixes(prefixes=("10.96.0.0/16", "10.244.0.0/16")),
    "leaders": Leader(service="ipam", holder="ipam-0", incarnations={}, complete=True),
}


def test_every_kind_has_a_table():
    assert set(MESSAGES) == set(busrows.KINDS)


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_row_has_a_cell_per_column(kind):
    headers, rows = busrows.table(kind, [(MESSAGES[kind].key, MESSAGES[kind])])
    assert [len(row) for row in rows] == [len(headers)]


def test_a_status_tells_why_an_end_is_not_ready():
    _, (row,) = busrows.table("statuses", [(None, MESSAGES["statuses"])])
    assert row[3:5] == ["ready", "pending: EndpointPodGone it ended"]


def test_a_resolver_tells_whom_it_asks_for_what():
    _, (row,) = busrows.table("resolvers", [(None, MESSAGES["resolvers"])])
    assert row[4] == "cluster 10.96.0.10; default/vpn 172.16.1.1 for corp.example"


def test_a_pool_tells_its_figures_by_family_and_what_collides():
    families = (
        PoolFigures(family=4, prefixes=("172.16.1.0/24",), size=254, used=2, held=1, free=251),
        PoolFigures(family=6, prefixes=("2001:db8::/48",), size=2**80, excluded=5, free=2**80 - 5),
    )
    collision = Collision(prefix="172.16.1.0/24", overlaps="172.16.0.0/16", used_by="user")
    pool = Pool(namespace="default", endpoint="vpn", families=families, collisions=(collision,))
    _, (row,) = busrows.table("pools", [(pool.key, pool)])
    assert row == [
        "default/vpn",
        "172.16.1.0/24,2001:db8::/48",
        "254/~2^80",
        "2/0",
        "1/0",
        "0/5",
        "251/~2^80",
        "no",
        "172.16.1.0/24 overlaps 172.16.0.0/16",
    ]


def test_a_connection_across_nodes_is_one_row_with_both_nodes():
    far = replace(SERVER, node="node2")
    whole = replace(MESSAGES["connections"], server=End(pod=far, interface="nse-1", mac="n"))
    copy = replace(whole, node="node2")
    found = [(each.key, each) for each in (copy, whole)]
    (kept,) = busrows.once(found)
    assert kept == (whole.key, whole)
    _, (row,) = busrows.table("connections", [kept])
    assert row[7] == "node1,node2"
    assert busrows.once(found[:1]) == found[:1], "a copy alone is worth seeing"


def test_prefixes_in_use_tell_by_what():
    _, (row,) = busrows.table("prefixes", [(None, MESSAGES["prefixes"])])
    assert row == ["node", "node1", "10.244.1.0/24 (Pod CIDR of node node1)"]


def test_selection_by_namespace_and_name():
    found = [(message.key, message) for message in MESSAGES.values()]

    def kinds(namespace: str, name: str) -> list[str]:
        return [type(m).__name__ for _, m in busrows.select(found, namespace=namespace, name=name)]

    assert kinds("", "") == [type(m).__name__ for m in MESSAGES.values()]
    assert kinds("apps", "") == [
        "Connection",
        "Request",
        "Refusal",
        "Status",
        "Resolver",
        "PrefixesInUse",
        "ClusterPrefixes",
        "Leader",
    ]
    assert kinds("", "vpn-1") == ["Endpoint"]
    assert kinds("", "vpn") == ["Endpoint", "Pool"]
    assert kinds("", "ipam") == ["Leader"]


@pytest.mark.parametrize("kind", busrows.KINDS)
def test_a_kind_may_be_named_in_the_singular(kind):
    assert busrows.kind_of(kind) == busrows.kind_of(busrows.KINDS[kind].upper()) == kind
    assert busrows.kind_of("pods") is None
