"""Which endpoint serves, and what a refusal says of those that do not."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import intent
from schemas.subjects import EndpointKey
from services.ipam.core.offering import Offers
from services.ipam.core.settling import abandon
from tests.ipam.builders import a_request, a_state, an_endpoint, facts, granted, refused, settled


@pytest.mark.parametrize("version", ["v1.0", "v1.1"])
def test_labels_of_the_annotation_choose_the_endpoint(version):
    state = a_state(
        an_endpoint("old", labels={"app": "foo", "version": "v1.0"}),
        an_endpoint("new", labels={"app": "foo", "version": "v1.1"}),
    )
    connection = granted(state, a_request(labels={"version": version}))

    assert connection.endpoint == {"v1.0": "old", "v1.1": "new"}[version]


def test_a_label_that_nobody_has_is_refused_listing_every_candidate():
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


def test_no_endpoint_says_what_to_create():
    refusal = refused(a_state(), a_request())

    assert refusal.reason == "NoEndpoint"
    assert "; create a NetworkServiceEndpoint that names it" in refusal.message


@pytest.mark.parametrize(
    ("asked", "offered", "said"),
    [
        ("note", ("notes", "web"), "; did you mean notes? If not, create a"),
        ("svc-3", ("svc-1", "svc-2"), "; did you mean svc-2 or svc-1? If not, create a"),
        ("vpn", ("web", "notes"), "; correct the name (namespace default offers notes, web), or"),
        (
            "vpn",
            tuple(f"vpn-{at}" for at in range(101)),
            "namespace default offers 101 others), or",
        ),
        ("vpn", tuple("abcdefg"), "(namespace default offers a, b, c, d, e, 2 more), or"),
    ],
)
def test_where_nobody_offers_a_network_service_what_is_offered_is_told(asked, offered, said):
    state = a_state(an_endpoint(services=offered))

    assert said in refused(state, a_request(service=asked)).message


def test_what_is_not_offered_any_more_is_not_named():
    one, other = an_endpoint("one", services=("notes",)), an_endpoint("two", services=("notes",))
    state = a_state(one, other)
    state.put_endpoint(one.key, None)
    assert "did you mean notes?" in refused(state, a_request(service="note")).message
    state.put_endpoint(other.key, None)
    assert "notes" not in refused(state, a_request(service="note")).message


def test_what_a_foreign_namespace_offers_beside_is_not_told():
    open_ = intent.NetworkService(namespace="far", name="vpn", allowed_namespaces=("*",))
    state = a_state(an_endpoint(services=("vpn2",), namespace="far"), services=[open_])

    assert "vpn2" not in refused(state, a_request()).message


def test_a_not_ready_endpoint_keeps_its_clients_and_gets_no_new_ones():
    state = a_state(an_endpoint())
    before = granted(state, a_request("a"))
    waiting = an_endpoint(ready=False)
    state.put_endpoint(waiting.key, waiting)

    assert granted(state, a_request("a")) is before
    assert refused(state, a_request("b")).reason == "EndpointNotReady"


def test_a_pod_is_never_its_own_endpoint():
    state = a_state(an_endpoint(pod="client"))

    assert "is the client itself" in refused(state, a_request("client")).message


def test_the_next_candidate_serves_when_the_first_is_full():
    state = a_state(an_endpoint("a-small", prefixes=("10.9.0.0/30",)), an_endpoint("b-large"))
    given = [granted(state, a_request(f"c{i}")).endpoint for i in range(4)]

    assert given.count("a-small") == 1


def test_rules_choose_by_the_clients_labels_and_fall_through():
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


def test_weights_share_new_clients():
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


def test_another_namespace_must_allow_its_clients():
    endpoint = an_endpoint(namespace="team-b")
    open_to = intent.NetworkService(namespace="team-b", name="vpn", allowed_namespaces=("team-*",))
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


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (
            "closed",
            "add default to the allowedNamespaces of a NetworkService vpn in namespace closed",
        ),
        ("nowhere", "no network service vpn in namespace nowhere, or no such namespace; correct"),
        ("nowhere", "behind the '@' (there is vpn@team-b), or create"),
    ],
)
def test_a_namespace_that_has_it_not_is_told_apart_from_one_that_is_closed(written, said):
    state = a_state(
        an_endpoint(namespace="closed"), services=[a_service("team-b"), a_service("other-ns")]
    )
    state.put_network_service(a_service("other-ns").key, None)
    refusal = refused(state, a_request(namespace=written))

    assert refusal.reason == "NotAllowed"
    assert said in refusal.message


def test_two_namespaces_that_allow_it_are_ambiguous():
    services = [
        intent.NetworkService(namespace=ns, name="vpn", allowed_namespaces=("*",))
        for ns in ("one", "two")
    ]
    refusal = refused(a_state(services=services), a_request())

    assert refusal.reason == "AmbiguousNetworkService"
    assert "one and two" in refusal.message


@given(
    st.lists(st.integers(1, 9), min_size=2, max_size=4),
    st.lists(st.integers(1, 3), min_size=4, max_size=4),
    st.integers(1, 60),
)
@settings(max_examples=40, deadline=None)
def test_over_many_clients_every_route_of_a_rule_gets_its_share(weights, replicas, clients):
    """However many Pods serve a route, and on whichever node: its weight is its share."""
    rules = intent.NetworkService(
        namespace="default",
        name="vpn",
        matches=(
            intent.Match(
                routes=tuple(
                    intent.Destination(destination_selector={"tier": f"t{at}"}, weight=weight)
                    for at, weight in enumerate(weights)
                )
            ),
        ),
    )
    endpoints = [
        an_endpoint(
            f"t{at}", pod=f"t{at}-{n}", labels={"tier": f"t{at}"}, node=f"node{1 + (at + n) % 2}"
        )
        for at in range(len(weights))
        for n in range(replicas[at])
    ]
    state = a_state(*endpoints, services=[rules])
    state.put_facts(facts("node1"))
    state.put_facts(facts("node2"))
    given_to = [granted(state, a_request(f"c{n}")).endpoint for n in range(clients)]

    for at, weight in enumerate(weights):
        share = clients * weight / sum(weights)
        assert abs(given_to.count(f"t{at}") - share) <= len(weights)


def test_replicas_on_one_node_share_their_clients():
    state = a_state(*(an_endpoint(pod=f"e{n}") for n in range(4)))
    for n in range(20):
        granted(state, a_request(f"c{n}"))

    assert [state.load(an_endpoint(pod=f"e{n}").key) for n in range(4)] == [5, 5, 5, 5]


def on_two_nodes(**of_second):
    state = a_state(an_endpoint("a", node="node2"), an_endpoint("b", node="node3", **of_second))
    state.nodes.add("node3")
    for node in ("node1", "node2", "node3"):
        state.put_facts(facts(node))
    return state


def dead(endpoint):
    return msgspec.structs.replace(
        endpoint, pod=msgspec.structs.replace(endpoint.pod, node_ready=False)
    )


def test_an_endpoint_whose_node_died_loses_its_clients_to_another_one():
    state = on_two_nodes()
    assert granted(state, a_request()).endpoint == "a"
    died = dead(an_endpoint("a", node="node2"))
    state.put_endpoint(died.key, died)

    moved = settled(state, a_request()).granted
    assert moved is not None
    assert moved.endpoint == "b"
    state.put_endpoint(died.key, an_endpoint("a", node="node2"))
    assert settled(state, a_request()).granted is None  # and does not go back


def test_it_keeps_them_where_there_is_no_other_one():
    state = on_two_nodes(ready=False)
    before = granted(state, a_request())
    died = dead(an_endpoint("a", node="node2"))
    state.put_endpoint(died.key, died)

    assert granted(state, a_request()) is before
    refusal = refused(state, a_request("late"))
    assert refusal.reason == "EndpointNodeNotReady"
    assert "is on node node2, which is not Ready" in refusal.message


def test_an_endpoint_pod_that_ended_is_followed_by_the_next_one_at_once():
    state = on_two_nodes()
    granted(state, a_request())
    state.put_endpoint(an_endpoint("a", node="node2").key, None)

    assert granted(state, a_request()).endpoint == "b"


@pytest.mark.parametrize("node", ["node1", "node2"])
@pytest.mark.parametrize("ready", [True, False])
def test_an_endpoint_pod_that_is_being_deleted_hands_its_clients_on_and_keeps_those_it_cannot(
    node, ready
):
    state = a_state(an_endpoint("a", node=node))
    for each in ("node1", "node2", "node3"):
        state.put_facts(facts(each))
    first = granted(state, a_request())
    leaving = an_endpoint("a", node=node, ready=ready, leaving=True)
    state.put_endpoint(leaving.key, leaving)
    assert granted(state, a_request()) is first

    other = an_endpoint("b", node="node3")
    state.put_endpoint(other.key, other)
    moved = settled(state, a_request()).granted
    assert moved is not None
    assert moved.endpoint == "b"


def test_an_endpoint_pod_that_is_being_deleted_is_the_last_resort_of_new_clients():
    leaving = an_endpoint("a", ready=True, leaving=True)
    state = a_state(leaving, an_endpoint("b", node="node2"))
    for each in ("node1", "node2"):
        state.put_facts(facts(each))
    assert granted(state, a_request()).endpoint == "b"
    state.put_endpoint(an_endpoint("b").key, None)
    assert granted(state, a_request("late")).endpoint == "a"

    closed = an_endpoint("a", ready=False, leaving=True)
    state.put_endpoint(closed.key, closed)
    assert "is being deleted" in refused(state, a_request("later")).message


def test_clients_stay_with_one_that_leaves_where_the_other_has_no_room():
    state = a_state(an_endpoint("a"))
    pods = [f"c{number}" for number in range(3)]
    for name in pods:
        granted(state, a_request(name))
    leaving = an_endpoint("a", leaving=True)
    state.put_endpoint(leaving.key, leaving)
    small = an_endpoint("b", prefixes=("10.9.0.0/30",))
    state.put_endpoint(small.key, small)

    assert [granted(state, a_request(name)).endpoint for name in pods] == ["b", "a", "a"]


def across(*endpoints, nodes=("node1", "node2", "node3", "node4")):
    state = a_state(*endpoints, nodes=nodes)
    for each in nodes:
        state.put_facts(facts(each))
    return state


def lose(state, key, server):
    """The client's node hears nothing through this tunnel any more, and has not for a while."""
    state.paths.put("node1", server, is_silent=True)
    state.paths.lost.add(key)


