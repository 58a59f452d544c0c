"""Decisions of ipam: who gets which endpoint and addresses, and that nothing collides, ever."""

import itertools
from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas import intent, values
from schemas.grant import Connection
from schemas.subjects import ConnectionKey, RequestKey
from schemas.values import Prefix
from services.ipam.core.deciding import Granted, Refused, decide
from services.ipam.core.ranges import Ranges
from services.ipam.core.settling import abandon, settle
from services.ipam.core.state import Holding, State, Use, addresses_of


def a_pod(name, *, node="node1", namespace="default", uid=None, ips=()):
    return intent.PodRef(
        namespace=namespace, name=name, uid=uid or f"uid-{name}", node=node, ips=ips
    )


def a_request(pod="client", interface="nsm-1", service="vpn", namespace="", **kwargs):
    labels, dns = kwargs.pop("labels", {}), kwargs.pop("dns", True)
    return intent.Request(
        pod=a_pod(pod, **kwargs),
        interface=interface,
        network_service=service,
        network_service_namespace=namespace,
        labels=labels,
        dns=dns,
    )


def an_endpoint(name="vpn", *, pod=None, prefixes=("172.16.1.0/24",), services=("vpn",), **kwargs):
    fields = {k: kwargs.pop(k) for k in ("labels", "routes", "dns", "ready") if k in kwargs}
    fields.setdefault("ready", True)
    spec = {k: kwargs.pop(k) for k in ("addressing", "exclude_prefixes") if k in kwargs}
    return intent.Endpoint(
        endpoint=name,
        pod=a_pod(pod or f"{name}-pod", **kwargs),
        network_services=services,
        ipam=intent.IpamSpec(prefixes=prefixes, **spec),
        **fields,
    )


def a_state(*endpoints, excluded=(), services=()):
    state = State()
    state.nodes |= {"node1", "node2"}
    for endpoint in endpoints:
        state.registry.put_endpoint(endpoint.key, endpoint)
    for service in services:
        state.registry.network_services[service.key] = service
    state.put_excluded(Use(ip_network(prefix), by) for prefix, by in excluded)
    return state


def granted(state, request) -> Connection:
    """Decide as the service does: what stands is passed in, a grant enters the state."""
    previous = state.grants.get(request.key)
    result = decide(
        state, request, previous=previous, revision=previous.revision + 1 if previous else 1
    )
    assert isinstance(result, Granted), result
    state.grant(result.connection)
    return result.connection


def refused(state, request):
    previous = state.grants.get(request.key)
    result = decide(state, request, previous=previous, revision=1)
    assert isinstance(result, Refused), result
    return result.refusal


def pair(connection):
    (server,) = addresses_of(connection.server)
    (client,) = addresses_of(connection.client)
    return str(server), str(client)


class TestAddressing:
    def test_shared_gives_the_first_address_to_the_endpoint_and_the_next_ones_to_clients(self):
        state = a_state(an_endpoint())

        assert pair(granted(state, a_request("a"))) == ("172.16.1.1", "172.16.1.2")
        assert pair(granted(state, a_request("b"))) == ("172.16.1.1", "172.16.1.3")

    def test_shared_gives_replicas_one_endpoint_address_and_no_client_address_twice(self):
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
    def test_point_to_point_takes_the_two_lowest_free_addresses(self, prefix, excluded, expected):
        state = a_state(
            an_endpoint(prefixes=(prefix,), addressing="pointToPoint"),
            excluded=[(prefix, "user") for prefix in excluded],
        )

        assert pair(granted(state, a_request())) == expected

    def test_two_network_services_with_one_prefix_on_one_client_are_kept_apart(self):
        prefix = ("172.16.1.96/29",)
        state = a_state(
            an_endpoint("one", prefixes=prefix, services=("one",), addressing="pointToPoint"),
            an_endpoint("two", prefixes=prefix, services=("two",), addressing="pointToPoint"),
        )

        first = granted(state, a_request(interface="nsm-1", service="one"))
        second = granted(state, a_request(interface="nsm-2", service="two"))

        assert pair(first) == ("172.16.1.96", "172.16.1.97")
        assert pair(second) == ("172.16.1.98", "172.16.1.99")

    def test_shared_falls_back_to_a_pair_where_the_client_has_the_endpoints_address_already(self):
        state = a_state(
            an_endpoint("one", services=("one",)), an_endpoint("two", services=("two",))
        )

        first = granted(state, a_request(interface="nsm-1", service="one"))
        second = granted(state, a_request(interface="nsm-2", service="two"))

        assert pair(first) == ("172.16.1.1", "172.16.1.2")
        assert not set(pair(second)) & set(pair(first))

    def test_both_families_side_by_side(self):
        state = a_state(an_endpoint(prefixes=("172.16.1.0/24", "2001:db8::/64")))
        connection = granted(state, a_request())

        assert connection.client.addresses == ("172.16.1.2/32", "2001:db8::2/128")
        assert connection.server.addresses == ("172.16.1.1/32", "2001:db8::1/128")

    def test_a_full_prefix_is_followed_by_the_next_one(self):
        state = a_state(an_endpoint(prefixes=("10.9.0.0/30", "10.9.1.0/30")))

        assert [pair(granted(state, a_request(f"c{i}")))[1] for i in range(3)] == [
            "10.9.0.2",
            "10.9.1.1",
            "10.9.1.2",
        ]

    def test_an_endpoints_own_excludes_are_left_out(self):
        state = a_state(an_endpoint(exclude_prefixes=("172.16.1.0/29",)))

        assert pair(granted(state, a_request())) == ("172.16.1.8", "172.16.1.9")

    def test_a_huge_prefix_costs_no_list(self):
        state = a_state(an_endpoint(prefixes=("10.0.0.0/8", "2001:db8::/32")))

        assert granted(state, a_request()).client.addresses == ("10.0.0.2/32", "2001:db8::2/128")


