"""Tally: counts that are kept up to date are those that counting anew would give."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.subjects import ConnectionKey
from services.watcher.core.tally import Tally
from services.watcher.model import NetworkService, NetworkServiceEndpoint
from tests.builders import a_connection, a_pod, an_end, an_endpoint
from tests.watcher.builders import a_status

VPN = (NetworkServiceEndpoint, ("default", "vpn"))
SERVICE = (NetworkService, ("default", "vpn"))
STATES = ("ready", "waiting", "failed", "silent")


def counted(tally, subject=VPN):
    connections = tally.of(subject).connections
    return {state: len(connections[state]) for state in STATES if connections[state]}


def connected(connection, status=None):
    tally = Tally()
    touched = tally.put_connection(connection.key, connection, status)
    return tally, touched


def test_an_endpoint_pod_counts_while_it_may_get_clients():
    tally = Tally()
    ready = an_endpoint()
    assert tally.put_offer(ready.key, ready) == {VPN, SERVICE}
    assert tally.put_offer(ready.key, ready) == frozenset()
    assert tally.of(VPN).endpoints == tally.of(SERVICE).endpoints == 1
    lost = an_endpoint(pod="other", ready=False)
    assert tally.put_offer(lost.key, lost) == frozenset()
    away = msgspec.structs.replace(ready, pod=msgspec.structs.replace(ready.pod, node_ready=False))
    assert tally.put_offer(ready.key, away) == {VPN, SERVICE}
    assert tally.of(VPN).endpoints == 0


def test_a_pod_that_two_endpoints_select_is_one_endpoint_pod_of_their_network_service():
    tally = Tally()
    for each in (an_endpoint("vpn"), an_endpoint("other")):
        tally.put_offer(each.key, each)
    assert tally.of(SERVICE).endpoints == 1


def test_a_connection_counts_for_its_endpoint_and_its_network_service():
    connection = a_connection()
    tally, touched = connected(connection, a_status(connection))
    assert touched == {VPN, SERVICE}
    assert counted(tally) == counted(tally, SERVICE) == {"ready": 1}
    assert tally.put_connection(connection.key, None, None) == {VPN, SERVICE}
    assert tally.of(VPN).clients == 0


def test_the_copy_under_the_endpoints_node_is_not_counted_again():
    connection = a_connection(
        node="node2",
        server=msgspec.structs.replace(an_end("gateway"), pod=a_pod("gateway", node="node2")),
    )
    tally, touched = connected(connection)
    assert touched == frozenset()
    assert tally.of(VPN).clients == 0


def test_a_failure_with_an_older_grant_is_no_failure_of_this_one():
    old, new = a_connection(revision=1), a_connection(revision=2)
    failed = a_status(old, state="failed", applied=None)
    assert counted(connected(old, failed)[0]) == {"failed": 1}
    assert counted(connected(new, failed)[0]) == {"waiting": 1}


def test_what_stands_by_another_endpoint_pod_is_not_ready_yet():
    old = a_connection(server=an_end("before"))
    new = a_connection(revision=2)
    assert counted(connected(new, a_status(old))[0]) == {"waiting": 1}


def test_a_status_of_another_pod_says_nothing():
    connection = a_connection()
    tally, _ = connected(connection, a_status(connection, uid="another"))
    assert counted(tally) == {"silent": 1}
    assert set(tally.silent()) == {VPN, SERVICE}


messages = st.builds(
    lambda pod, endpoint, service, state: (pod, endpoint, service, state),
    st.sampled_from(["a", "b", "c"]),
    st.sampled_from(["vpn", "web", None]),
    st.sampled_from(["vpn", "other"]),
    st.sampled_from(["ready", "pending", "failed", None]),
)


@given(st.lists(messages, max_size=20), st.lists(messages, max_size=20))
def test_counting_on_is_counting_anew(connections, offers):
    tally, fresh = Tally(), Tally()
    last, last_offers = {}, {}
    for pod, endpoint, service, state in connections:
        key = ConnectionKey("node1", "default", pod, "nsm-vpn")
        granted = a_connection(pod, endpoint=endpoint, network_service=service)
        status = a_status(granted, state=state) if state else None
        last[key] = (granted, status) if endpoint else (None, status)
        touched = tally.put_connection(key, *last[key])
        assert touched == frozenset() or tally.put_connection(key, *last[key]) == frozenset()
    for pod, endpoint, service, state in offers:
        offer = an_endpoint(
            endpoint or "vpn", pod, network_services=(service,), ready=state == "ready"
        )
        last_offers[offer.key] = offer if endpoint else None
        tally.put_offer(offer.key, last_offers[offer.key])
    for key, each in last.items():
        fresh.put_connection(key, *each)
    for offered, standing in last_offers.items():
        fresh.put_offer(offered, standing)
    assert tally._counts == fresh._counts