def test_a_client_whose_tunnel_is_silent_moves_and_does_not_move_back():
    state = across(an_endpoint("a", node="node2"))
    granted(state, a_request())
    other = an_endpoint("b", node="node3")
    state.put_endpoint(other.key, other)
    lose(state, a_request().key, "node2")

    moved = settled(state, a_request()).granted
    assert moved is not None
    assert moved.endpoint == "b"
    state.paths.put("node1", "node2", is_silent=False)
    assert settled(state, a_request()).granted is None


@pytest.mark.parametrize("where", ["the same node", "another silent one", "nowhere"])
def test_a_client_whose_tunnel_is_silent_stays_where_nobody_else_is_heard(where):
    others = {"the same node": ["node2"], "another silent one": ["node3"], "nowhere": []}[where]
    state = across(an_endpoint("a", node="node2"))
    first = granted(state, a_request())
    for node in others:
        other = an_endpoint("b", node=node)
        state.put_endpoint(other.key, other)
        state.paths.put("node1", node, is_silent=True)
    lose(state, a_request().key, "node2")

    assert granted(state, a_request()) is first


def test_new_clients_avoid_a_path_that_is_silent_unless_it_is_the_only_one():
    state = across(an_endpoint("a", node="node2"), an_endpoint("b", node="node3"))
    state.paths.put("node1", "node2", is_silent=True)
    chosen = [granted(state, a_request(f"c{number}")).endpoint for number in range(3)]
    assert chosen == ["b", "b", "b"]
    # Others hear it.
    assert granted(state, a_request("far", node="node4")).endpoint == "a"
    state.put_endpoint(an_endpoint("b").key, None)
    assert granted(state, a_request("late")).endpoint == "a"


