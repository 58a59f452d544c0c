"""Decisions of ipam: who gets which endpoint and addresses, and that nothing collides, ever."""

import ipaddress
import itertools
from ipaddress import ip_address, ip_network

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from schemas import intent, values
from schemas.grant import Connection
from services.ipam.core.deciding import Granted, Refused, decide
from services.ipam.core.ranges import Ranges
from services.ipam.core.state import Holding, State, Use, addresses_of, request_key


def a_pod(name, *, node="node1", namespace="default", uid=None, ips=()):
    return intent.PodRef(
        namespace=namespace, name=name, uid=uid or f"uid-{name}", node=node, ips=ips
    )


def a_request(pod="client", interface="nsm-1", service="vpn", namespace="", **kwargs):
    labels = kwargs.pop("labels", {})
    return intent.Request(
        pod=a_pod(pod, **kwargs),
        interface=interface,
        network_service=service,
        network_service_namespace=namespace,
        labels=labels,
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
        assert not state.gone(request.key, uid="uid-a", revision=connection.revision - 1)
        assert state.gone(request.key, uid="uid-a", revision=connection.revision)
        assert pair(granted(state, a_request("b"))) == ("10.9.0.1", "10.9.0.2")

    def test_the_same_pod_and_interface_get_their_address_back_while_it_is_free(self):
        state = a_state(an_endpoint())
        for name in ("a", "b", "c"):
            granted(state, a_request(name))
        before = state.release(a_request("b").key)
        state.gone(a_request("b").key, uid="uid-b", revision=before.revision)
        state.release(a_request("a").key)
        state.gone(a_request("a").key, uid="uid-a", revision=1)

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

        state.gone(request.key, uid="uid-a", revision=old.revision)

        assert refused(state, a_request("b")).reason == "PoolExhausted"

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
        state.gone(a_request("c3").key, uid="uid-c3", revision=1)
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
        assert "172.16.1.0/24 lies in 172.16.0.0/12 (Pod CIDR of node node1)" in refusal.message

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
        endpoint = an_endpoint(routes=(intent.Route(destination=route),))
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
    """Clients come, go, return, are confirmed late; exclusions change. Nothing is ever held twice."""

    def __init__(self):
        super().__init__()
        routes = (intent.Route(destination="10.50.0.0/16"),)
        self.state = a_state(
            an_endpoint("one", services=("one",), prefixes=("10.9.0.0/28",), pod="r1"),
            an_endpoint("one", services=("one",), prefixes=("10.9.0.0/28",), pod="r2"),
            an_endpoint(
                "two",
                services=("two",),
                prefixes=("10.9.0.0/28", "fd00::/124"),
                routes=routes,
                addressing="pointToPoint",
            ),
        )
        self.releasing: list[Connection] = []

    @rule(client=st.integers(0, 9), service=st.sampled_from(["one", "two"]))
    def ask(self, client, service):
        request = a_request(f"c{client}", interface=f"to-{service}", service=service)
        previous = self.state.grants.get(request.key)
        last = self.state.last_known(request.key)
        revision = last.revision + 1 if last else 1
        result = decide(self.state, request, previous=previous, revision=revision)
        if isinstance(result, Granted):
            if previous is not None:
                assert result.connection is previous
            self.state.grant(result.connection)

    @precondition(lambda self: self.state.grants)
    @rule(data=st.data())
    def leave(self, data):
        key = data.draw(st.sampled_from(sorted(self.state.grants, key=lambda k: k.subject)))
        self.releasing.append(self.state.release(key))

    @precondition(lambda self: self.releasing)
    @rule(data=st.data())
    def confirm(self, data):
        gone = self.releasing.pop(data.draw(st.integers(0, len(self.releasing) - 1)))
        self.state.gone(request_key(gone), uid=gone.client.pod.uid, revision=gone.revision)

    @rule(
        prefixes=st.lists(
            st.sampled_from(["10.9.0.0/30", "10.9.0.8/31", "10.9.0.5/32", "fd00::/126"]), max_size=2
        )
    )
    def exclude(self, prefixes):
        self.state.put_excluded(Use(ip_network(p), "test") for p in prefixes)

    @invariant()
    def no_client_address_has_two_owners(self):
        standing = [*self.state.grants.values(), *self.releasing]
        owners: dict[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address], set[str]] = {}
        for connection in standing:
            for address in addresses_of(connection.client):
                owners.setdefault((connection.endpoint, address), set()).add(
                    request_key(connection).subject
                )
        assert all(len(keys) == 1 for keys in owners.values()), owners

    @invariant()
    def no_endpoint_address_is_a_clients(self):
        for endpoint in ("one", "two"):
            of = [c for c in self.state.grants.values() if c.endpoint == endpoint]
            clients = {a for c in of for a in addresses_of(c.client)}
            servers = {a for c in of for a in addresses_of(c.server)}
            assert not clients & servers

    @invariant()
    def no_two_connections_of_a_pod_overlap(self):
        for number in range(10):
            uses = [
                [
                    values.parse_prefix_loosely(a)
                    for end in (c.client, c.server)
                    for a in end.addresses
                ]
                + [values.parse_prefix(r.destination) for r in c.client.routes]
                for c in self.state.connections_of(f"uid-c{number}")
            ]
            for at, one in enumerate(uses):
                for other in uses[at + 1 :]:
                    assert not any(values.overlap(a, b) for a in one for b in other)


TestPool = PoolMachine.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
