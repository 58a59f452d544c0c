"""Prefixes that come to be in use later: who is affected, who moves, and who stays as it is."""

from ipaddress import ip_network

from msgspec.structs import replace

from schemas import intent
from services.ipam.core.state import Use
from tests.ipam.builders import (
    a_request,
    a_state,
    an_endpoint,
    granted,
    pair,
    refused,
    settled,
    uses,
)


def test_a_connection_is_affected_by_hard_ones_alone_and_only_while_they_are_there():
    state = a_state(an_endpoint())
    granted(state, a_request("a"))
    granted(state, a_request("b"))
    state.put_excluded((), uses("172.16.1.0/24"))
    assert state.affected() == []

    state.put_excluded(uses("172.16.1.3/32"))
    assert state.affected() == [a_request("b").key]
    state.put_excluded(uses("172.16.1.0/30"))
    assert state.affected() == [a_request("a").key, a_request("b").key]
    state.put_excluded(())
    assert state.affected() == []


def test_who_is_affected_is_known_whatever_was_heard_first():
    before = granted(a_state(an_endpoint()), a_request())
    for is_asked_first in (True, False):
        state = a_state()
        state.grant(before)
        state.put_excluded(uses("172.16.1.2/32"))
        endpoint = an_endpoint()
        state.put_endpoint(endpoint.key, endpoint)
        if is_asked_first:
            settled(state, a_request())

        assert state.affected() == [a_request().key]


def test_routes_count_but_a_declared_default_route_does_not():
    routes = (intent.Route(destination="10.20.0.0/16"), intent.Route(destination="0.0.0.0/0"))
    state = a_state(an_endpoint(routes=routes))
    before = granted(state, a_request())
    state.put_excluded(uses("10.30.0.0/16"))
    assert state.affected() == []
    state.put_excluded(uses("10.20.3.0/24"))
    assert state.affected() == [a_request().key]

    # Another address would not mend it: it stays, and says so, once.
    stands = settled(state, a_request(), readdress=True).granted
    assert stands == replace(
        before,
        revision=2,
        covered="the route 10.20.0.0/16 came to overlap 10.20.3.0/24 (user)",
    )
    for readdress in (True, False):
        assert settled(state, a_request(), readdress=readdress).granted is None
    state.put_excluded(())
    assert state.uncovered() == [a_request().key]
    assert settled(state, a_request()).granted == replace(before, revision=3)
    assert state.uncovered() == []


def test_an_affected_one_moves_when_told_and_says_why():
    state = a_state(an_endpoint(prefixes=("172.16.1.0/24", "fd00::/64")))
    before = settled(state, a_request()).granted
    assert before is not None
    state.put_excluded(uses("172.16.1.0/29", by="Service CIDR"))

    assert settled(state, a_request()).granted is None
    after = settled(state, a_request(), readdress=True).granted
    assert after is not None
    assert after.client.addresses == ("172.16.1.9/32", "fd00::2/128")
    assert after.server.addresses == ("172.16.1.8/32", "fd00::1/128")
    assert after.revision == before.revision + 1
    assert after.readdressed == (
        "172.16.1.2 and 172.16.1.1 came to overlap 172.16.1.0/29 (Service CIDR); "
        "the endpoint has 172.16.1.8, fd00::1 now instead of 172.16.1.1, fd00::1"
    )
    assert state.affected() == []
    assert settled(state, a_request(), readdress=True).granted is None
    assert settled(state, a_request()).granted is None


def test_old_addresses_are_held_until_the_node_has_the_new_ones():
    state = a_state(an_endpoint(prefixes=("172.16.1.0/29",), addressing="pointToPoint"))
    before = granted(state, a_request())
    state.put_excluded(uses("172.16.1.0/31"))
    after = settled(state, a_request(), readdress=True).granted
    assert after is not None
    state.put_excluded(())

    assert not set(pair(granted(state, a_request("b")))) & set(pair(before))
    state.gone(a_request().key, node="node1", revision=before.revision)
    assert pair(granted(state, a_request("c"))) == pair(before)


def test_without_a_replacement_it_stands_and_nobody_else_gets_anything():
    state = a_state(an_endpoint())
    before = settled(state, a_request()).granted
    state.put_excluded(uses("172.16.0.0/12"))

    # Before its turn came nobody knows that there is none.
    assert settled(state, a_request()).granted is None
    stands = settled(state, a_request(), readdress=True).granted
    assert before is not None
    assert stands == replace(
        before,
        revision=2,
        covered="172.16.1.2 and 172.16.1.1 came to overlap 172.16.0.0/12 (user)",
    )
    for readdress in (True, False, True):
        writes = settled(state, a_request(), readdress=readdress)
        assert (writes.granted, writes.refused, writes.released) == (None, None, ())
    assert refused(state, a_request("b")).reason == "PrefixCollision"


