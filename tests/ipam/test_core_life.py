"""The life of a connection: the same answer again, held until confirmed, given back, adopted."""

import msgspec
import pytest

from schemas.intent import Route
from schemas.subjects import ConnectionKey
from services.ipam.adapters import tombstone_of
from services.ipam.core.deciding import Granted, decide
from services.ipam.core.settling import abandon, settle
from services.ipam.core.state import Holding
from services.ipam.model import per_node
from tests.ipam.builders import (
    a_request,
    a_state,
    an_endpoint,
    facts,
    granted,
    pair,
    refused,
    settled,
    uses,
)


def test_deciding_again_changes_nothing():
    state = a_state(an_endpoint())
    first = granted(state, a_request())

    assert granted(state, a_request()) is first


def test_pod_addresses_that_become_known_later_make_no_new_revision():
    state = a_state(an_endpoint())
    first = granted(state, a_request())

    assert granted(state, a_request(ips=("10.244.1.7",))) is first


def test_a_released_address_is_held_until_the_node_confirms():
    state = a_state(an_endpoint(prefixes=("10.9.0.0/30",)))
    request = a_request("a")
    connection = granted(state, request)
    state.release(request.key)

    assert refused(state, a_request("b")).reason == "PoolExhausted"
    assert not state.gone(request.key, node="node1", revision=connection.revision - 1)
    assert state.gone(request.key, node="node1", revision=connection.revision)
    assert pair(granted(state, a_request("b"))) == ("10.9.0.1", "10.9.0.2")


def test_the_same_pod_and_interface_get_their_address_back_while_it_is_free():
    state = a_state(an_endpoint())
    for name in ("a", "b", "c"):
        granted(state, a_request(name))
    before = state.release(a_request("b").key)
    state.gone(a_request("b").key, node="node1", revision=before.revision)
    state.release(a_request("a").key)
    state.gone(a_request("a").key, node="node1", revision=1)

    assert pair(granted(state, a_request("b", uid="re-created"))) == pair(before)


def test_who_returns_before_the_node_confirmed_gets_the_same_address():
    state = a_state(an_endpoint())
    before = granted(state, a_request("a"))
    granted(state, a_request("b"))
    state.release(a_request("a").key)

    assert pair(granted(state, a_request("a"))) == pair(before)


def test_a_late_confirmation_of_an_old_revision_frees_nothing_of_the_new_one():
    state = a_state(an_endpoint(prefixes=("10.9.0.0/30",)))
    request = a_request("a")
    old = granted(state, request)
    state.release(request.key)
    result = decide(state, request, previous=None, revision=old.revision + 1)
    assert isinstance(result, Granted)
    state.grant(result.connection)

    state.gone(request.key, node="node1", revision=old.revision)

    assert refused(state, a_request("b")).reason == "PoolExhausted"


def test_what_was_released_is_not_adopted_again_under_its_old_revision():
    state = a_state(an_endpoint(prefixes=("10.9.0.0/30",)))
    request = a_request("a")
    first = settle(state, request, refusal=None, reported=None).granted
    assert first is not None
    state.stands(Holding.of(first))
    state.release(request.key)
    state.stands(Holding.of(first))  # the node says once more what it still has

    second = settle(state, request, refusal=None, reported=first).granted
    assert second is not None
    assert second.revision == first.revision + 1
    state.release(request.key)
    state.gone(request.key, node="node1", revision=first.revision)
    assert refused(state, a_request("b")).reason == "PoolExhausted"


def test_what_a_node_has_and_nobody_granted_is_adopted_as_it_is():
    before = granted(a_state(an_endpoint()), a_request("a"))
    state = a_state(an_endpoint())
    state.stands(Holding.of(before))
    assert pair(granted(state, a_request("other"))) == ("172.16.1.1", "172.16.1.3")

    assert settle(state, a_request("a"), refusal=None, reported=before).granted == before


def test_the_same_name_on_another_node_waits_for_the_first_to_confirm():
    state = a_state(an_endpoint(pod="e1"), an_endpoint(pod="e2", node="node2"))
    before = granted(state, a_request("a"))
    moved = settle(
        state, a_request("a", node="node2", uid="other"), refusal=None, reported=None
    ).granted

    assert moved is not None
    assert pair(moved)[1] != pair(before)[1]


def test_nothing_is_held_for_a_node_that_is_gone():
    state = a_state(an_endpoint(prefixes=("10.9.0.0/30",)))
    granted(state, a_request("a"))
    state.put_node("node1", exists=False)
    state.release(a_request("a").key)

    assert granted(state, a_request("b")).client.addresses == ("10.9.0.2/32",)


def test_what_a_node_reports_is_nobody_elses():
    state = a_state(an_endpoint(prefixes=("10.9.0.0/30",)))
    before = granted(a_state(an_endpoint(prefixes=("10.9.0.0/30",))), a_request("a"))
    state.hold(Holding.of(before))

    assert refused(state, a_request("b")).reason == "PoolExhausted"