def test_a_link_within_a_node_that_died_is_left_alone():
    state = a_state(an_endpoint("a"), an_endpoint("b", node="node2"))
    state.put_facts(facts("node1"))
    state.put_facts(facts("node2"))
    before = granted(state, a_request())
    died = dead(an_endpoint("a"))
    state.put_endpoint(died.key, died)

    assert granted(state, a_request()) is before


def test_of_many_candidates_twenty_are_named_and_the_rest_counted():
    full = an_endpoint("full", prefixes=("10.9.0.0/31",), addressing="pointToPoint")
    others = [an_endpoint(f"e{n:02}", ready=False) for n in range(30)]
    state = a_state(full, *others)
    granted(state, a_request("first"))
    refusal = refused(state, a_request())

    assert refusal.reason == "PoolExhausted"
    assert len(refusal.candidates) == 20
    assert refusal.candidates[0].endpoint.startswith("full ")
    assert "; and 11 more;" in refusal.message


@pytest.mark.parametrize(
    ("nearer", "reason"),
    [
        ({"prefixes": ("172.16.0.0/12",), "routes": ("10.96.0.0/12",)}, "PrefixCollision"),
        ({"prefixes": ("x",)}, "BadEndpoint"),
        ({"prefixes": ()}, "NoPrefixes"),
        ({"node": "node2"}, "RemoteNotSupported"),
        ({"ready": False}, "EndpointNotReady"),
        ({"node_ready": False}, "EndpointNodeNotReady"),
    ],
)
def test_of_different_causes_the_one_nearest_to_a_connection_leads(nearer, reason):
    fields = dict(nearer)
    if "routes" in fields:
        fields["routes"] = tuple(intent.Route(destination=r) for r in fields["routes"])
    state = a_state(
        an_endpoint("near", labels={"a": "1"}, **fields),
        an_endpoint("off"),
        excluded=[("10.96.0.0/16", "Service CIDR")],
    )
    refusal = refused(state, a_request(labels={"a": "1"}))

    assert refusal.reason == reason
    assert [c.endpoint.split()[0] for c in refusal.candidates] == ["near", "off"]


