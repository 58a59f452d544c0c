"""Prefixes for endpoints that name none: clear of everything, and the same as long as they stand."""

from ipaddress import ip_network
from typing import Any

import pytest

from schemas import intent
from services.ipam.core.settling import abandon
from services.ipam.core.state import Holding, addresses_of
from services.ipam.model import Supernet
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

SMALL = (Supernet(ip_network("100.112.0.0/29"), 31),)  # four of two addresses
BOTH = (
    Supernet(ip_network("100.112.0.0/12"), 24),
    Supernet(ip_network("fd6e:736d:6e61::/48"), 112),
)


def automatic(name="vpn", **kwargs):
    return an_endpoint(name, prefixes=(), services=(name,), **kwargs)


def prefixes_of(state, name="vpn"):
    told = state.figures(("default", name))
    return [] if told is None else [p for family in told.families for p in family.prefixes]


def ask(state, client="client", name="vpn", **kwargs):
    return settled(state, a_request(client, service=name), **kwargs)


def test_an_endpoint_that_names_none_gets_one_of_every_family():
    state = a_state(automatic(), supernets=BOTH)
    connection = granted(state, a_request())
    told = state.figures(("default", "vpn"))

    assert told is not None
    assert told.automatic
    for address, supernet in zip(addresses_of(connection.client), BOTH, strict=True):
        assert address in supernet.prefix
    assert [ip_network(p).prefixlen for p in prefixes_of(state)] == [24, 112]


def test_without_supernets_it_is_refused_saying_what_to_add():
    refusal = refused(a_state(automatic()), a_request())

    assert refusal.reason == "NoPrefixes"
    assert "add ipam.prefixes" in refusal.message


def test_two_that_know_the_same_carve_the_same():
    one, other = (a_state(automatic(), supernets=BOTH) for _ in range(2))

    assert pair_of_families(granted(one, a_request())) == pair_of_families(
        granted(other, a_request())
    )


def pair_of_families(connection):
    return connection.server.addresses, connection.client.addresses


def test_no_two_endpoints_get_the_same_and_the_last_one_is_told_that_none_is_left():
    names = [f"e{number}" for number in range(5)]
    endpoints = [automatic(name, addressing="pointToPoint") for name in names]
    state = a_state(*endpoints, supernets=SMALL)
    given = [ask(state, f"c-{name}", name).granted for name in names[:4]]

    assert len({each.client.addresses for each in given if each is not None}) == 4
    refusal = ask(state, "late", "e4").refused
    assert refusal is not None
    assert refusal.reason == "NoPrefixes"


@pytest.mark.parametrize("in_the_way", ["hard", "soft", "prefix", "route", "policy"])
def test_it_is_carved_beside_everything_that_is_there(in_the_way):
    where = "100.112.0.0/30"
    others: dict[str, dict[str, Any]] = {
        "prefix": {"prefixes": (where,)},
        "route": {"routes": (intent.Route(destination=where),)},
        "policy": {
            "policies": (intent.Policy(routes=(intent.Route(destination=where),)),),
        },
    }
    other = [an_endpoint("other", **others[in_the_way])] if in_the_way in others else []
    state = a_state(*other, *(automatic(f"e{n}") for n in range(2)), supernets=SMALL)
    state.put_excluded(
        uses(where) if in_the_way == "hard" else (),
        uses(where) if in_the_way == "soft" else (),
    )
    for n in range(2):
        assert ask(state, f"c{n}", f"e{n}").granted is not None

    found = [ip_network(p) for n in range(2) for p in prefixes_of(state, f"e{n}")]
    assert len(set(found)) == 2
    assert all(net[0] in ip_network("100.112.0.4/30") for net in found)


def test_it_stays_the_same_when_the_place_it_would_take_today_is_another_one():
    state = a_state(automatic(), supernets=BOTH)
    before = granted(state, a_request("a"))
    told = state.figures(("default", "vpn"))
    assert told is not None
    late = a_state(automatic(), supernets=BOTH)
    late.put_excluded((), uses(*prefixes_of(state)))  # where it would not be carved
    late.remember_pool(told)
    late.grant(before)

    assert settled(late, a_request("a")).granted is None
    assert prefixes_of(late) == prefixes_of(state)


def test_it_is_told_from_what_connections_have_when_its_message_was_lost():
    state = a_state(automatic(), supernets=BOTH)
    before = granted(state, a_request("a"))
    late = a_state(automatic("other"), automatic(), supernets=BOTH)
    late.put_excluded((), uses(*prefixes_of(state)))
    late.stands(Holding.of(before))
    assert ask(late, "b", "other").granted is not None  # carves nothing of what is held

    assert settled(late, a_request("a"), reported=before).granted == before
    assert prefixes_of(late) == prefixes_of(state)


