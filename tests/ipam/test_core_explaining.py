"""Why an address is whose it is, told from a picture of the bus alone."""

from ipaddress import ip_address, ip_network

import msgspec
import pytest

from schemas import grant, intent
from schemas import state as states
from schemas.codec import Tombstone
from schemas.subjects import StatusKey
from services.ipam.core.explaining import (
    Picture,
    explain_address,
    explain_endpoint,
    explain_pod,
    explain_prefix,
)
from services.ipam.core.settling import abandon
from tests.ipam.builders import a_request, a_state, an_endpoint, granted, settled, uses

IN_USE = (
    intent.PrefixesInUse(
        source="service",
        name="clusterips",
        prefixes=(intent.UsedPrefix(prefix="172.16.1.64/26", used_by="Service a/b"),),
    ),
    intent.PrefixesInUse(source="node", name="node1"),
)


def a_bus(*more):
    """A client with a connection, one that was refused, one that left and is not confirmed."""
    endpoint = an_endpoint(
        exclude_prefixes=("172.16.1.32/28",), routes=(intent.Route(destination="10.20.0.0/16"),)
    )
    state = a_state(endpoint)
    state.put_excluded(uses("172.16.1.64/26", by="Service a/b"))
    request, gone = a_request("a", ips=("10.244.1.7",)), a_request("gone")
    connection = granted(state, request)
    left = granted(state, gone)
    abandon(state, gone.key, refusal=None)
    lost = a_request("lost", service="none")
    refusal = settled(state, lost).refused
    pool = state.figures(("default", "vpn"))
    tombstone = Tombstone(
        released="uid-gone",
        revision=1,
        endpoint="default/vpn",
        addresses=left.client.addresses,
        peer_addresses=left.server.addresses,
    )
    messages = [
        *((m.key, m) for m in (endpoint, request, lost, connection, refusal, pool, *IN_USE)),
        (left.key, tombstone),
        *more,
    ]
    return Picture.from_messages(messages), connection


def text(lines):
    return "\n".join(line.text for line in lines)


def of(address, picture=None):
    return text(explain_address(picture or a_bus()[0], ip_address(address)))


def test_who_holds_an_address_is_said_with_the_subject():
    picture, connection = a_bus()
    lines = explain_address(picture, ip_address("172.16.1.2"))

    assert lines[0].text == (
        "172.16.1.2 is the client's on connection nsm-1 of pod default/a to endpoint default/vpn "
        "(pod vpn-pod), since revision 1"
    )
    assert lines[0].subject == connection.key.subject
    assert "the endpoint Pod's on connection nsm-1" in of("172.16.1.1")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("172.16.1.3", "held back: node node1 has not confirmed that connection nsm-1 of pod"),
        ("172.16.1.65", "172.16.1.64/26 is in use: Service a/b"),
        ("172.16.1.65", "and is not given because it is in use"),
        ("172.16.1.200", "172.16.1.200 lies in 172.16.1.0/24 of pool default/vpn, and is free"),
        ("172.16.1.33", "whose ipam.excludePrefixes or next hops leave it out"),
        ("172.16.1.0", "as its network or broadcast address"),
        ("172.16.1.255", "as its network or broadcast address"),
        ("10.244.1.7", "10.244.1.7 is pod default/a's own address"),
        ("10.20.0.1", "endpoint default/vpn declares the route 10.20.0.0/16"),
        ("192.0.2.1", "nothing on the bus speaks of it"),
        ("fd00::1", "nothing on the bus speaks of it"),
    ],
)
def test_every_address_has_its_reason(address, words):
    assert words in of(address)


def test_what_a_node_confirmed_is_held_back_no_more():
    key = StatusKey("node1", "default", "gone", "nsm-1")

    assert "held back" not in of("172.16.1.3", a_bus((key, Tombstone(revision=1)))[0])
    assert "held back" in of("172.16.1.3", a_bus((key, Tombstone(revision=0)))[0])


def test_what_a_node_has_and_nobody_grants_is_told():
    picture, connection = a_bus()
    orphan = states.Status(
        node="node1",
        namespace="default",
        pod="a",
        interface="nsm-1",
        revision=7,
        client=states.EndStatus(
            uid="uid-a",
            state="ready",
            applied=msgspec.structs.replace(connection, revision=7),
        ),
    )
    picture.messages[orphan.key] = orphan

    assert "172.16.1.2, 172.16.1.1 still stands on node node1" not in of("172.16.1.1")
    assert "still stands on node node1" in of("172.16.1.2", picture)


