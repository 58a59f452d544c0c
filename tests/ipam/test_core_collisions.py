"""Nothing collides: addresses and routes, with what the cluster uses and with the Pod's other connections."""

from ipaddress import ip_address, ip_network

import pytest

from schemas import intent
from services.ipam.core.state import Use
from tests.ipam.builders import a_request, a_state, an_endpoint, granted, pair, refused


def test_a_pool_inside_a_prefix_in_use_is_refused_naming_both():
    state = a_state(an_endpoint(), excluded=[("172.16.0.0/12", "Pod CIDR of node node1")])
    refusal = refused(state, a_request())

    assert refusal.reason == "PrefixCollision"
    assert "172.16.1.0/24 overlaps 172.16.0.0/12 (Pod CIDR of node node1)" in refusal.message


def test_a_partly_overlapping_pool_is_used_around_the_overlap():
    state = a_state(an_endpoint(), excluded=[("172.16.1.0/29", "user")])

    assert pair(granted(state, a_request())) == ("172.16.1.8", "172.16.1.9")


@pytest.mark.parametrize(
    ("route", "used"),
    [
        ("10.96.0.0/12", "10.96.0.10/32"),
        ("10.96.0.0/30", "10.96.0.0/16"),
        ("2001:db8::/32", "2001:db8:1::/64"),
    ],
)
def test_a_route_that_overlaps_a_prefix_in_use_is_refused_naming_both(route, used):
    endpoint = an_endpoint(
        prefixes=("172.16.1.0/24", "fd00::/64"), routes=(intent.Route(destination=route),)
    )
    refusal = refused(a_state(endpoint, excluded=[(used, "Service CIDR")]), a_request())

    assert refusal.reason == "PrefixCollision"
    assert f"route {route}, which overlaps {used} (Service CIDR)" in refusal.message


@pytest.mark.parametrize(
    ("route", "remedy"),
    [
        ("0.0.0.0/1", "; write 0.0.0.0/0: a default route alone may cover what the cluster uses"),
        ("2000::/3", "; write ::/0: a default route alone may cover what the cluster uses"),
        ("10.96.0.0/12", "; give the endpoint a prefix or route that nothing in the cluster uses"),
    ],
)
def test_a_route_to_everywhere_is_answered_with_the_default_route(route, remedy):
    endpoint = an_endpoint(
        prefixes=("172.16.1.0/24", "fd00::/64"), routes=(intent.Route(destination=route),)
    )
    used = [("10.96.0.0/16", "Service CIDR"), ("2001:db8::/64", "Pod CIDR of node node1")]

    assert remedy in refused(a_state(endpoint, excluded=used), a_request()).message


def test_a_route_that_overlaps_another_connection_of_the_pod_is_refused():
    state = a_state(
        an_endpoint("one", services=("one",), routes=(intent.Route(destination="10.20.0.0/16"),)),
        an_endpoint(
            "two",
            services=("two",),
            prefixes=("172.16.2.0/24",),
            routes=(intent.Route(destination="10.20.3.0/24"),),
        ),
    )
    granted(state, a_request(interface="nsm-1", service="one"))
    refusal = refused(state, a_request(interface="nsm-2", service="two"))

    assert refusal.reason == "PrefixCollision"
    assert "10.20.3.0/24, which overlaps 10.20.0.0/16" in refusal.message
    assert granted(state, a_request("other", service="two"))


def test_addresses_keep_clear_of_routes_of_the_pods_other_connections():
    state = a_state(
        an_endpoint("one", services=("one",), routes=(intent.Route(destination="172.16.2.0/25"),)),
        an_endpoint("two", services=("two",), prefixes=("172.16.2.0/24",)),
    )
    granted(state, a_request(interface="nsm-1", service="one"))
    second = granted(state, a_request(interface="nsm-2", service="two"))

    for address in pair(second):
        assert ip_address(address) not in ip_network("172.16.2.0/25")