def test_it_is_free_when_the_endpoint_is_gone_and_nothing_is_held():
    endpoint = automatic("e0", addressing="pointToPoint")
    state = a_state(
        endpoint,
        *(automatic(f"e{n}", addressing="pointToPoint") for n in range(1, 5)),
        supernets=SMALL,
    )
    for n in range(4):
        ask(state, f"c{n}", f"e{n}")
    state.put_endpoint(endpoint.key, None)
    gone = abandon(state, a_request("c0").key, refusal=None).released[0]
    assert state.figures(("default", "e0")) is not None
    assert ask(state, "late", "e4").refused is not None

    state.gone(a_request("c0").key, node="node1", revision=gone.revision)
    assert state.figures(("default", "e0")) is None
    assert ask(state, "late", "e4").granted is not None


def test_an_endpoint_that_names_its_own_later_gives_it_back():
    state = a_state(automatic(), supernets=BOTH)
    granted(state, a_request())
    named = an_endpoint(prefixes=("172.16.1.0/24",))
    state.put_endpoint(named.key, named)

    assert pair(granted(state, a_request())) == ("172.16.1.1", "172.16.1.2")
    told = state.figures(("default", "vpn"))
    assert told is not None
    assert not told.automatic


def test_swallowed_later_it_is_replaced_for_new_clients_and_old_ones_move_when_told():
    state = a_state(automatic(addressing="pointToPoint"), supernets=SMALL)
    before = granted(state, a_request("a"))
    (old,) = prefixes_of(state)
    state.put_excluded(uses(old))

    assert settled(state, a_request("a")).granted is None
    new = granted(state, a_request("b"))
    assert not set(pair(new)) & set(pair(before))
    assert prefixes_of(state)[1:] == [old]
    assert state.affected() == [a_request("a").key]

    replacing = automatic("third", addressing="pointToPoint")
    state.put_endpoint(replacing.key, replacing)
    moved = settled(state, a_request("a"), readdress=True).granted
    assert moved is not None
    assert old in moved.readdressed
    state.stands(Holding.of(moved))
    state.figures(("default", "vpn"))  # tidies up
    assert settled(state, a_request("a")).granted is None
    assert old not in prefixes_of(state)


def families(connection):
    return [address.version for address in addresses_of(connection.client)]


def test_what_stands_keeps_its_families_and_new_ones_get_all_there_are_now():
    state = a_state(automatic(), supernets=BOTH)
    state.put_excluded(uses("100.64.0.0/10"))
    early = granted(state, a_request("early"))
    assert families(early) == [6]
    state.put_excluded(())

    assert granted(state, a_request("early")) is early
    assert families(granted(state, a_request("late"))) == [4, 6]


@pytest.mark.parametrize("is_restarted", [True, False])
def test_a_family_whose_supernet_is_swallowed_falls_away_for_new_ones(is_restarted):
    state = a_state(automatic(), supernets=BOTH)
    before = granted(state, a_request("a"))
    if is_restarted:
        state = a_state(automatic(), supernets=BOTH)
        state.grant(before)
    state.put_excluded(uses("100.64.0.0/10"))

    assert settled(state, a_request("a")).granted is None
    stands = settled(state, a_request("a"), readdress=True).granted
    assert stands is not None
    assert stands.client.addresses == before.client.addresses
    assert families(granted(state, a_request("b"))) == [6]


def test_with_all_supernets_swallowed_it_is_refused_naming_one():
    state = a_state(automatic(), supernets=BOTH[:1])
    granted(state, a_request("a"))
    state.put_excluded(uses("100.64.0.0/10", by="Pod CIDR"))

    assert "overlaps 100.64.0.0/10 (Pod CIDR)" in refused(state, a_request("b")).message


def test_a_full_one_is_not_extended_for_the_little_that_others_took():
    eights = (Supernet(ip_network("100.112.0.0/12"), 29),)
    state = a_state(automatic(), supernets=eights)
    state.pool(automatic())
    (own,) = prefixes_of(state)
    state.put_excluded(uses(f"{ip_network(own)[6]}/32"))
    for number in range(4):
        granted(state, a_request(f"c{number}"))

    assert refused(state, a_request("late")).reason == "PoolExhausted"
    assert prefixes_of(state) == [own]
    # Who has to give up what others took gets something else.
    state.put_excluded(uses(*(f"{ip_network(own)[at]}/32" for at in (2, 6))))
    assert settled(state, a_request("c0"), readdress=True).granted is not None
    assert len(prefixes_of(state)) == 2