def test_a_prefix_tells_of_all_that_overlaps_it():
    told = text(explain_prefix(a_bus()[0], ip_network("172.16.0.0/16")))

    for words in (
        "172.16.1.64/26 is in use: Service a/b",
        "172.16.1.0/24 is of the pool of endpoint default/vpn: IPv4 has 2 of 254 used, 1 held back",
        "172.16.1.2 is the client's on connection nsm-1 of pod default/a",
        "held back",
    ):
        assert words in told
    nothing = explain_prefix(a_bus()[0], ip_network("192.0.2.0/24"))
    assert "overlaps no pool" in text(nothing)


def test_what_only_a_policy_speaks_of_is_told():
    endpoint = an_endpoint(
        "gate",
        prefixes=("172.16.2.0/24",),
        policies=(intent.Policy(source="192.0.2.201/32", protocol="tcp"),),
    )

    told = of("192.0.2.201", a_bus((endpoint.key, endpoint))[0])
    assert told == (
        "endpoint default/gate declares a policy of what comes from 192.0.2.201/32 to its clients"
    )


@pytest.mark.parametrize(("default", "other"), [("0.0.0.0/0", "::/0"), ("::/0", "0.0.0.0/0")])
def test_a_default_route_is_told_to_who_asks_for_it_alone(default, other):
    routes = (intent.Route(destination=default),)
    endpoint = an_endpoint("exit", prefixes=("172.16.2.0/24", "2001:db8::/112"), routes=routes)
    picture = a_bus((endpoint.key, endpoint))[0]

    words = f"endpoint default/exit declares the route {default}"
    assert words in text(explain_prefix(picture, ip_network(default)))
    assert words not in text(explain_prefix(picture, ip_network(other)))
    assert words not in of("192.0.2.1", picture)


def a_connection_with(**declared):
    state = a_state(an_endpoint(**declared))
    connection = granted(state, a_request("a"))
    return Picture.from_messages([(connection.key, connection)])


@pytest.mark.parametrize(("default", "other"), [("0.0.0.0/0", "::/0"), ("::/0", "0.0.0.0/0")])
def test_who_has_a_default_route_is_told_to_who_asks_for_it(default, other):
    own = {"prefixes": ("172.16.2.0/24", "2001:db8::/112")}
    everywhere = (intent.Route(destination=default),)
    source = "192.0.2.201/32" if default == "0.0.0.0/0" else "2001:db8:1::1/128"
    connection = "connection nsm-1 of pod default/a to endpoint default/vpn (pod vpn-pod) has a "
    for declared, words in (
        ({"routes": everywhere}, "default route"),
        ({"policies": (intent.Policy(protocol="tcp", routes=everywhere),)}, "default route for"),
        ({"policies": (intent.Policy(source=source),)}, "default route for"),
    ):
        picture = a_connection_with(**own, **declared)
        assert connection + words in text(explain_prefix(picture, ip_network(default)))
        assert "default route" not in text(explain_prefix(picture, ip_network(other)))


def test_an_address_that_a_policy_gives_is_its_clients_and_a_prefix_it_matches_is_not():
    policies = (
        intent.Policy(source="192.0.2.201/32", protocol="tcp"),
        intent.Policy(source="192.0.2.0/24", protocol="udp"),
    )
    picture = a_connection_with(policies=policies)
    told = of("192.0.2.201", picture)
    assert (
        "192.0.2.201 is the client's, too, by a policy of connection nsm-1 of pod default/a" in told
    )
    assert "client's" not in of("192.0.2.0", picture)


def test_a_pod_tells_each_interface_and_what_it_serves():
    picture, _ = a_bus()

    told = text(explain_pod(picture, "default", "a"))
    assert "nsm-1: asks for network service vpn" in told
    assert "nsm-1: granted 172.16.1.2/32, with 172.16.1.1/32 at endpoint default/vpn" in told
    assert "node node1 has not said anything about it yet" in told
    assert "refused, NoEndpoint" in text(explain_pod(picture, "default", "lost"))
    assert "held back" in text(explain_pod(picture, "default", "gone"))
    assert "serves vpn as a Pod of endpoint default/vpn: 1 connection" in text(
        explain_pod(picture, "default", "vpn-pod")
    )
    assert explain_pod(picture, "default", "nobody") == []


