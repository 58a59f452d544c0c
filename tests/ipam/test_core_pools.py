"""Figures of a pool, and what it hands out, against plain sets of addresses."""

from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import intent
from services.ipam.core.state import Holding, Use
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

EXCLUDED = st.lists(
    st.sampled_from(
        ["10.9.0.0/30", "10.9.0.8/31", "10.9.0.5/32", "10.9.0.0/28", "10.9.0.12/30", "10.9.0.0/24"]
    ),
    max_size=3,
)


def figures_of(state):
    told = state.figures(("default", "vpn"))
    assert told is not None
    return told.families[0]


# What lies in another prefix of the pool changes nothing.
OVERLAPPING = [
    ("10.9.0.0/28",),
    ("10.9.0.0/28", "10.9.0.4/30"),
    ("10.9.0.8/29", "10.9.0.0/28", "10.9.0.0/28"),
]


@given(
    st.sampled_from(OVERLAPPING),
    st.sampled_from(["shared", "pointToPoint"]),
    st.lists(
        st.one_of(
            st.tuples(st.just("ask"), st.integers(0, 9)),
            st.tuples(st.just("leave"), st.integers(0, 9)),
            st.tuples(st.just("confirm"), st.integers(0, 9)),
            st.tuples(st.just("hard"), EXCLUDED),
            st.tuples(st.just("soft"), EXCLUDED),
        ),
        max_size=25,
    ),
)
@settings(max_examples=150, deadline=None)
def test_a_pool_counts_what_a_list_of_its_addresses_counts(prefixes, addressing, steps):
    endpoint = an_endpoint(
        prefixes=prefixes, addressing=addressing, exclude_prefixes=("10.9.0.6/32",)
    )
    state = a_state(endpoint)
    own = set(ip_network("10.9.0.0/28")) - {ip_address("10.9.0.6")}
    own -= {ip_address("10.9.0.0"), ip_address("10.9.0.15")} if addressing == "shared" else set()
    held: dict[int, set[object]] = {}
    excluded: dict[bool, list[str]] = {True: [], False: []}
    for what, of in steps:
        if what == "ask":
            settled(state, a_request(f"c{of}"))
        elif what == "leave":
            request = a_request(f"c{of}")
            connection = state.release(request.key)
            if connection is not None:
                held.setdefault(of, set()).update(map(ip_address, pair(connection)))
        elif what == "confirm":
            key = a_request(f"c{of}").key
            state.gone(key, node="node1", revision=state.last_revision(key))
            held.pop(of, None)
        else:
            excluded[what == "hard"] = of
            state.put_excluded(uses(*excluded[True]), uses(*excluded[False]))
        used = {ip_address(a) for c in state.grants.values() for a in pair(c)} & own
        waiting = {a for addresses in held.values() for a in addresses} & own - used
        lost = {a for p in (*excluded[True], *excluded[False]) for a in ip_network(p)} & own
        free = own - used - waiting - lost

        told = figures_of(state)
        assert (told.size, told.used, told.held, told.free) == (
            len(own) + 1,  # with what its own spec leaves out
            len(used),
            len(waiting),
            len(free),
        )
        assert told.size == told.used + told.held + told.excluded + told.free
        assert told.largest_free == largest(free)


def largest(free):
    """The first of the shortest prefixes all of whose addresses are free."""
    for length in range(28, 33):
        for net in ip_network("10.9.0.0/28").subnets(new_prefix=length):
            if set(net) <= free:
                return str(net)
    return ""


@given(
    st.lists(EXCLUDED, min_size=1, max_size=6), st.sampled_from([True, False]), st.integers(0, 6)
)
@settings(deadline=None)
def test_exclusions_that_came_and_went_leave_no_trace(rounds, is_hard, clients):
    fresh, worn = a_state(an_endpoint(prefixes=("10.9.0.0/28",))), None
    worn = a_state(an_endpoint(prefixes=("10.9.0.0/28",)))
    for number in range(clients):
        granted(worn, a_request(f"c{number}"))
    for each in rounds:
        worn.put_uses("subject", uses(*each), is_hard=is_hard)
    for number in range(clients):
        worn.release(a_request(f"c{number}").key)
        worn.gone(a_request(f"c{number}").key, node="node1", revision=1)
    fresh.put_uses("subject", uses(*rounds[-1]), is_hard=is_hard)

    for state in (fresh, worn):
        settled(state, a_request("new"))
    assert figures_of(fresh) == figures_of(worn)
    if a_request("new").key in fresh.grants:
        assert pair(fresh.grants[a_request("new").key]) == pair(worn.grants[a_request("new").key])


