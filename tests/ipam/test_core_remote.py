"""Connections across nodes: a tunnel both nodes can make, a number of its own, let go by both."""

import msgspec
import pytest

from services.ipam.core.linking import VNIS
from services.ipam.core.settling import abandon
from services.ipam.core.state import Holding
from services.ipam.model import is_copy, per_node
from tests.ipam.builders import (
    a_request,
    a_state,
    an_endpoint,
    facts,
    granted,
    pair,
    refused,
    settled,
)


def two_nodes(*endpoints, **kwargs):
    """An endpoint Pod on node2; clients are on node1."""
    state = a_state(*(endpoints or (an_endpoint(node="node2"),)), **kwargs)
    state.put_facts(facts("node1"))
    state.put_facts(facts("node2"))
    return state


def again(state, request):
    granted_anew = settled(state, request).granted
    assert granted_anew is not None
    return granted_anew


def test_two_nodes_that_can_are_connected_by_a_tunnel_of_its_own():
    state = two_nodes()
    first, second = granted(state, a_request("a")), granted(state, a_request("b"))

    assert (first.mechanism, first.vni, first.mtu) == ("vxlan", 1, 1450)
    assert (first.client.underlay, first.server.underlay) == ("192.0.2.1", "192.0.2.2")
    assert second.vni == 2


def test_on_one_node_there_is_a_veth_pair_with_the_nodes_mtu():
    state = two_nodes(an_endpoint())
    state.put_facts(facts("node1", mtu=9000))
    connection = granted(state, a_request())

    assert (connection.mechanism, connection.vni, connection.mtu) == ("veth", 0, 9000)
    assert connection.client.underlay == connection.server.underlay == ""


def test_the_smaller_mtu_counts_and_ipv6_takes_more_of_it():
    state = a_state(an_endpoint(node="node2"))
    state.put_facts(facts("node1", underlay="2001:db8::{}", mtu=9000))
    state.put_facts(facts("node2", underlay="2001:db8::{}", mtu=1500))

    assert granted(state, a_request()).mtu == 1430


@pytest.mark.parametrize(
    ("of_node1", "of_node2", "words"),
    [
        (None, {}, "node node1 has not told what it can do"),
        ({}, {"mechanisms": ("veth",)}, "node node2 cannot make a vxlan tunnel"),
        ({"underlay": ""}, {}, "node node1 tells no address for tunnels"),
        ({}, {"underlay": "fd00::{}"}, "one has an IPv4 address for tunnels, the other an IPv6"),
        ({}, {"underlay": "x"}, "node node2 tells 'x' as its address for tunnels"),
    ],
)
def test_a_node_that_cannot_is_named(of_node1, of_node2, words):
    state = a_state(an_endpoint(node="node2"))
    for node, said in (("node1", of_node1), ("node2", of_node2)):
        if said is not None:
            state.put_facts(facts(node, **said))
    refusal = refused(state, a_request())

    assert refusal.reason == "RemoteNotSupported"
    assert words in refusal.message


def test_an_endpoint_on_the_clients_node_comes_first_and_the_other_node_when_it_is_full():
    near = an_endpoint("near", prefixes=("10.9.0.0/31",))
    far = an_endpoint("far", node="node2")
    state = two_nodes(near, far)

    assert [granted(state, a_request(f"c{n}")).endpoint for n in range(3)] == ["near", "far", "far"]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"mtu": 1400}, {"mtu": 1350}),
        ({"underlay": "198.51.100.{}"}, {"mtu": 1450}),
    ],
)
def test_a_tunnel_follows_what_its_nodes_say_with_the_same_addresses(changed, expected):
    state = two_nodes()
    before = again(state, a_request())
    assert state.put_facts(facts("node2", **changed)) == [a_request().key]
    after = again(state, a_request())

    assert after.revision == before.revision + 1
    assert pair(after) == pair(before)
    assert (after.vni, after.mtu) == (before.vni, expected["mtu"])
    assert after.server.underlay == changed.get("underlay", "192.0.2.{}").format(2)
    assert state.put_facts(facts("node2", **changed)) == []


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_what_stands_outlives_the_silence_of_its_nodes(node):
    state = two_nodes()
    before = again(state, a_request())
    state.drop_facts(node)
    assert settled(state, a_request()).granted is None
    state.put_facts(facts(node, mechanisms=("veth",)))

    assert settled(state, a_request()).granted is None
    assert state.grants[a_request().key] == before
    assert refused(state, a_request("b")).reason == "RemoteNotSupported"


@pytest.mark.parametrize("first", ["node1", "node2"])
def test_addresses_and_number_are_free_when_both_nodes_have_confirmed(first):
    state = two_nodes(an_endpoint(node="node2", prefixes=("10.9.0.0/31",)))
    before = again(state, a_request("a"))
    abandon(state, a_request("a").key, refusal=None)
    second = "node2" if first == "node1" else "node1"

    state.gone(a_request("a").key, node=first, revision=before.revision)
    assert refused(state, a_request("b")).reason == "PoolExhausted"
    assert not state.vnis.is_free_for(before.vni, a_request("b").key)
    assert state.gone(a_request("a").key, node=second, revision=before.revision)
    assert pair(granted(state, a_request("b"))) == pair(before)
    assert state.vnis.is_free_for(before.vni, a_request("b").key)


def test_a_node_that_is_gone_has_confirmed():
    state = two_nodes(an_endpoint(node="node2", prefixes=("10.9.0.0/31",)))
    before = again(state, a_request("a"))
    abandon(state, a_request("a").key, refusal=None)
    state.put_node("node2", exists=False)
    state.gone(a_request("a").key, node="node1", revision=before.revision)

    assert not state.held(a_request("a").key)