@pytest.mark.parametrize(
    ("route", "next_hop"),
    [
        ("2001:db8::/32", ""),
        ("10.1.0.0/16", "0.0.0.0"),
        ("10.1.0.0/16", "fd00::1"),
        ("10.1.0.1/16", ""),
        ("x", ""),
    ],
)
def test_a_route_that_cannot_work_is_refused_and_harms_nobody_else(route, next_hop):
    endpoint = an_endpoint(routes=(intent.Route(destination=route, next_hop=next_hop),))

    refusal = refused(a_state(endpoint), a_request())
    assert refusal.reason == "BadEndpoint"
    assert granted(a_state(endpoint, an_endpoint("fine")), a_request()).endpoint == "fine"


def test_an_endpoint_with_a_bad_prefix_costs_only_itself():
    state = a_state(an_endpoint("bad", prefixes=("172.16.1.5/24",)), an_endpoint("fine"))

    assert granted(state, a_request()).endpoint == "fine"


def test_the_endpoint_pods_own_addresses_are_left_out():
    endpoint = an_endpoint(prefixes=("10.244.1.0/24",), ips=("10.244.1.1",))

    assert pair(granted(a_state(endpoint), a_request())) == ("10.244.1.2", "10.244.1.3")


def test_a_pod_of_the_same_name_does_not_inherit_what_came_to_be_excluded():
    state = a_state(an_endpoint())
    granted(state, a_request("a"))
    state.put_excluded([Use(ip_network("172.16.0.0/12"), "user")])

    assert refused(state, a_request("a", uid="other")).reason == "PrefixCollision"


def test_a_prefix_in_use_that_appears_later_takes_nothing_from_what_stands():
    state = a_state(an_endpoint(routes=(intent.Route(destination="10.20.0.0/16"),)))
    before = granted(state, a_request("a"))
    state.put_excluded(
        [Use(ip_network("172.16.0.0/12"), "user"), Use(ip_network("10.0.0.0/8"), "user")]
    )

    assert granted(state, a_request("a")) is before
    assert refused(state, a_request("b")).reason == "PrefixCollision"


def with_routes(name, *routes, **kwargs):
    return an_endpoint(
        name,
        services=(name,),
        routes=tuple(intent.Route(destination=route) for route in routes),
        **kwargs,
    )


@pytest.mark.parametrize(("default", "other"), [("0.0.0.0/0", "::/0"), ("::/0", "0.0.0.0/0")])
def test_a_declared_default_route_is_given_and_only_one_of_a_family_to_a_pod(default, other):
    families = ("172.16.1.0/24", "fd00::/64")
    state = a_state(
        with_routes("one", default, prefixes=families),
        with_routes("two", default, prefixes=("172.16.2.0/24", "fd00:1::/64")),
        with_routes("three", other, "10.20.0.0/16", prefixes=("172.16.3.0/24", "fd00:2::/64")),
        excluded=[("10.96.0.0/16", "Service CIDR"), ("fd99::/64", "Service CIDR")],
    )
    first = granted(state, a_request(interface="i1", service="one"))
    refusal = refused(state, a_request(interface="i2", service="two"))

    assert first.client.routes == (intent.Route(destination=default),)
    assert refusal.reason == "PrefixCollision"
    assert f"{default}, which overlaps {default} (connection i1" in refusal.message
    assert granted(state, a_request(interface="i3", service="three"))


@pytest.mark.parametrize("route", ["0.0.0.0/1", "128.0.0.0/1"])
def test_a_covering_route_is_no_default_route(route):
    state = a_state(
        with_routes("vpn", route), excluded=[("10.96.0.0/16", "x"), ("192.0.2.1/32", "x")]
    )

    assert refused(state, a_request()).reason == "PrefixCollision"


@pytest.mark.parametrize(
    ("prefixes", "ips", "route"),
    [
        (("172.16.1.0/24",), ("10.244.1.7",), "10.244.0.0/16"),
        (("fd00::/64",), ("10.244.1.7", "fd01::7"), "fd01::/64"),
    ],
)
def test_a_route_that_covers_the_pods_own_address_is_refused(prefixes, ips, route):
    state = a_state(with_routes("vpn", route, prefixes=prefixes))
    refusal = refused(state, a_request(ips=ips))

    assert refusal.reason == "PrefixCollision"
    assert "(the Pod's own address)" in refusal.message