def test_another_endpoint_serves_when_the_same_has_nothing_left():
    state = a_state(an_endpoint("a"))
    granted(state, a_request())
    other = an_endpoint("b", prefixes=("10.9.0.0/24",))
    state.put_endpoint(other.key, other)
    state.put_excluded(uses("172.16.0.0/12"))
    moved = settled(state, a_request(), readdress=True).granted

    assert moved is not None
    assert moved.endpoint == "b"
    assert "172.16.0.0/12" in moved.readdressed
    assert moved.covered == ""


def test_an_edited_pool_moves_its_clients_and_they_are_told_why():
    state = a_state(an_endpoint())
    granted(state, a_request())
    edited = an_endpoint(prefixes=("172.16.9.0/24",))
    state.put_endpoint(edited.key, edited)
    moved = settled(state, a_request()).granted

    assert moved is not None
    assert pair(moved) == ("172.16.9.1", "172.16.9.2")
    assert moved.readdressed == (
        "endpoint default/vpn was edited; the endpoint has 172.16.9.1 now instead of 172.16.1.1"
    )
    wider = an_endpoint(prefixes=("172.16.9.0/24", "172.16.1.0/24"))
    state.put_endpoint(wider.key, wider)
    assert settled(state, a_request()).granted is None


def test_another_endpoint_pod_is_no_new_address_of_this_one():
    state = a_state(an_endpoint("a"))
    granted(state, a_request())
    other = an_endpoint("b", prefixes=("10.9.0.0/24",))
    state.put_endpoint(other.key, other)
    state.put_endpoint(an_endpoint("a").key, None)
    moved = settled(state, a_request()).granted

    assert moved is not None
    assert (moved.endpoint, moved.readdressed) == ("b", "")


def test_one_of_thousands_that_changes_is_told_apart():
    state = a_state(an_endpoint(prefixes=("172.16.0.0/16",)))
    every = [Use(ip_network(f"10.96.{n >> 8}.{n & 255}/32"), f"Service {n}") for n in range(5000)]
    state.put_excluded(every)
    granted(state, a_request())
    state.changed.clear()

    state.put_excluded([*every, *uses("172.16.0.2/32")])
    assert state.affected() == [a_request().key]
    assert state.changed == {("default", "vpn")}
    state.put_excluded(every[1:])
    assert state.affected() == []


def test_sources_are_told_one_by_one_and_do_not_touch_each_other():
    state = a_state(an_endpoint())
    state.put_uses("nsm.prefix.a", uses("172.16.0.0/12", by="a"), is_hard=True)
    state.put_uses("nsm.prefix.b", uses("172.16.1.0/24", by="b"), is_hard=True)
    state.put_uses("nsm.prefix.a", (), is_hard=True)
    assert refused(state, a_request()).reason == "PrefixCollision"

    state.put_uses("nsm.prefix.b", (), is_hard=True)
    assert pair(granted(state, a_request())) == ("172.16.1.1", "172.16.1.2")


def test_prefixes_of_the_cluster_are_the_hard_ones_merged():
    state = a_state()
    state.put_excluded(
        uses("10.244.0.0/24", "10.244.1.0/24", "10.96.0.10/32", "10.96.0.0/16", "fd00::/64"),
        uses("192.168.0.0/24"),
    )

    assert state.cluster_prefixes() == ("10.96.0.0/16", "10.244.0.0/23", "fd00::/64")


def test_where_only_the_endpoints_address_is_swallowed_the_client_keeps_its_own():
    state = a_state(an_endpoint())
    for name in ("a", "b"):
        granted(state, a_request(name))
    state.put_excluded(uses("172.16.1.1/32"))
    moved = [settled(state, a_request(name), readdress=True).granted for name in ("a", "b")]

    assert [pair(each) for each in moved] == [
        ("172.16.1.4", "172.16.1.2"),
        ("172.16.1.4", "172.16.1.3"),
    ]
    assert state.affected() == []


def test_a_pod_that_returns_gets_its_address_back_beside_the_endpoints_of_now():
    state = a_state(an_endpoint(prefixes=("172.16.1.0/29",)))
    for name in ("a", "b"):
        granted(state, a_request(name))
        state.release(a_request(name).key)
        state.gone(a_request(name).key, node="node1", revision=1)
    state.put_excluded(uses("172.16.1.1/32"))

    # What the first one had is the endpoint's now.
    assert pair(granted(state, a_request("b"))) == ("172.16.1.2", "172.16.1.3")
    assert pair(granted(state, a_request("a"))) == ("172.16.1.2", "172.16.1.4")