@given(
    st.integers(27, 31),
    st.sampled_from(["shared", "pointToPoint"]),
    st.sampled_from([("10.9.0.0", 4), ("fd00::", 6)]),
)
@settings(max_examples=30, deadline=None)
def test_a_pool_of_n_serves_n_and_tells_the_next_one_the_numbers(length, addressing, base):
    first, family = base
    length += 96 if family == 6 else 0
    prefix = f"{first}/{length}"
    state = a_state(an_endpoint(prefixes=(prefix,), addressing=addressing))
    size = 2 ** ((32 if family == 4 else 128) - length)
    kept_out = 0 if size == 2 else 1 + (family == 4)  # network and broadcast address
    clients = size // 2 if addressing == "pointToPoint" else size - kept_out - 1
    seen = set()
    for number in range(clients):
        seen.add(granted(state, a_request(f"c{number}")).client.addresses)

    assert len(seen) == clients
    usable = figures_of(state).size
    refusal = refused(state, a_request("late"))
    assert refusal.reason == "PoolExhausted"
    assert f"pool {prefix} is full: {usable} of {usable} addresses taken" in refusal.message
    assert figures_of(state).free == 0

    request = a_request("c0")
    given_back = state.release(request.key)
    assert refused(state, a_request("late")).reason == "PoolExhausted"
    state.gone(request.key, node="node1", revision=given_back.revision)
    assert granted(state, a_request("late")).client.addresses == given_back.client.addresses


def test_a_huge_pool_with_thousands_of_exclusions_keeps_no_list():
    state = a_state(an_endpoint(prefixes=("10.0.0.0/8", "2001:db8::/32")))
    state.put_excluded([Use(ip_network(f"10.0.{n >> 8}.{n & 255}/32"), "x") for n in range(5000)])

    # Below it are excluded; of the endpoint's own excludes nothing is left out.
    assert pair_of(granted(state, a_request())) == ("10.0.19.136", "2001:db8::1")
    assert (
        figures_of(state).largest_free == "10.64.0.0/10"
    )  # the upper half lacks its broadcast address


def pair_of(connection):
    return tuple(text.partition("/")[0] for text in connection.server.addresses)


def test_collisions_name_prefixes_and_routes_and_by_whom_they_are_used():
    endpoint = an_endpoint(
        prefixes=("172.16.1.0/24", "fd00::/64"),
        exclude_prefixes=("172.16.1.128/25",),
        routes=(
            intent.Route(destination="10.20.0.0/16"),
            intent.Route(destination="0.0.0.0/0"),
        ),
    )
    state = a_state(endpoint)
    state.put_uses("pods", uses("172.16.0.0/12", "172.16.1.200/32", by="Pods"), is_hard=True)
    state.put_uses("kube", uses("10.20.3.0/24", by="Services"), is_hard=True)
    state.put_uses("seen", uses("10.20.4.0/24", by="seen"), is_hard=False)

    told = state.figures(("default", "vpn"))
    assert told is not None
    assert [(c.prefix, c.overlaps, c.used_by) for c in told.collisions] == [
        ("172.16.1.0/24", "172.16.0.0/12", "Pods"),
        ("10.20.0.0/16", "10.20.3.0/24", "Services"),
    ]


def test_while_replicas_tell_two_specs_the_one_told_last_is_the_objects():
    """Half published, an edit makes one pool, not another one at every decision."""
    state = a_state(*(an_endpoint(pod=f"e{n}") for n in range(4)))
    edited = an_endpoint(pod="e2", prefixes=("10.9.0.0/24",))
    state.put_endpoint(edited.key, edited)
    ready = an_endpoint(pod="e3", ready=False)  # not what it names has changed
    state.put_endpoint(ready.key, ready)
    pools = set()
    for number in range(6):
        connection = granted(state, a_request(f"c{number}"))
        assert connection.client.addresses[0].startswith("10.9.0.")
        pools.add(id(state.pool(an_endpoint(pod="e0"))))

    assert len(pools) == 1


def test_a_pool_whose_endpoint_went_before_a_restart_is_told_while_anything_is_held():
    state = a_state(an_endpoint())
    gone = [granted(state, a_request(f"c{n}")) for n in range(2)]
    for connection in gone:
        state.release(a_request(connection.client.pod.name).key)
    late = a_state()
    for connection in gone:
        late.hold(msgspec.structs.replace(Holding.of(connection), is_released=True))

    told = figures_of(late)
    assert (told.size, told.used, told.held, told.free) == (3, 0, 3, 0)
    assert told.prefixes == ("172.16.1.1/32", "172.16.1.2/31")
    for connection in gone:
        late.gone(a_request(connection.client.pod.name).key, node="node1", revision=1)
    assert late.figures(("default", "vpn")) is None