class TestLife:
    def test_deciding_again_changes_nothing(self):
        state = a_state(an_endpoint())
        first = granted(state, a_request())

        assert granted(state, a_request()) is first

    def test_pod_addresses_that_become_known_later_make_no_new_revision(self):
        state = a_state(an_endpoint())
        first = granted(state, a_request())

        assert granted(state, a_request(ips=("10.244.1.7",))) is first

    def test_a_released_address_is_held_until_the_node_confirms(self):
        state = a_state(an_endpoint(prefixes=("10.9.0.0/30",)))
        request = a_request("a")
        connection = granted(state, request)
        state.release(request.key)

        assert refused(state, a_request("b")).reason == "PoolExhausted"
        assert not state.gone(request.key, node="node1", revision=connection.revision - 1)
        assert state.gone(request.key, node="node1", revision=connection.revision)
        assert pair(granted(state, a_request("b"))) == ("10.9.0.1", "10.9.0.2")

    def test_the_same_pod_and_interface_get_their_address_back_while_it_is_free(self):
        state = a_state(an_endpoint())
        for name in ("a", "b", "c"):
            granted(state, a_request(name))
        before = state.release(a_request("b").key)
        state.gone(a_request("b").key, node="node1", revision=before.revision)
        state.release(a_request("a").key)
        state.gone(a_request("a").key, node="node1", revision=1)

        assert pair(granted(state, a_request("b", uid="re-created"))) == pair(before)

    def test_who_returns_before_the_node_confirmed_gets_the_same_address(self):
        state = a_state(an_endpoint())
        before = granted(state, a_request("a"))
        granted(state, a_request("b"))
        state.release(a_request("a").key)

        assert pair(granted(state, a_request("a"))) == pair(before)

    def test_a_late_confirmation_of_an_old_revision_frees_nothing_of_the_new_one(self):
        state = a_state(an_endpoint(prefixes=("10.9.0.0/30",)))
        request = a_request("a")
        old = granted(state, request)
        state.release(request.key)
        result = decide(state, request, previous=None, revision=old.revision + 1)
        assert isinstance(result, Granted)
        state.grant(result.connection)

        state.gone(request.key, node="node1", revision=old.revision)

        assert refused(state, a_request("b")).reason == "PoolExhausted"

    def test_what_was_released_is_not_adopted_again_under_its_old_revision(self):
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

    def test_what_a_node_has_and_nobody_granted_is_adopted_as_it_is(self):
        before = granted(a_state(an_endpoint()), a_request("a"))
        state = a_state(an_endpoint())
        state.stands(Holding.of(before))
        assert pair(granted(state, a_request("other"))) == ("172.16.1.1", "172.16.1.3")

        assert settle(state, a_request("a"), refusal=None, reported=before).granted == before

    def test_the_same_name_on_another_node_waits_for_the_first_to_confirm(self):
        state = a_state(an_endpoint(pod="e1"), an_endpoint(pod="e2", node="node2"))
        before = granted(state, a_request("a"))
        moved = settle(
            state, a_request("a", node="node2", uid="other"), refusal=None, reported=None
        ).granted

        assert moved is not None
        assert pair(moved)[1] != pair(before)[1]

    def test_nothing_is_held_for_a_node_that_is_gone(self):
        state = a_state(an_endpoint(prefixes=("10.9.0.0/30",)))
        granted(state, a_request("a"))
        state.put_node("node1", exists=False)
        state.release(a_request("a").key)

        assert granted(state, a_request("b")).client.addresses == ("10.9.0.2/32",)

    def test_what_a_node_reports_is_nobody_elses(self):
        state = a_state(an_endpoint(prefixes=("10.9.0.0/30",)))
        before = granted(a_state(an_endpoint(prefixes=("10.9.0.0/30",))), a_request("a"))
        state.hold(Holding.of(before))

        assert refused(state, a_request("b")).reason == "PoolExhausted"

    def test_a_pool_of_n_serves_n_and_the_next_one_when_one_is_freed(self):
        state = a_state(an_endpoint(prefixes=("10.9.0.0/29",)))
        for number in range(5):
            granted(state, a_request(f"c{number}"))

        refusal = refused(state, a_request("late"))
        assert refusal.reason == "PoolExhausted"
        assert "10.9.0.0/29 is full: 6 of 6 addresses used" in refusal.message

        state.release(a_request("c3").key)
        state.gone(a_request("c3").key, node="node1", revision=1)
        assert pair(granted(state, a_request("late")))[1] == "10.9.0.5"

    def test_a_new_endpoint_pod_of_the_object_keeps_the_addresses(self):
        state = a_state(an_endpoint(pod="vpn-1"))
        before = granted(state, a_request())
        state.registry.put_endpoint(an_endpoint(pod="vpn-1").key, None)
        replacement = an_endpoint(pod="vpn-2")
        state.registry.put_endpoint(replacement.key, replacement)
        after = granted(state, a_request())

        assert after.server.pod.name == "vpn-2"
        assert pair(after) == pair(before)
        assert after.revision == before.revision + 1