def test_a_pool_of_n_serves_n_and_the_next_one_when_one_is_freed():
    state = a_state(an_endpoint(prefixes=("10.9.0.0/29",)))
    for number in range(5):
        granted(state, a_request(f"c{number}"))

    refusal = refused(state, a_request("late"))
    assert refusal.reason == "PoolExhausted"
    assert "10.9.0.0/29 is full: 6 of 6 addresses taken" in refusal.message

    state.release(a_request("c3").key)
    state.gone(a_request("c3").key, node="node1", revision=1)
    assert pair(granted(state, a_request("late")))[1] == "10.9.0.5"


def test_a_new_endpoint_pod_of_the_object_keeps_the_addresses():
    state = a_state(an_endpoint(pod="vpn-1"))
    before = granted(state, a_request())
    state.put_endpoint(an_endpoint(pod="vpn-1").key, None)
    replacement = an_endpoint(pod="vpn-2")
    state.put_endpoint(replacement.key, replacement)
    after = granted(state, a_request())

    assert after.server.pod.name == "vpn-2"
    assert pair(after) == pair(before)
    assert after.revision == before.revision + 1


def moved(state):
    """Revision 2 on another endpoint, of which revision 1 is still on node1."""
    for node in ("node1", "node2", "node3"):
        state.put_node(node, exists=True)
        state.put_facts(facts(node))
    first, second = an_endpoint("x"), an_endpoint("y", node="node2", prefixes=("172.16.2.0/24",))
    state.put_endpoint(first.key, first)
    request = a_request(node="node3")
    assert settled(state, request).granted is not None
    state.put_endpoint(second.key, second)
    state.put_endpoint(first.key, None)
    writes = settled(state, request)
    assert writes.granted is not None
    assert writes.granted.revision == 2
    return request, writes.granted


def test_no_revision_is_given_twice_while_a_node_lags_behind():
    state = a_state(nodes=())
    request, before = moved(state)
    abandon(state, request.key, refusal=None)
    for node in ("node2", "node3"):
        state.gone(request.key, node=node, revision=2)
    again = settled(state, a_request(node="node3", uid="re-created")).granted
    assert again is not None
    assert again.revision == 3

    abandon(state, request.key, refusal=None)
    for node in ("node2", "node3"):  # once more what they said of the former Pod
        state.gone(request.key, node=node, revision=before.revision)
    other = settled(state, a_request("other", node="node3")).granted
    assert other is not None
    assert pair(other)[1] != pair(again)[1]


def test_a_new_leader_counts_on_from_what_nodes_confirmed():
    state = a_state(an_endpoint())
    state.gone(a_request().key, node="node1", revision=7)

    assert again(state, a_request()).revision == 8


def test_the_newest_of_what_it_had_is_what_it_gets_back():
    state = a_state(nodes=())
    request, before = moved(state)
    abandon(state, request.key, refusal=None)
    for node, revision in (("node2", 2), ("node3", 2), ("node1", 1)):
        state.gone(request.key, node=node, revision=revision)
    known = state.last_known(request.key)

    assert known is not None
    assert known.revision == before.revision


def again(state, request, **kwargs):
    granted_anew = settled(state, request, **kwargs).granted
    assert granted_anew is not None
    return granted_anew


def readdressed(state):
    """From .2 to .3; no node has said anything yet."""
    before = again(state, a_request())
    state.put_excluded(uses("172.16.1.2/32"))
    after = again(state, a_request(), readdress=True)
    state.put_excluded([])
    assert pair(before) == ("172.16.1.1", "172.16.1.2")
    assert pair(after) == ("172.16.1.1", "172.16.1.3")
    return after


def restarted(*connections):
    """Who reads only what is on the bus."""
    state = a_state(an_endpoint())
    for connection in connections:
        state.grant(connection)
    return state


def test_a_replaced_revision_is_held_over_a_restart_until_its_node_says_the_new_one():
    after = readdressed(a_state(an_endpoint()))
    state = restarted(after)
    assert pair(again(state, a_request("b")))[1] == "172.16.1.4"

    state.stands(Holding.of(after))
    assert pair(again(state, a_request("c")))[1] == "172.16.1.2"


def test_what_is_held_makes_no_new_revision():
    after = readdressed(a_state(an_endpoint()))
    state = restarted(after)
    assert settled(state, a_request()).granted is None
    state.stands(Holding.of(after))

    assert settled(state, a_request()).granted is None
    assert state.grants[a_request().key] == after