@pytest.mark.parametrize("relief", ["exclusion", "connection"])
def test_used_up_supernets_are_looked_at_again_once_something_was_given_up(relief):
    names = [f"e{number}" for number in range(5)]
    automatics = [automatic(name, addressing="pointToPoint") for name in names]
    excluded = [("100.112.0.0/31", "user"), ("100.112.0.4/30", "user")]
    state = a_state(*automatics, supernets=SMALL, excluded=excluded)
    assert ask(state, "c0", "e0").granted is not None
    assert ask(state, "c1", "e1").refused is not None
    looked: list[object] = []
    in_use = state.pools._in_use

    def looking(block):
        looked.append(block)
        return in_use(block)

    state.pools._in_use = looking
    assert ask(state, "c2", "e2").refused is not None
    assert looked == []

    if relief == "exclusion":
        state.put_excluded(())
    else:
        abandon(state, a_request("c0").key, refusal=None)
        state.gone(a_request("c0").key, node="node1", revision=1)
        state.put_endpoint(automatics[0].key, None)
        state.figures(("default", "e0"))
    assert ask(state, "c1", "e1").granted is not None


def test_who_had_addresses_of_named_prefixes_gets_all_families_of_carved_ones():
    state = a_state(an_endpoint(), supernets=BOTH)
    granted(state, a_request())
    edited = automatic()
    state.put_endpoint(edited.key, edited)

    assert families(granted(state, a_request())) == [4, 6]


@pytest.mark.parametrize("declared", ["prefix", "route"])
def test_what_another_endpoint_declares_takes_no_family_away(declared):
    over_all: dict[str, dict[str, Any]] = {
        "prefix": {"prefixes": ("100.64.0.0/10",)},
        "route": {"routes": (intent.Route(destination="100.64.0.0/10"),)},
    }
    greedy = an_endpoint("greedy", services=("greedy",), **over_all[declared])
    state = a_state(greedy, automatic(), supernets=BOTH)

    connection = granted(state, a_request())

    assert families(connection) == [4, 6]
    told = state.figures(("default", "vpn"))
    assert told is not None
    assert told.lacks == ()


def test_a_pod_that_is_a_client_of_both_is_refused_naming_the_route_and_what_to_do():
    route = (intent.Route(destination="100.64.0.0/10"),)
    greedy = an_endpoint("greedy", services=("greedy",), routes=route)
    state = a_state(greedy, automatic(), supernets=BOTH[:1])
    granted(state, a_request(service="greedy", interface="one"))

    refusal = refused(state, a_request(interface="two"))

    assert refusal.reason == "PrefixCollision"
    assert "connection one of pod default/client" in refusal.message
    assert "annotation" in refusal.message


def with_a_route(name="vpn"):
    return automatic(name, routes=(intent.Route(destination="10.20.0.0/16"),))


@pytest.mark.parametrize("is_late", [True, False])
def test_a_family_without_a_prefix_is_told_with_who_has_the_supernet_and_heals(is_late):
    state = a_state(with_a_route(), supernets=BOTH)
    if is_late:
        state.pool(with_a_route())
    state.put_excluded(uses("100.64.0.0/10", by="Pod CIDR of node node1"))

    refusal = refused(state, a_request())
    assert refusal.reason == "NoPrefixes"
    assert "no automatic IPv4 prefix is left of 100.112.0.0/12" in refusal.message
    assert "100.64.0.0/10 (Pod CIDR of node node1)" in refusal.message
    told = state.figures(("default", "vpn"))
    assert told is not None
    if not is_late:  # else what it has collides, which is told
        assert told.lacks[0].taken_by == "100.64.0.0/10 (Pod CIDR of node node1)"
        assert told.trouble is not None
        assert told.trouble.reason == "NoPrefixes"
        assert not state.pools.hopeful()

    state.put_excluded(())
    if not is_late:
        assert state.pools.hopeful() == {("default", "vpn")}
    told = state.figures(("default", "vpn"))
    assert told is not None
    assert (told.lacks, told.trouble) == ((), None)
    assert not state.pools.hopeful()
    assert families(granted(state, a_request())) == [4, 6]


def test_who_is_gone_hopes_for_no_prefix_even_while_something_of_it_is_held():
    state = a_state(automatic(), supernets=BOTH)
    state.put_excluded(uses("100.64.0.0/10"))
    granted(state, a_request())
    state.put_endpoint(automatic().key, None)
    assert state.figures(("default", "vpn")) is not None
    state.put_excluded(())

    assert not state.pools.hopeful()


def test_a_route_of_a_family_that_what_stands_lacks_is_given_that_family():
    state = a_state(automatic(), supernets=BOTH)
    state.put_excluded(uses("100.64.0.0/10"))
    assert families(granted(state, a_request())) == [6]
    state.put_excluded(())
    edited = with_a_route()
    state.put_endpoint(edited.key, edited)

    assert families(granted(state, a_request())) == [4, 6]


def test_nothing_carved_at_all_is_told_on_the_pool_too():
    state = a_state(automatic())
    told = state.figures(("default", "vpn"))

    assert told is not None
    assert told.automatic
    assert told.trouble is not None
    assert told.trouble.reason == "NoPrefixes"
    assert "automatic ones are off" in told.trouble.message
