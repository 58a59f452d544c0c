"""Which addresses a connection gets: shared, point to point, both families, the lowest first."""

import pytest

from services.ipam.core.settling import abandon
from tests.ipam.builders import a_request, a_state, an_endpoint, granted, pair, settled, uses


def test_shared_gives_the_first_address_to_the_endpoint_and_the_next_ones_to_clients():
    state = a_state(an_endpoint())

    assert pair(granted(state, a_request("a"))) == ("172.16.1.1", "172.16.1.2")
    assert pair(granted(state, a_request("b"))) == ("172.16.1.1", "172.16.1.3")


def test_shared_gives_replicas_one_endpoint_address_and_no_client_address_twice():
    replicas = [an_endpoint(pod=f"vpn-{i}") for i in range(3)]
    state = a_state(*replicas)
    given = [pair(granted(state, a_request(f"c{i}"))) for i in range(9)]

    assert {server for server, _ in given} == {"172.16.1.1"}
    assert len({client for _, client in given}) == 9
    assert {state.load(e.key) for e in replicas} == {3}


@pytest.mark.parametrize(
    ("prefix", "excluded", "expected"),
    [
        ("172.16.1.100/31", (), ("172.16.1.100", "172.16.1.101")),
        (
            "172.16.1.200/30",
            ("172.16.1.201/32", "172.16.1.202/32"),
            ("172.16.1.200", "172.16.1.203"),
        ),
        ("2001:db8::/112", (), ("2001:db8::", "2001:db8::1")),
    ],
)
def test_point_to_point_takes_the_two_lowest_free_addresses(prefix, excluded, expected):
    state = a_state(
        an_endpoint(prefixes=(prefix,), addressing="pointToPoint"),
        excluded=[(prefix, "user") for prefix in excluded],
    )

    assert pair(granted(state, a_request())) == expected


def test_two_network_services_with_one_prefix_on_one_client_are_kept_apart():
    prefix = ("172.16.1.96/29",)
    state = a_state(
        an_endpoint("one", prefixes=prefix, services=("one",), addressing="pointToPoint"),
        an_endpoint("two", prefixes=prefix, services=("two",), addressing="pointToPoint"),
    )

    first = granted(state, a_request(interface="nsm-1", service="one"))
    second = granted(state, a_request(interface="nsm-2", service="two"))

    assert pair(first) == ("172.16.1.96", "172.16.1.97")
    assert pair(second) == ("172.16.1.98", "172.16.1.99")


def test_shared_falls_back_to_a_pair_where_the_client_has_the_endpoints_address_already():
    state = a_state(an_endpoint("one", services=("one",)), an_endpoint("two", services=("two",)))

    first = granted(state, a_request(interface="nsm-1", service="one"))
    second = granted(state, a_request(interface="nsm-2", service="two"))

    assert pair(first) == ("172.16.1.1", "172.16.1.2")
    assert not set(pair(second)) & set(pair(first))


def test_both_families_side_by_side():
    state = a_state(an_endpoint(prefixes=("172.16.1.0/24", "2001:db8::/64")))
    connection = granted(state, a_request())

    assert connection.client.addresses == ("172.16.1.2/32", "2001:db8::2/128")
    assert connection.server.addresses == ("172.16.1.1/32", "2001:db8::1/128")


def test_a_full_prefix_is_followed_by_the_next_one():
    state = a_state(an_endpoint(prefixes=("10.9.0.0/30", "10.9.1.0/30")))

    assert [pair(granted(state, a_request(f"c{i}")))[1] for i in range(3)] == [
        "10.9.0.2",
        "10.9.1.1",
        "10.9.1.2",
    ]


def test_an_endpoints_own_excludes_are_left_out():
    state = a_state(an_endpoint(exclude_prefixes=("172.16.1.0/29",)))

    assert pair(granted(state, a_request())) == ("172.16.1.8", "172.16.1.9")


