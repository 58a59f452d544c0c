"""After a wiped bus: what a node may hold that has not told is given to nobody."""

import pytest

from services.ipam.core.state import Holding
from tests.ipam.builders import a_request, a_state, an_endpoint, facts, granted, pair, settled


def test_an_endpoint_with_a_pod_on_a_silent_node_grants_no_new_addresses():
    state = a_state(an_endpoint(pod="e1"), an_endpoint(pod="e2", node="node2"))
    state.put_silent({"node2"})
    refusal = settled(state, a_request()).refused

    assert refusal is not None
    assert refusal.reason == "NodeSilent"
    assert "node node2" in refusal.message
    assert "deleting the Node object" in refusal.message

    state.put_silent(())
    assert settled(state, a_request(), refusal=refusal).granted is not None


def test_other_endpoints_go_on():
    state = a_state(an_endpoint("a", node="node2"), an_endpoint("b"))
    state.put_silent({"node2"})

    assert granted(state, a_request()).endpoint == "b"


@pytest.mark.parametrize("is_granted", [True, False])
def test_what_stands_or_is_adopted_stays(is_granted):
    before = granted(a_state(an_endpoint()), a_request())
    state = a_state(an_endpoint(), an_endpoint(pod="e2", node="node2"))
    state.put_silent({"node2"})
    if is_granted:
        state.grant(before)
    else:
        state.stands(Holding.of(before))
    writes = settled(state, a_request(), reported=before)

    assert writes.refused is None
    assert state.grants[a_request().key] == before
    assert settled(state, a_request(), reported=before).granted is None


def test_what_stands_keeps_its_addresses_when_its_endpoint_is_edited_meanwhile():
    state = a_state(an_endpoint())
    before = granted(state, a_request())
    state.put_silent({"node1"})
    edited = an_endpoint(prefixes=("10.9.0.0/24",))
    state.put_endpoint(edited.key, edited)
    assert settled(state, a_request()).refused is None
    assert pair(state.grants[a_request().key]) == pair(before)

    state.put_silent(())
    assert pair(granted(state, a_request())) == ("10.9.0.1", "10.9.0.2")


def test_who_was_kept_for_a_silence_is_named_when_the_last_node_of_its_endpoint_is_heard():
    state = a_state(an_endpoint(pod="e1"), an_endpoint(pod="e2", node="node2"), an_endpoint("b"))
    granted(state, a_request())
    granted(state, a_request("c2", service="vpn"))
    state.put_silent({"node1", "node2"})
    state.put_silent({"node2"})
    assert state.kept_for({"node1"}) == [
        key for key, c in state.grants.items() if c.endpoint == "b"
    ]

    state.put_silent(())
    kept = state.kept_for({"node2"})
    assert kept == [key for key, c in state.grants.items() if c.endpoint == "vpn"]
    assert kept


def test_there_is_no_new_tunnel_while_two_nodes_may_have_one_between_them():
    state = a_state(an_endpoint(node="node2"), nodes=("node1", "node2", "node3", "node4"))
    for node in ("node1", "node2"):
        state.put_facts(facts(node))
    standing = settled(state, a_request()).granted
    state.put_silent({"node3", "node4"})
    refusal = settled(state, a_request("new")).refused
    assert refusal is not None
    assert refusal.reason == "NodeSilent"
    assert "node3, node4" in refusal.message
    assert settled(state, a_request()).granted is None
    assert state.grants[a_request().key] == standing

    state.put_silent({"node3"})
    assert settled(state, a_request("new"), refusal=refusal).granted is not None


def test_a_silent_node_gets_no_new_tunnel_for_nobody_knows_its_numbers():
    state = a_state(an_endpoint(node="node2"), nodes=("node1", "node2"))
    state.put_facts(facts("node1"))
    state.put_facts(facts("node2"))
    state.put_silent({"node1"})
    refusal = settled(state, a_request()).refused

    assert refusal is not None
    assert refusal.reason == "NodeSilent"
    assert "node1" in refusal.message