class TestChoice:
    @pytest.mark.parametrize("version", ["v1.0", "v1.1"])
    def test_labels_of_the_annotation_choose_the_endpoint(self, version):
        state = a_state(
            an_endpoint("old", labels={"app": "foo", "version": "v1.0"}),
            an_endpoint("new", labels={"app": "foo", "version": "v1.1"}),
        )
        connection = granted(state, a_request(labels={"version": version}))

        assert connection.endpoint == {"v1.0": "old", "v1.1": "new"}[version]

    def test_a_label_that_nobody_has_is_refused_listing_every_candidate(self):
        state = a_state(
            an_endpoint("old", labels={"version": "v1.0"}),
            an_endpoint("new", labels={"version": "v1.1"}),
        )
        refusal = refused(state, a_request(labels={"version": "v9"}))

        assert refusal.reason == "NoMatchingEndpoint"
        assert [c.endpoint for c in refusal.candidates] == [
            "new (pod new-pod, version=v1.1)",
            "old (pod old-pod, version=v1.0)",
        ]
        assert "version=v9" in refusal.message

    def test_no_endpoint_says_what_to_create(self):
        refusal = refused(a_state(), a_request())

        assert refusal.reason == "NoEndpoint"
        assert "create a NetworkServiceEndpoint" in refusal.message

    def test_a_not_ready_endpoint_keeps_its_clients_and_gets_no_new_ones(self):
        state = a_state(an_endpoint())
        before = granted(state, a_request("a"))
        waiting = an_endpoint(ready=False)
        state.registry.put_endpoint(waiting.key, waiting)

        assert granted(state, a_request("a")) is before
        assert refused(state, a_request("b")).reason == "EndpointNotReady"

    def test_a_pod_is_never_its_own_endpoint(self):
        state = a_state(an_endpoint(pod="client"))

        assert "is the client itself" in refused(state, a_request("client")).message

    def test_an_endpoint_on_another_node_is_refused_as_not_yet_supported(self):
        state = a_state(an_endpoint(node="node2"))

        refusal = refused(state, a_request())
        assert refusal.reason == "RemoteNotSupported"
        assert "node2" in refusal.message
        assert "node1" in refusal.message

    def test_the_next_candidate_serves_when_the_first_is_full(self):
        state = a_state(an_endpoint("a-small", prefixes=("10.9.0.0/30",)), an_endpoint("b-large"))
        given = [granted(state, a_request(f"c{i}")).endpoint for i in range(4)]

        assert given.count("a-small") == 1

    def test_rules_choose_by_the_clients_labels_and_fall_through(self):
        rules = intent.NetworkService(
            namespace="default",
            name="vpn",
            matches=(
                intent.Match(
                    source_selector={"app": "gold"},
                    routes=(intent.Destination(destination_selector={"tier": "none"}),),
                    fallthrough=True,
                ),
                intent.Match(
                    source_selector={"podName": "client"},
                    routes=(intent.Destination(destination_selector={"tier": "b"}),),
                ),
                intent.Match(routes=(intent.Destination(destination_selector={"tier": "a"}),)),
            ),
        )
        state = a_state(
            an_endpoint("a", labels={"tier": "a"}),
            an_endpoint("b", labels={"tier": "b"}),
            services=[rules],
        )

        assert granted(state, a_request("client", labels={"app": "gold"})).endpoint == "b"
        assert granted(state, a_request("other")).endpoint == "a"

    def test_weights_share_new_clients(self):
        rules = intent.NetworkService(
            namespace="default",
            name="vpn",
            matches=(
                intent.Match(
                    routes=(
                        intent.Destination(destination_selector={"tier": "a"}, weight=3),
                        intent.Destination(destination_selector={"tier": "b"}, weight=1),
                    )
                ),
            ),
        )
        state = a_state(
            an_endpoint("a", labels={"tier": "a"}),
            an_endpoint("b", labels={"tier": "b"}),
            services=[rules],
        )
        given = [granted(state, a_request(f"c{i}")).endpoint for i in range(40)]

        assert given.count("a") == 30

    def test_another_namespace_must_allow_its_clients(self):
        endpoint = an_endpoint(namespace="team-b")
        open_to = intent.NetworkService(
            namespace="team-b", name="vpn", allowed_namespaces=("team-*",)
        )
        closed, allowing = a_state(endpoint), a_state(endpoint, services=[open_to])

        for state in (closed, allowing):
            assert "do not allow this one" in refused(state, a_request()).message
            assert refused(state, a_request(namespace="team-b")).reason == "NotAllowed"
        client = a_request("x").pod
        for namespace in ("", "team-b"):
            request = msgspec.structs.replace(
                a_request("x", namespace=namespace),
                pod=msgspec.structs.replace(client, namespace="team-a"),
            )
            assert granted(allowing, request).endpoint_namespace == "team-b"

    def test_two_namespaces_that_allow_it_are_ambiguous(self):
        services = [
            intent.NetworkService(namespace=ns, name="vpn", allowed_namespaces=("*",))
            for ns in ("one", "two")
        ]
        refusal = refused(a_state(services=services), a_request())

        assert refusal.reason == "AmbiguousNetworkService"
        assert "one and two" in refusal.message