def test_a_full_pool_is_said_once_of_every_replica():
    state = a_state(
        *(an_endpoint(pod=f"e{n}", prefixes=("10.9.0.0/31",)) for n in range(3)),
    )
    granted(state, a_request("first"))
    refusal = refused(state, a_request())

    assert {c.reason for c in refusal.candidates} == {
        "pool 10.9.0.0/31 is full: 2 of 2 addresses taken"
    }
    assert len(refusal.candidates) == 3


def test_a_networkservice_that_goes_takes_its_rules_along():
    rules = intent.NetworkService(
        namespace="default",
        name="vpn",
        matches=(
            intent.Match(routes=(intent.Destination(destination_selector={"tier": "none"}),)),
        ),
    )
    state = a_state(an_endpoint(), services=[rules])
    assert refused(state, a_request()).reason == "NoMatchingEndpoint"
    state.put_network_service(rules.key, None)

    assert granted(state, a_request()).endpoint == "vpn"


def a_service(namespace, *matches, allowed=("*",)):
    return intent.NetworkService(
        namespace=namespace, name="vpn", matches=matches, allowed_namespaces=allowed
    )


def test_a_foreign_namespace_takes_no_standing_connection_away():
    state = a_state(an_endpoint(namespace="infra"), services=[a_service("infra")])
    before = granted(state, a_request())
    evil = a_service("evil")
    state.put_network_service(evil.key, evil)

    assert granted(state, a_request()) is before
    assert refused(state, a_request("new")).reason == "AmbiguousNetworkService"
    assert refused(state, a_request(uid="a new Pod")).reason == "AmbiguousNetworkService"