def test_a_huge_prefix_costs_no_list():
    state = a_state(an_endpoint(prefixes=("10.0.0.0/8", "2001:db8::/32")))

    assert granted(state, a_request()).client.addresses == ("10.0.0.2/32", "2001:db8::2/128")


def two_of_one_prefix():
    """A client of both has the first's .1, so its link to the second has a pair of its own."""
    state = a_state(an_endpoint("one", services=("one",)), an_endpoint("two", services=("two",)))
    granted(state, a_request(interface="nsm-1", service="one"))
    own = granted(state, a_request(interface="nsm-2", service="two"))
    assert pair(own) == ("172.16.1.3", "172.16.1.4")
    return state


def test_a_link_with_a_pair_of_its_own_says_nothing_about_the_next_clients():
    state = two_of_one_prefix()

    assert pair(granted(state, a_request("b", service="two"))) == ("172.16.1.1", "172.16.1.2")
    assert pair(granted(state, a_request("c", service="two"))) == ("172.16.1.1", "172.16.1.5")


@pytest.mark.parametrize("order", [1, -1])
def test_whatever_is_read_first_the_endpoints_address_is_the_same(order):
    state = a_state(an_endpoint())
    links = [granted(state, a_request(interface=f"i{n}")) for n in (1, 2)]
    late = a_state(an_endpoint())
    for connection in links[::order]:
        late.grant(connection)

    assert pair(granted(late, a_request("n"))) == ("172.16.1.1", "172.16.1.5")


@pytest.mark.parametrize("is_confirmed", [True, False])
def test_when_the_links_of_the_first_address_left_it_still_is_the_endpoints(is_confirmed):
    state = a_state(an_endpoint())
    for number in (1, 2):
        granted(state, a_request(interface=f"i{number}"))
    left = a_request(interface="i1").key
    abandon(state, left, refusal=None)
    if is_confirmed:
        state.gone(left, node="node1", revision=1)

    assert pair(granted(state, a_request("n")))[0] == "172.16.1.1"


def test_a_late_exclusion_splits_an_endpoint_no_more_than_it_must():
    state = a_state(an_endpoint())
    clients = [f"c{n}" for n in range(4)]
    for client in clients:
        granted(state, a_request(client))
    state.put_excluded(uses("172.16.1.1/32"))
    for client in clients:
        assert settled(state, a_request(client), readdress=True).granted is not None
    moved = {pair(state.grants[a_request(client).key])[0] for client in clients}

    assert len(moved) == 1
    assert {pair(granted(state, a_request("next")))[0]} == moved
    # Neither a lower address that is given back nor the first one, once it may be used again, splits it.
    for client in clients:
        state.gone(a_request(client).key, node="node1", revision=1)
    state.put_excluded(())
    assert {pair(granted(state, a_request("last")))[0]} == moved


def test_links_that_left_have_no_say():
    """Two links had .1 until a prefix came to be in use; what is left of them is not granted any more."""
    state = a_state(an_endpoint(prefixes=("172.16.1.0/28",)))
    state.put_excluded(uses("172.16.1.1/32"))
    for number in range(3):
        granted(state, a_request(f"c{number}"))
    for number in range(3):
        abandon(state, a_request(f"c{number}").key, refusal=None)
    state.put_excluded(())

    assert pair(granted(state, a_request("n")))[0] == "172.16.1.1"


@pytest.mark.parametrize("addressing", ["shared", "pointToPoint"])
def test_prefixes_written_in_another_order_change_nothing_for_who_has_addresses(addressing):
    prefixes = ("172.16.1.0/24", "2001:db8::/112")
    state = a_state(an_endpoint(prefixes=prefixes, addressing=addressing))
    before = granted(state, a_request("a"))

    edited = an_endpoint(prefixes=prefixes[::-1], addressing=addressing)
    state.put_endpoint(edited.key, edited)

    assert granted(state, a_request("a")) == before
    assert granted(state, a_request("b")).client.addresses[0].startswith("2001:db8::")