class TestCollisions:
    def test_a_pool_inside_a_prefix_in_use_is_refused_naming_both(self):
        state = a_state(an_endpoint(), excluded=[("172.16.0.0/12", "Pod CIDR of node node1")])
        refusal = refused(state, a_request())

        assert refusal.reason == "PrefixCollision"
        assert "172.16.1.0/24 overlaps 172.16.0.0/12 (Pod CIDR of node node1)" in refusal.message

    def test_a_partly_overlapping_pool_is_used_around_the_overlap(self):
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
    def test_a_route_that_overlaps_a_prefix_in_use_is_refused_naming_both(self, route, used):
        endpoint = an_endpoint(
            prefixes=("172.16.1.0/24", "fd00::/64"), routes=(intent.Route(destination=route),)
        )
        refusal = refused(a_state(endpoint, excluded=[(used, "Service CIDR")]), a_request())

        assert refusal.reason == "PrefixCollision"
        assert f"route {route}, which overlaps {used} (Service CIDR)" in refusal.message

    def test_a_route_that_overlaps_another_connection_of_the_pod_is_refused(self):
        state = a_state(
            an_endpoint(
                "one", services=("one",), routes=(intent.Route(destination="10.20.0.0/16"),)
            ),
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

    def test_addresses_keep_clear_of_routes_of_the_pods_other_connections(self):
        state = a_state(
            an_endpoint(
                "one", services=("one",), routes=(intent.Route(destination="172.16.2.0/25"),)
            ),
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
    def test_a_route_that_cannot_work_is_refused_and_harms_nobody_else(self, route, next_hop):
        endpoint = an_endpoint(routes=(intent.Route(destination=route, next_hop=next_hop),))

        refusal = refused(a_state(endpoint), a_request())
        assert refusal.reason == "BadEndpoint"
        assert granted(a_state(endpoint, an_endpoint("fine")), a_request()).endpoint == "fine"

    def test_an_endpoint_with_a_bad_prefix_costs_only_itself(self):
        state = a_state(an_endpoint("bad", prefixes=("172.16.1.5/24",)), an_endpoint("fine"))

        assert granted(state, a_request()).endpoint == "fine"

    def test_the_endpoint_pods_own_addresses_are_left_out(self):
        endpoint = an_endpoint(prefixes=("10.244.1.0/24",), ips=("10.244.1.1",))

        assert pair(granted(a_state(endpoint), a_request())) == ("10.244.1.2", "10.244.1.3")

    def test_a_pod_of_the_same_name_does_not_inherit_what_came_to_be_excluded(self):
        state = a_state(an_endpoint())
        granted(state, a_request("a"))
        state.put_excluded([Use(ip_network("172.16.0.0/12"), "user")])

        assert refused(state, a_request("a", uid="other")).reason == "PrefixCollision"

    def test_a_default_route_is_refused_as_not_yet_supported(self):
        endpoint = an_endpoint(routes=(intent.Route(destination="0.0.0.0/0"),))

        assert refused(a_state(endpoint), a_request()).reason == "DefaultRouteNotSupported"

    def test_a_prefix_in_use_that_appears_later_takes_nothing_from_what_stands(self):
        state = a_state(an_endpoint(routes=(intent.Route(destination="10.20.0.0/16"),)))
        before = granted(state, a_request("a"))
        state.put_excluded(
            [Use(ip_network("172.16.0.0/12"), "user"), Use(ip_network("10.0.0.0/8"), "user")]
        )

        assert granted(state, a_request("a")) is before
        assert refused(state, a_request("b")).reason == "PrefixCollision"


class TestDns:
    def test_dns_without_servers_is_served_by_the_endpoints_address(self):
        endpoint = an_endpoint(dns=intent.Dns(domains=("corp.example",)))

        dns = granted(a_state(endpoint), a_request()).dns
        assert dns is not None
        assert dns.servers == ("172.16.1.1",)

    def test_both_families_of_the_endpoints_address_serve_it(self):
        endpoint = an_endpoint(prefixes=("172.16.1.0/24", "2001:db8::/64"), dns=intent.Dns())

        dns = granted(a_state(endpoint), a_request()).dns
        assert dns == intent.Dns(servers=("172.16.1.1", "2001:db8::1"))

    def test_a_pod_that_wants_no_dns_is_given_none(self):
        state = a_state(an_endpoint(dns=intent.Dns(servers=("172.16.1.1",))))

        assert granted(state, a_request(dns=False)).dns is None

    def test_an_endpoint_without_dns_gives_none(self):
        assert granted(a_state(an_endpoint()), a_request()).dns is None

    @given(
        st.lists(
            st.tuples(
                st.booleans(),
                st.sampled_from(
                    [
                        None,
                        intent.Dns(),
                        intent.Dns(servers=("172.16.1.1",)),
                        intent.Dns(domains=("corp.example",), search_domains=("corp.example",)),
                    ]
                ),
            ),
            min_size=2,
            max_size=8,
        )
    )
    @settings(max_examples=50, deadline=None)
    def test_dns_that_changes_under_a_connection_is_a_new_revision_and_nothing_else(self, steps):
        state = a_state(an_endpoint())
        before = granted(state, a_request())

        for wants, provided in steps:
            endpoint = an_endpoint(dns=provided)
            state.registry.put_endpoint(endpoint.key, endpoint)
            after = granted(state, a_request(dns=wants))
            given_dns = (
                msgspec.structs.replace(provided, servers=("172.16.1.1",))
                if provided and wants
                else None
            )

            assert after.dns == given_dns
            differs = after.dns != before.dns
            assert after.revision == before.revision + differs
            assert after == msgspec.structs.replace(before, dns=given_dns, revision=after.revision)
            before = after

    def test_an_adopted_connection_whose_pod_opted_out_meanwhile_loses_its_dns_alone(self):
        endpoint = an_endpoint(dns=intent.Dns())
        reported = granted(a_state(endpoint), a_request())
        state = a_state(endpoint)

        writes = settle(state, a_request(dns=False), refusal=None, reported=reported)

        assert writes.granted is not None
        assert writes.granted == msgspec.structs.replace(
            reported, dns=None, revision=reported.revision + 1
        )


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 12)), max_size=30))
def test_ranges_are_a_set_of_integers(steps):
    ranges, model = Ranges(), set()
    for is_add, first, length in steps:
        numbers = range(first, first + length + 1)
        if is_add:
            ranges.add(first, first + length)
            model |= set(numbers)
        else:
            ranges.remove(first, first + length)
            model -= set(numbers)

    assert {n for low, high in ranges for n in range(low, high + 1)} == model
    assert ranges.size() == len(model)
    flat = list(ranges)
    assert all(one[1] + 1 < other[0] for one, other in itertools.pairwise(flat))
    for number in range(-1, 75):
        assert (number in ranges) == (number in model)