def test_a_pod_tells_where_its_connections_lead():
    policy = intent.Policy(
        source="172.16.1.9/32",
        protocol="tcp",
        destination_port="6666",
        routes=(intent.Route(destination="10.30.0.0/16", next_hop="172.16.1.1"),),
    )
    endpoint = an_endpoint(routes=(intent.Route(destination="0.0.0.0/0"),), policies=(policy,))
    request = a_request("a")
    connection = granted(a_state(endpoint), request)
    picture = Picture.from_messages((m.key, m) for m in (endpoint, request, connection))
    told = text(explain_pod(picture, "default", "a"))

    assert "nsm-1: routes 0.0.0.0/0" in told
    assert (
        "nsm-1: policy from 172.16.1.9/32 tcp to port 6666: routes 10.30.0.0/16 via 172.16.1.1"
        in told
    )


def test_why_a_candidate_fell_out_is_told_once():
    request = a_request("a", labels={"app": "other"})
    refusal = settled(a_state(an_endpoint()), request).refused
    assert refusal.candidates
    picture = Picture.from_messages((m.key, m) for m in (request, refusal))
    told = text(explain_pod(picture, "default", "a"))

    assert told.count(refusal.candidates[0].reason) == 1
    short = msgspec.structs.replace(refusal, message="nobody")
    picture = Picture.from_messages((m.key, m) for m in (request, short))
    assert "considered vpn" in text(explain_pod(picture, "default", "a"))


def test_an_endpoint_tells_its_pool_clients_collisions_and_pods():
    picture, _ = a_bus()
    key, pool = next(picture.of(grant.Pool))
    overlap = grant.Collision(prefix="172.16.1.0/24", overlaps="172.16.1.8/29", used_by="Node n1")
    picture.messages[key] = msgspec.structs.replace(pool, collisions=(overlap,))
    told = text(explain_endpoint(picture, "default", "vpn"))

    for words in (
        "endpoint default/vpn has 1 Pod and 1 connection of 1 client",
        "pool IPv4 172.16.1.0/24: 2 of 254 used, 1 held back",
        "172.16.1.0/24 collides with 172.16.1.8/29 (Node n1)",
        "declares routes 10.20.0.0/16",
        "pod default/vpn-pod on node node1 serves vpn: 1 connection",
    ):
        assert words in told
    assert explain_endpoint(picture, "default", "none") == []


def test_an_endpoint_tells_why_it_serves_nobody_and_that_an_edit_is_refused():
    picture, _ = a_bus()
    trouble = grant.Trouble(reason="BadEndpoint", message="has room for one end only")
    for kind, change in ((grant.Pool, {"trouble": trouble}), (intent.Endpoint, {"refused": "no"})):
        key, found = next(picture.of(kind))
        picture.messages[key] = msgspec.structs.replace(found, **change)

    told = text(explain_endpoint(picture, "default", "vpn"))
    assert "BadEndpoint: it has room for one end only; new clients are refused" in told
    assert "its newer spec is refused, the older one holds: no" in told


def test_of_many_links_some_are_told_and_the_rest_counted():
    state = a_state(an_endpoint())
    connections = [granted(state, a_request(f"c{n:03}")) for n in range(50)]
    picture = Picture.from_messages((c.key, c) for c in connections)
    lines = explain_address(picture, ip_address("172.16.1.1"))

    assert len(lines) == 21
    assert lines[-1].text == "and 30 more like these"


def test_what_one_pool_gave_is_free_in_another_one():
    state = a_state(an_endpoint("a", services=("a",)), an_endpoint("b", services=("b",)))
    connection = granted(state, a_request(service="a"))
    for name in "ab":
        state.pool(an_endpoint(name))
    pools = [state.figures(("default", name)) for name in "ab"]
    picture = Picture.from_messages((m.key, m) for m in (connection, *pools))
    told = [line.text for line in explain_address(picture, ip_address("172.16.1.2"))]

    assert "172.16.1.2 lies in 172.16.1.0/24 of pool default/a" in told
    assert "172.16.1.2 lies in 172.16.1.0/24 of pool default/b, and is free" in told
