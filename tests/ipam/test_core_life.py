"""The life of a connection: the same answer again, held until confirmed, given back, adopted."""

from services.ipam.core.deciding import Granted, decide
from services.ipam.core.settling import settle
from services.ipam.core.state import Holding
from tests.ipam.builders import a_request, a_state, an_endpoint, granted, pair, refused


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
    assert "10.9.0.0/29 is full: 6 of 6 addresses used" in refusal.message

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