class PoolMachine(RuleBasedStateMachine):
    """A cluster of two nodes: Pods come, go, return elsewhere, nodes follow late, endpoints are edited,
    ipam restarts. No address is ever in two Pods, and a restart changes nothing that stands."""

    def __init__(self):
        super().__init__()
        self.requests: dict[RequestKey, intent.Request] = {}
        self.grants: dict[ConnectionKey, Connection] = {}
        self.released: dict[ConnectionKey, Holding] = {}
        self.kernel: dict[ConnectionKey, Connection] = {}
        self.uids = itertools.count()
        self.prefixes = {"one": ("10.9.0.0/28",), "two": ("10.9.0.0/28", "fd00::/124")}
        self.endpoints = {e.key: e for e in self._all_endpoints()}
        self.excluded: list[Use] = []
        self.state = self._built()

    def _all_endpoints(self):
        routes = (intent.Route(destination="10.50.0.0/16"),)
        return [
            an_endpoint(
                name,
                services=(name,),
                pod=f"{name}-{node}",
                node=node,
                prefixes=self.prefixes[name],
                addressing="shared" if name == "one" else "pointToPoint",
                routes=routes if name == "two" else (),
            )
            for name in ("one", "two")
            for node in ("node1", "node2")
        ]

    def _built(self):
        state = a_state(*self.endpoints.values())
        state.put_excluded(self.excluded)
        for connection in self.grants.values():
            state.grant(connection)
        for holding in self.released.values():
            state.hold(holding)
        for connection in self.kernel.values():
            state.stands(Holding.of(connection))
        return state

    def _reported(self, request):
        pod = request.pod
        return self.kernel.get(ConnectionKey(pod.node, pod.namespace, pod.name, request.interface))

    def _settle_all(self):
        for _ in range(4):
            changed = False
            for key in [k for k in self.state.grants if k not in self.requests]:
                self._write(abandon(self.state, key, refusal=None))
            for key in sorted(self.requests, key=lambda key: key.subject):
                request = self.requests[key]
                writes = settle(self.state, request, refusal=None, reported=self._reported(request))
                changed = self._write(writes) or changed
            if not changed:
                return
        raise AssertionError("deciding the same again and again changes something each time")

    def _write(self, writes):
        for connection in writes.released:
            del self.grants[connection.key]
            self.released[connection.key] = msgspec.structs.replace(
                Holding.of(connection), is_released=True
            )
        if writes.granted is not None:
            self.released.pop(writes.granted.key, None)
            self.grants[writes.granted.key] = writes.granted
        return bool(writes.released or writes.granted)

    @rule(
        client=st.integers(0, 7),
        service=st.sampled_from(["one", "two"]),
        node=st.sampled_from(["node1", "node2"]),
    )
    def create(self, client, service, node):
        """A Pod asks; one of that name is re-created, maybe on another node, with another uid."""
        for key in [k for k in self.requests if k.pod == f"c{client}"]:
            if self.requests[key].pod.node != node or key.interface == f"to-{service}":
                del self.requests[key]
        request = a_request(
            f"c{client}",
            interface=f"to-{service}",
            service=service,
            node=node,
            uid=f"uid-{next(self.uids)}",
        )
        self.requests[request.key] = request
        self._settle_all()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def leave(self, data):
        del self.requests[
            data.draw(st.sampled_from(sorted(self.requests, key=lambda k: k.subject)))
        ]
        self._settle_all()

    @precondition(lambda self: self.grants or self.released)
    @rule(data=st.data())
    def node_follows(self, data):
        """A node makes its kernel as the bus says for one connection, and tells."""
        keys = sorted({*self.grants, *self.released}, key=lambda key: key.subject)
        key = data.draw(st.sampled_from(keys))
        request = RequestKey(key.namespace, key.pod, key.interface)
        if key in self.grants:
            self.kernel[key] = self.grants[key]
            self.state.stands(Holding.of(self.grants[key]))
        else:
            self.kernel.pop(key, None)
            holding = self.released.pop(key)
            self.state.gone(request, node=key.node, revision=holding.revision)
        self._settle_all()

    @rule(which=st.integers(0, 3), is_there=st.booleans())
    def endpoint_pod(self, which, is_there):
        endpoint = self._all_endpoints()[which]
        if is_there:
            self.endpoints[endpoint.key] = endpoint
        else:
            self.endpoints.pop(endpoint.key, None)
        self.state.registry.put_endpoint(endpoint.key, endpoint if is_there else None)
        self._settle_all()

    @rule(
        name=st.sampled_from(["one", "two"]),
        prefix=st.sampled_from(["10.9.0.0/28", "10.9.0.4/30", "10.9.1.0/29"]),
    )
    def edit_prefix(self, name, prefix):
        self.prefixes[name] = (prefix, *self.prefixes[name][1:])
        for endpoint in self._all_endpoints():
            if endpoint.key in self.endpoints:
                self.endpoints[endpoint.key] = endpoint
                self.state.registry.put_endpoint(endpoint.key, endpoint)
        self._settle_all()

    @rule(
        prefixes=st.lists(
            st.sampled_from(["10.9.0.0/30", "10.9.0.8/31", "10.9.0.5/32", "fd00::/126"]), max_size=2
        )
    )
    def exclude(self, prefixes):
        self.excluded = [Use(ip_network(p), "test") for p in prefixes]
        self.state.put_excluded(self.excluded)
        self._settle_all()

    @rule()
    def restart(self):
        before = dict(self.grants)
        self.state = self._built()
        self._settle_all()
        assert {key: self.grants[key] for key in before} == before

    @invariant()
    def no_address_is_in_two_pods(self):
        owners: dict[object, set[object]] = {}
        for connection in [*self.grants.values(), *self.kernel.values()]:
            for address in addresses_of(connection.client):
                owners.setdefault((connection.endpoint, address), set()).add(connection.key)
        assert all(len(keys) == 1 for keys in owners.values()), owners

    @invariant()
    def no_endpoint_address_is_a_clients(self):
        for endpoint in ("one", "two"):
            of = [c for c in self.grants.values() if c.endpoint == endpoint]
            clients = {a for c in of for a in addresses_of(c.client)}
            servers = {a for c in of for a in addresses_of(c.server)}
            assert not clients & servers

    @invariant()
    def no_two_connections_of_a_pod_overlap(self):
        by_pod: dict[str, list[list[Prefix]]] = {}
        for c in self.grants.values():
            ends = [a for end in (c.client, c.server) for a in end.addresses]
            uses = [values.parse_prefix_loosely(a) for a in ends]
            uses += [values.parse_prefix(r.destination) for r in c.client.routes]
            by_pod.setdefault(c.client.pod.uid, []).append(uses)
        for uses_of in by_pod.values():
            for at, one in enumerate(uses_of):
                for other in uses_of[at + 1 :]:
                    assert not any(values.overlap(a, b) for a in one for b in other)

    @invariant()
    def what_is_granted_lies_in_the_pool(self):
        for connection in self.grants.values():
            prefixes = [ip_network(p) for p in self.prefixes[connection.endpoint]]
            for end in (connection.client, connection.server):
                for address in addresses_of(end):
                    assert any(address in prefix for prefix in prefixes), connection

    def teardown(self):
        """All leave, all nodes follow: every address is free again."""
        self.requests.clear()
        self._settle_all()
        for key in list(self.released):
            request = RequestKey(key.namespace, key.pod, key.interface)
            self.state.gone(request, node=key.node, revision=self.released[key].revision)
        for object_ in list(self.state.changed):
            figures = self.state.figures(object_)
            assert figures is None or not any(each.used for each in figures.families), figures


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