@pytest.mark.parametrize(
    ("spec", "excluded", "clients", "reason", "words"),
    [
        ("172.16.1.0/29", (), 5, "PoolExhausted", "6 of 6 addresses taken;"),
        ("172.16.1.0/29", ("172.16.1.6/32",), 4, "PoolExhausted", "5 of 6 addresses taken, 1 in"),
        ("172.16.1.0/29", ("172.16.1.4/30",), 2, "PoolExhausted", "3 of 6 addresses taken, 3 in"),
        ("172.16.1.0/29", ("172.16.1.3/32", "172.16.1.4/30"), 1, "PrefixCollision", "left outside"),
        ("172.16.1.0/29", ("172.16.1.0/24",), 0, "PrefixCollision", "none of 6 addresses left"),
        ("172.16.1.4/31", ("172.16.1.5/32",), 0, "PrefixCollision", "overlaps 172.16.1.5/32"),
        ("172.16.1.5/32", (), 0, "BadEndpoint", "room for one end of a connection only"),
    ],
)
def test_full_or_swallowed_is_said_by_which_took_more(spec, excluded, clients, reason, words):
    state = a_state(an_endpoint(prefixes=(spec,)), excluded=[(p, "user") for p in excluded])
    for number in range(clients):
        granted(state, a_request(f"c{number}"))
    refusal = refused(state, a_request("late"))

    assert refusal.reason == reason
    assert words in refusal.message


def test_a_confirmation_elsewhere_changes_no_refusal():
    state = a_state(an_endpoint(prefixes=("172.16.1.0/29",), addressing="pointToPoint"))
    for number in range(4):
        granted(state, a_request(f"c{number}"))
    refusal = refused(state, a_request("late"))
    state.release(a_request("c0").key)

    assert settled(state, a_request("late"), refusal=refusal).refused is None


def test_of_many_collisions_a_few_are_told():
    state = a_state(an_endpoint())
    state.put_excluded([Use(ip_network(f"172.16.1.{n}/32"), "x") for n in range(100)])

    told = state.figures(("default", "vpn"))
    assert told is not None
    assert len(told.collisions) == 8


def test_a_pool_whose_endpoint_is_gone_is_told_until_all_is_given_back():
    endpoint = an_endpoint()
    state = a_state(endpoint)
    granted(state, a_request())
    state.put_endpoint(endpoint.key, None)
    state.release(a_request().key)

    assert figures_of(state).held == 2
    state.gone(a_request().key, node="node1", revision=1)
    assert state.figures(("default", "vpn")) is None
    assert ("default", "vpn") in state.changed


def test_what_its_own_spec_leaves_out_counts_as_excluded_and_not_as_taken_by_others():
    endpoint = an_endpoint(prefixes=("10.9.0.0/29",), exclude_prefixes=("10.9.0.4/30",))
    state = a_state(endpoint)
    granted(state, a_request())
    told = figures_of(state)
    assert (told.size, told.used, told.excluded, told.free) == (6, 2, 3, 1)

    granted(state, a_request("second"))
    message = refused(state, a_request("third")).message
    assert "3 of 3 addresses taken; " in message


@pytest.mark.parametrize(
    ("left_out", "what"), [("10.9.0.0/29", "nothing"), ("10.9.0.2/31", "room for one end")]
)
def test_an_endpoint_whose_own_spec_leaves_nothing_is_told_so(left_out, what):
    prefixes = ("10.9.0.0/29",) if left_out == "10.9.0.0/29" else ("10.9.0.0/30",)
    state = a_state(an_endpoint(prefixes=prefixes, exclude_prefixes=(left_out,)))
    refusal = refused(state, a_request())

    assert refusal.reason == "BadEndpoint"
    assert f"has {what}" in refusal.message
    if what == "nothing":
        assert "ipam.excludePrefixes" in refusal.message


@pytest.mark.parametrize(
    ("prefix", "excluded", "words"),
    [
        ("172.16.1.0/32", (), "room for one end of a connection only in 172.16.1.0/32"),
        ("2001:db8::/128", (), "room for one end of a connection only in 2001:db8::/128"),
        ("172.16.1.0/31", ("172.16.1.0/31",), "nothing in 172.16.1.0/31, as its ipam.exclude"),
    ],
)
def test_a_pool_without_room_for_two_ends_is_told_of_the_endpoint_as_of_the_client(
    prefix, excluded, words
):
    state = a_state(an_endpoint(prefixes=(prefix,), exclude_prefixes=excluded))

    refusal, pool = refused(state, a_request()), state.figures(("default", "vpn"))
    assert pool.trouble.reason == refusal.reason == "BadEndpoint"
    assert words in pool.trouble.message
    assert pool.trouble.message in refusal.message


def test_of_a_pool_with_room_for_two_ends_nothing_is_told():
    assert (
        a_state(an_endpoint(prefixes=("172.16.1.0/31",))).figures(("default", "vpn")).trouble
        is None
    )