def test_a_namespace_that_allows_it_no_more_loses_its_clients():
    state = a_state(an_endpoint(namespace="infra"), services=[a_service("infra")])
    granted(state, a_request())
    for other in (a_service("evil"), a_service("third"), a_service("infra", allowed=())):
        state.put_network_service(other.key, other)

    assert "evil and third" in refused(state, a_request()).message


def test_where_no_rule_is_for_the_client_the_refusal_names_what_the_rules_want():
    gold = intent.Match(source_selector={"app": "gold"}, routes=(intent.Destination(),))
    state = a_state(an_endpoint(), services=[a_service("default", gold)])
    refusal = refused(state, a_request(labels={"app": "tin"}))

    assert refusal.reason == "NoMatchingEndpoint"
    assert "NetworkService default/vpn" in refusal.message
    assert "they want app=gold, it has app=tin, namespace=default" in refusal.message


def to(weight=1, **labels):
    return intent.Destination(destination_selector=labels, weight=weight)


RULES = "matches[0] of NetworkService default/vpn"


@pytest.mark.parametrize(
    ("match", "leads_to", "remedy"),
    [
        (
            intent.Match(routes=(to(tier="gold"),)),
            "tier=gold",
            f"correct a destinationSelector in {RULES}, or the labels of the endpoint",
        ),
        (
            intent.Match(routes=(to(weight=0),)),
            "any (weight 0: nobody)",
            f"give a route of {RULES} a weight above 0",
        ),
        (
            intent.Match(routes=(to(tier="gold"), to(weight=0, tier="tin"))),
            "tier=gold or tier=tin (weight 0: nobody)",
            f"correct a destinationSelector or a weight of 0 in {RULES}, or the labels of the endpoint",
        ),
        (intent.Match(), "nothing", f"add a route to {RULES}"),
        (
            intent.Match(source_selector={"app": "gold"}),
            "",
            "correct matches[] of NetworkService default/vpn, or the labels in the annotation",
        ),
    ],
)
def test_where_a_rule_takes_all_away_the_remedy_is_the_rules(match, leads_to, remedy):
    message = refused(
        a_state(an_endpoint(), services=[a_service("default", match)]), a_request()
    ).message

    assert not leads_to or f"is not selected by {RULES}, which leads to {leads_to};" in message
    assert message.endswith(f"; {remedy}")


def test_who_offers_only_to_itself_is_told_to_run_another_one():
    endpoint = an_endpoint(pod="client")

    assert refused(a_state(endpoint), a_request()).message.endswith(
        "is the client itself; run another endpoint Pod: none serves itself"
    )


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"prefixes": ("10.9.0.0/31",), "addressing": "pointToPoint"}, "PoolExhausted"),
        ({"prefixes": ("10.96.3.0/24",)}, "PrefixCollision"),
        ({"routes": (intent.Route(destination="10.96.0.0/20"),)}, "PrefixCollision"),
        ({"routes": (intent.Route(destination="x"),)}, "BadEndpoint"),
        ({"prefixes": ("10.9.0.1/31",)}, "BadEndpoint"),
        ({"prefixes": ()}, "NoPrefixes"),
    ],
)
def test_what_is_true_of_all_replicas_is_found_at_one_of_them(spec, reason):
    state = a_state(
        *(an_endpoint(pod=f"e{n:03}", **spec) for n in range(300)),
        excluded=[("10.96.0.0/16", "Service CIDR")],
    )
    settled(state, a_request("first"))
    looked_at = []
    pool = state.pool

    def looking(endpoint):
        looked_at.append(endpoint)
        return pool(endpoint)

    state.pool = looking
    refusal = refused(state, a_request("second"))

    assert refusal.reason == reason
    assert {each.pod.name for each in looked_at} == {looked_at[0].pod.name}
    assert len({c.endpoint for c in refusal.candidates}) == 20
    assert "; and 280 more;" in refusal.message


def test_what_is_true_of_one_replica_alone_does_not_rule_out_the_others():
    """The Pod of the first one has what is left of the pool as its own addresses in the cluster."""
    spec = {"prefixes": ("10.9.0.0/31",), "addressing": "pointToPoint"}
    state = a_state(an_endpoint(pod="e1", ips=("10.9.0.0",), **spec), an_endpoint(pod="e2", **spec))

    assert granted(state, a_request()).server.pod.name == "e2"