def test_what_a_release_leaves_behind_tells_of_former_revisions_as_well():
    state = a_state(an_endpoint())
    after = readdressed(state)
    abandon(state, a_request().key, refusal=None)
    tombstone = tombstone_of(after, at="")
    key = ConnectionKey("node1", "default", "client", "nsm-1")
    late = a_state(an_endpoint())
    late.hold(Holding.of_tombstone(key, tombstone))
    for former in Holding.formers_of_tombstone(key, tombstone):
        late.hold(former)

    assert pair(again(late, a_request("b")))[1] == "172.16.1.4"
    late.gone(a_request().key, node="node1", revision=after.revision)
    assert pair(again(late, a_request("c")))[1] == "172.16.1.2"


def test_a_revision_with_the_same_addresses_has_nothing_to_tell_of_before():
    state = a_state(an_endpoint())
    again(state, a_request())
    edited = an_endpoint(routes=(Route(destination="10.20.0.0/16"),))
    state.put_endpoint(edited.key, edited)

    assert again(state, a_request()).held == ()


def test_revisions_with_one_set_of_addresses_are_told_as_one():
    state = a_state(an_endpoint())
    again(state, a_request())
    for number in range(5):
        edited = an_endpoint(routes=(Route(destination=f"10.{number}.0.0/16"),))
        state.put_endpoint(edited.key, edited)
        again(state, a_request())
    state.put_excluded(uses("172.16.1.2/32"))
    (former,) = again(state, a_request(), readdress=True).held

    assert (former.revision, former.addresses) == (6, ("172.16.1.2/32",))


def test_all_prefixes_in_use_are_merged_again_only_after_a_hard_one_changed():
    state = a_state()
    state.put_uses("user", uses("10.1.0.0/17", "10.1.128.0/17"), is_hard=True)
    before = state.cluster_prefixes()
    state.put_uses("seen", uses("10.2.0.0/16"), is_hard=False)
    assert state.cluster_prefixes() is before

    state.put_uses("user", uses("10.1.0.0/17"), is_hard=True)
    assert state.cluster_prefixes() == ("10.1.0.0/17",)


def test_a_node_that_has_a_newer_revision_than_the_bus_is_told_a_newer_one():
    state = a_state(an_endpoint())
    before = again(state, a_request())
    newer = msgspec.structs.replace(before, revision=3)
    state.stands(Holding.of(newer))
    assert state.is_outrun(a_request().key)
    after = again(state, a_request(), reported=newer)

    assert after == msgspec.structs.replace(before, revision=4)
    state.stands(Holding.of(after))
    assert not state.is_outrun(a_request().key)
    assert settled(state, a_request(), reported=after).granted is None


def test_what_is_released_before_its_node_is_known_is_held():
    state = a_state(an_endpoint(node="late"), nodes=())
    before = again(state, a_request(node="late"))
    abandon(state, a_request().key, refusal=None)
    state.put_node("late", exists=True)

    assert pair(again(state, a_request("b", node="late")))[1] != pair(before)[1]


ROUTE = (Route(destination="10.20.0.0/16"),)


@pytest.mark.parametrize("routes", [(), ROUTE])
def test_a_pods_new_interface_waits_for_what_its_node_has_not_taken_down(routes):
    one = an_endpoint("a", services=("a",), routes=routes)
    other = an_endpoint("b", services=("b",), prefixes=("172.16.2.0/24",), routes=routes)
    same = an_endpoint("c", services=("c",), routes=routes)
    state = a_state(one, other, same)
    before = again(state, a_request(service="a", interface="i1"))
    abandon(state, a_request(interface="i1").key, refusal=None)
    waits = "b" if routes else "c"
    refusal = settled(state, a_request(service=waits, interface="i2")).refused

    assert refusal is not None
    assert refusal.reason == "NotReleased"
    assert "connection i1 of pod default/client" in refusal.message
    assert again(state, a_request("another", service=waits)).revision == 1
    state.gone(a_request(interface="i1").key, node="node1", revision=before.revision)
    assert again(state, a_request(service=waits, interface="i2")).endpoint == waits


def test_addresses_of_a_pod_are_told_along_and_make_no_revision_of_their_own():
    state = a_state(an_endpoint(ips=("10.244.1.3",)))
    before = again(state, a_request())
    assert before.server.pod.ips == ("10.244.1.3",)
    known = a_request(ips=("10.244.1.7",))

    assert settled(state, known).granted is None
    assert settle(state, known, refusal=None, reported=before, plumbed={"node1"}).granted is None


def test_a_node_that_still_seeks_a_pod_is_told_its_addresses_once():
    state = a_state(an_endpoint())
    before = again(state, a_request())
    known = a_request(ips=("10.244.1.7",))
    told = settle(state, known, refusal=None, reported=None, plumbed=set()).granted

    assert told is not None
    assert told.revision == before.revision + 1
    assert told.client.pod.ips == ("10.244.1.7",)
    assert pair(told) == pair(before)
    assert settle(state, known, refusal=None, reported=None, plumbed=set()).granted is None
    assert [each.held for each in per_node(told)] == [()]