def test_the_copy_for_the_endpoints_node_is_buried_where_nobody_needs_it_any_more():
    moved_from, moved_to = an_endpoint(pod="e2", node="node2"), an_endpoint(pod="e3", node="node3")
    state = two_nodes(moved_from, nodes=("node1", "node2", "node3"))
    state.put_facts(facts("node3"))
    before = again(state, a_request())
    state.put_endpoint(moved_to.key, moved_to)
    state.put_endpoint(moved_from.key, None)
    writes = settled(state, a_request())

    assert [(each.node, is_copy(each)) for each in writes.released] == [("node2", True)]
    assert writes.granted is not None
    assert [each.node for each in per_node(writes.granted)] == ["node1", "node3"]
    assert pair(writes.granted) == pair(before)
    (held,) = state.held(a_request().key)
    assert held.nodes == {"node1", "node2"}
    state.stands(Holding.of(writes.granted), node="node1")
    (held,) = state.held(a_request().key)
    assert held.nodes == {"node2"}
    state.gone(a_request().key, node="node2", revision=before.revision)
    assert not state.held(a_request().key)


def test_both_messages_are_buried_when_nobody_asks_any_more():
    state = two_nodes()
    again(state, a_request())

    released = abandon(state, a_request().key, refusal=None).released
    assert [each.node for each in released] == ["node1", "node2"]


def test_what_the_endpoints_node_reports_is_adopted_when_the_clients_is_silent():
    before = again(two_nodes(), a_request())
    state = a_state(an_endpoint(node="node2"))
    state.put_silent({"node1"})
    state.put_facts(facts("node2"))
    copy = next(each for each in per_node(before) if is_copy(each))
    state.stands(Holding.of(copy), node="node2")
    adopted = settled(state, a_request(), reported=copy)

    assert adopted.granted == before
    assert state.load(an_endpoint(node="node2").key) == 1


def test_what_a_silent_node_may_have_of_a_reported_connection_is_its_until_it_told():
    before = again(two_nodes(), a_request())
    state = a_state(an_endpoint(node="node2", prefixes=("172.16.1.0/30",)))
    state.put_silent({"node1"})
    state.stands(Holding.of(before), node="node2")
    state.gone(a_request().key, node="node2", revision=before.revision)
    assert state.held(a_request().key)

    assert state.put_silent(())
    assert not state.held(a_request().key)


def test_what_a_node_that_was_silent_has_after_all_stays_its():
    before = again(two_nodes(), a_request())
    state = a_state(an_endpoint(node="node2"))
    state.put_silent({"node1"})
    state.stands(Holding.of(before), node="node2")
    state.stands(Holding.of(before), node="node1")
    state.put_silent(())

    (held,) = state.held(a_request().key)
    assert held.nodes == {"node1", "node2"}


def test_a_node_that_tells_no_mtu_has_the_usual_one():
    state = a_state(an_endpoint(node="node2"))
    state.put_facts(facts("node1", mtu=0))
    state.put_facts(facts("node2", mtu=9000))

    assert granted(state, a_request()).mtu == 1450


def test_ipv6_through_a_tunnel_that_is_too_small_for_it_is_refused_with_a_remedy():
    endpoint = an_endpoint(node="node2", prefixes=("172.16.1.0/24", "2001:db8::/112"))
    state = two_nodes(endpoint)
    state.put_facts(facts("node2", mtu=1300))
    refusal = settled(state, a_request()).refused

    assert refusal is not None
    assert refusal.reason == "RemoteNotSupported"
    assert "nodes node1 and node2 has an MTU of 1250" in refusal.message
    assert "raise the MTU" in refusal.message
    state.put_facts(facts("node2", mtu=1330))
    assert again(state, a_request()).mtu == 1280


def test_what_stands_stays_as_it_is_when_its_tunnel_becomes_too_small_for_ipv6():
    state = two_nodes(an_endpoint(node="node2", prefixes=("2001:db8::/112",)))
    before = again(state, a_request())
    state.put_facts(facts("node2", mtu=1300))
    writes = settled(state, a_request())

    assert writes.refused is writes.granted is None
    assert not writes.released
    assert state.grants[a_request().key] == before


def test_on_one_node_ipv6_always_fits():
    state = a_state(an_endpoint(prefixes=("2001:db8::/112",)))
    state.put_facts(facts("node1", mtu=1000))

    assert granted(state, a_request()).mtu == 1280


@pytest.mark.parametrize("first", ["node1", "node2"])
def test_a_pod_may_have_again_what_its_own_node_let_go(first):
    endpoints = [
        an_endpoint(n, services=(n,), node="node2", addressing="pointToPoint") for n in "ab"
    ]
    state = two_nodes(*endpoints)
    before = again(state, a_request(service="a", interface="i1"))
    abandon(state, a_request(interface="i1").key, refusal=None)
    assert settled(state, a_request(service="b", interface="i2")).refused is not None

    assert state.gone(a_request(interface="i1").key, node=first, revision=before.revision)
    writes = settled(state, a_request(service="b", interface="i2"))
    assert (writes.granted is not None) == (first == "node1")


def test_a_number_that_was_given_back_rests():
    state = two_nodes()
    first = again(state, a_request("a"))
    abandon(state, a_request("a").key, refusal=None)
    for node in ("node1", "node2"):
        state.gone(a_request("a").key, node=node, revision=first.revision)

    assert again(state, a_request("b")).vni == 2


def test_numbers_begin_anew_after_the_last_one():
    state = two_nodes()
    last = again(state, a_request("a"))
    state.grant(msgspec.structs.replace(last, vni=VNIS))

    assert again(state, a_request("b")).vni == 1
    assert again(state, a_request("c")).vni == 2