def test_another_object_serves_when_all_replicas_of_one_are_full():
    full = {"prefixes": ("10.9.0.0/31",), "addressing": "pointToPoint"}
    state = a_state(
        *(an_endpoint("full", pod=f"e{n}", **full) for n in range(5)),
        an_endpoint("roomy", pod="r0", node="node2"),
        an_endpoint("roomy", pod="r1"),
    )
    first = granted(state, a_request("first"))

    assert first.endpoint == "full"
    assert granted(state, a_request("second")).server.pod.name == "r1"


def test_a_refusal_stays_the_same_while_loads_change():
    spec = {"prefixes": ("10.9.0.0/29",)}
    state = a_state(*(an_endpoint(pod=f"e{n:02}", **spec) for n in range(30)))
    for number in range(5):
        granted(state, a_request(f"c{number}"))
    before = refused(state, a_request("late"))
    abandon(state, a_request("c0").key, refusal=None)

    assert settled(state, a_request("late"), refusal=before).refused is None


PODS = st.integers(0, 7)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("load"), PODS, st.integers(0, 3)),
            st.tuples(st.just("label"), PODS, st.booleans()),
            st.tuples(st.just("ready"), PODS, st.booleans()),
            st.tuples(st.just("leaving"), PODS, st.booleans()),
            st.tuples(st.just("node"), PODS, st.integers(0, 1)),
            st.tuples(st.just("gone"), PODS, st.none()),
        ),
        max_size=40,
    ),
    st.sets(st.sampled_from(["o0", "o1", "o2"])),
)
@settings(max_examples=200, deadline=None)
def test_groups_that_are_kept_up_are_what_sorting_all_would_give(steps, passed):
    endpoints: dict[EndpointKey, intent.Endpoint] = {}
    loads: dict[EndpointKey, int] = {}
    offers = Offers("default", lambda key: loads.get(key, 0))
    (group,) = offers.select("all", [({"a": "1"}, 1)])
    for what, number, value in steps:
        key = an_endpoint(f"o{number % 3}", pod=f"p{number}").key
        old = endpoints.get(key, an_endpoint(key.endpoint, pod=key.pod, labels={"a": "1"}))
        if what == "load":
            loads[key] = value
            offers.count(key, value)
            continue
        if what == "gone":
            endpoints.pop(key, None)
        elif what == "label":
            endpoints[key] = msgspec.structs.replace(old, labels={"a": "1"} if value else {})
        elif what == "ready":
            endpoints[key] = msgspec.structs.replace(old, ready=value)
        elif what == "leaving":
            endpoints[key] = msgspec.structs.replace(old, leaving=value)
        else:
            pod = msgspec.structs.replace(old.pod, node=f"node{value}")
            endpoints[key] = msgspec.structs.replace(old, pod=pod)
        offers.put(key, endpoints.get(key))

    members = {k: e for k, e in endpoints.items() if e.labels}
    able = {k: e for k, e in members.items() if e.ready}
    ordered = sorted((loads.get(k, 0), k.endpoint, k.pod) for k, e in able.items() if not e.leaving)
    assert offers.names == sorted((k.endpoint, k.pod) for k in endpoints)
    assert group.members.keys() == members.keys()
    assert group.load == sum(loads.get(k, 0) for k in members)
    assert group.closed == sorted((k.endpoint, k.pod) for k, e in members.items() if not e.ready)
    assert group.leaving == sorted((k.endpoint, k.pod) for k, e in able.items() if e.leaving)
    assert list(group.open.best_first(passed)) == [e for e in ordered if e[1] not in passed]
    for node in ("node0", "node1"):
        at_home = {k.pod for k, e in members.items() if e.pod.node == node}
        found = group.on_node[node].best_first(()) if node in group.on_node else ()
        assert list(found) == [e for e in ordered if e[2] in at_home]