def test_an_endpoints_route_may_overlap_its_own_pool():
    state = a_state(with_routes("vpn", "172.16.0.0/16"))

    assert granted(state, a_request())


def test_a_route_into_what_the_client_serves_itself_is_refused():
    state = a_state(
        an_endpoint("one", services=("one",), pod="both"),
        with_routes("two", "172.16.0.0/16", prefixes=("10.9.0.0/24",)),
    )
    granted(state, a_request("client", service="one"))
    refusal = refused(state, a_request("both", service="two"))

    assert refusal.reason == "PrefixCollision"
    assert "endpoint default/one, which this Pod serves" in refusal.message


def with_policy(*routes, **kwargs):
    policy = intent.Policy(
        source="172.16.1.2/32", protocol="tcp", destination_port="6666", routes=routes
    )
    return an_endpoint(policies=(policy,), **kwargs)


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (intent.Route(destination="10.96.3.0/24"), "PrefixCollision"),
        (intent.Route(destination="172.16.3.0/24", next_hop="172.16.1.200"), None),
        (intent.Route(destination="172.16.3.0/24", next_hop="10.20.0.1"), None),
        (intent.Route(destination="0.0.0.0/0"), None),
        (intent.Route(destination="172.16.3.0/24", next_hop="172.16.9.1"), None),
        (intent.Route(destination="172.16.3.0/24", next_hop="172.16.3.1"), None),
        (intent.Route(destination="172.16.3.0/24", next_hop="10.96.0.1"), "PrefixCollision"),
        (intent.Route(destination="172.16.3.0/24", next_hop="127.0.0.1"), "BadEndpoint"),
        (intent.Route(destination="fd00::/64"), "BadEndpoint"),
        (intent.Route(destination="x"), "BadEndpoint"),
    ],
)
def test_policies_routes_are_looked_at_like_others(route, reason):
    endpoint = with_policy(route, routes=(intent.Route(destination="10.20.0.0/16"),))
    state = a_state(endpoint, excluded=[("10.96.0.0/16", "Service CIDR")])

    if reason is None:
        assert granted(state, a_request()).policies == endpoint.policies
    else:
        assert refused(state, a_request()).reason == reason


def test_a_route_into_another_connections_policy_route_is_refused():
    state = a_state(
        with_policy(intent.Route(destination="172.16.3.0/24")),
        with_routes("two", "172.16.3.128/25", prefixes=("10.9.0.0/24",)),
    )
    granted(state, a_request())

    assert refused(state, a_request(interface="i2", service="two")).reason == "PrefixCollision"


def test_a_route_against_thousands_of_exclusions_names_the_one():
    state = a_state(with_routes("vpn", "10.20.0.0/16"))
    every = [Use(ip_network(f"10.96.{n >> 8}.{n & 255}/32"), f"Service {n}") for n in range(5000)]
    state.put_excluded([*every, Use(ip_network("10.20.7.9/32"), "Service x/y")])

    assert "overlaps 10.20.7.9/32 (Service x/y)" in refused(state, a_request()).message


def from_host(name, source, **kwargs):
    policy = intent.Policy(source=source, protocol="tcp", destination_port="6666")
    return an_endpoint(name, services=(name,), policies=(policy,), **kwargs)


@pytest.mark.parametrize(
    ("source", "ips", "words"),
    [
        (
            "10.96.0.10",
            (),
            "a policy from 10.96.0.10/32, which overlaps 10.96.0.0/16 (Service CIDR)",
        ),
        ("10.244.1.7/32", ("10.244.1.7",), "(the Pod's own address)"),
        ("172.16.9.2/32", (), "(connection i0 of pod default/client)"),
        ("10.20.3.4/32", (), "(connection i0 of pod default/client)"),
    ],
)
def test_the_address_of_a_policy_is_the_clients_and_collides_like_others(source, ips, words):
    state = a_state(
        with_routes("other", "10.20.0.0/16", prefixes=("172.16.9.0/24",)),
        from_host("vpn", source),
        excluded=[("10.96.0.0/16", "Service CIDR")],
    )
    granted(state, a_request(interface="i0", service="other", ips=ips))
    refusal = refused(state, a_request(ips=ips))

    assert refusal.reason == "PrefixCollision"
    assert words in refusal.message


def test_a_policy_from_a_whole_prefix_gives_no_address_and_collides_with_nothing():
    state = a_state(from_host("vpn", "10.96.0.0/16"), excluded=[("10.96.0.0/16", "Service CIDR")])

    assert granted(state, a_request())


def test_what_a_policy_gave_a_pod_no_other_connection_of_it_gets():
    state = a_state(
        from_host("one", "172.16.1.1", prefixes=("172.16.9.0/24",)),
        an_endpoint("two", services=("two",)),
        from_host("three", "172.16.1.1/32", prefixes=("172.16.8.0/24",)),
    )
    first = granted(state, a_request(interface="i1", service="one"))

    assert "172.16.1.1" not in pair(granted(state, a_request(interface="i2", service="two")))
    assert refused(state, a_request(interface="i3", service="three")).reason == "PrefixCollision"
    state.put_excluded([Use(ip_network("172.16.1.1/32"), "user")])
    assert granted(state, a_request(interface="i1", service="one")) is first
    assert state.affected() == [a_request(interface="i1").key]


def test_a_policy_from_the_endpoints_own_address_is_refused():
    state = a_state(from_host("vpn", "172.16.1.1/32"))

    assert "the endpoint's own address" in refused(state, a_request()).message


@pytest.mark.parametrize("is_policy", [True, False])
def test_a_next_hop_in_a_prefix_in_use_is_refused(is_policy):
    route = intent.Route(destination="192.168.5.0/24", next_hop="10.96.0.10")
    kwargs = {"policies": (intent.Policy(routes=(route,)),)} if is_policy else {"routes": (route,)}
    state = a_state(
        an_endpoint(prefixes=("10.0.0.0/8",), **kwargs),
        excluded=[("10.96.0.0/12", "Service CIDR")],
    )
    refusal = refused(state, a_request())

    assert refusal.reason == "PrefixCollision"
    assert "via 10.96.0.10, which overlaps 10.96.0.0/12" in refusal.message


@pytest.mark.parametrize(
    ("one", "other", "is_refused"),
    [
        ({}, {}, True),
        ({"source": "172.16.7.0/24"}, {"source": "172.16.7.9/24"}, True),
        ({"protocol": "tcp"}, {"protocol": "TCP"}, True),
        ({"protocol": "tcp"}, {"protocol": "udp"}, False),
        ({"destination_port": "80"}, {"destination_port": "81"}, False),
        ({}, {"routes": (intent.Route(destination="10.7.0.0/16"),)}, False),
        ({}, {"routes": (intent.Route(destination="::/0"),)}, False),
    ],
)
def test_of_one_traffic_only_one_connection_of_a_pod_is_the_default(one, other, is_refused):
    default = {"routes": (intent.Route(destination="0.0.0.0/0"),)}
    state = a_state(
        an_endpoint("one", services=("one",), policies=(intent.Policy(**default | one),)),
        an_endpoint(
            "two",
            services=("two",),
            prefixes=("172.16.9.0/24", "fd00::/64"),
            policies=(intent.Policy(**default | other),),
        ),
    )
    granted(state, a_request(interface="i1", service="one"))
    second = a_request(interface="i2", service="two")

    if is_refused:
        refusal = refused(state, second)
        assert refusal.reason == "PrefixCollision"
        assert "connection i1 of pod default/client has one for the same" in refusal.message
    else:
        assert granted(state, second)
    assert granted(state, a_request("another Pod", service="two"))
