"""Each rule of the checker can fail: a sound picture, doctored."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.grant import ClusterPrefixes, Collision, Connection, End, Pool, PoolFigures
from schemas.intent import (
    Destination,
    IpamSpec,
    Match,
    NetworkService,
    Policy,
    PrefixesInUse,
    Route,
    UsedPrefix,
)
from schemas.state import NodeFacts
from schemas.subjects import ConnectionKey
from tests.builders import (
    a_connection,
    a_pod,
    a_refusal,
    a_request,
    a_status,
    an_end,
    an_end_status,
    an_endpoint,
)
from tests.checker import Picture, conflicts, double_grants
from tests.checker.spans import Cover, Span, clashes, merged, size, without

replace = msgspec.structs.replace

IN_USE = PrefixesInUse(
    source="node",
    name="node1",
    prefixes=(
        UsedPrefix(prefix="10.244.1.0/24", used_by="Pod CIDR of node node1"),
        UsedPrefix(prefix="192.168.7.0/24", used_by="lab"),
    ),
)
POOL = Pool(
    namespace="default",
    endpoint="vpn",
    families=(
        PoolFigures(
            family=4,
            prefixes=("172.16.1.0/24",),
            size=254,
            used=3,
            free=251,
            largest_free="172.16.1.128/25",
        ),
    ),
)
PAIRS = an_endpoint(
    "pairs",
    "pairs-1",
    network_services=("pairs",),
    labels={"version": "v1"},
    ipam=IpamSpec(prefixes=("172.16.9.0/28",), addressing="pointToPoint"),
    routes=(Route(destination="10.20.0.0/16"), Route(destination="0.0.0.0/0")),
    policies=(Policy(source="10.1.0.0/16", routes=(Route(destination="10.30.0.0/16"),)),),
)


def sound() -> Picture:
    """Three grants of two endpoints, one over two nodes; a refusal; an endpoint with carved prefixes."""
    far = a_pod("far", node="node2", ips=("10.244.2.9",))
    connections = [
        grant("app", "nsm-vpn", number=2),
        grant("far", "nsm-vpn", number=3, pod=far, node="node2", vni=7, mechanism="vxlan"),
        grant("far", "nsm-vpn", number=3, pod=far, node="node1", vni=7, mechanism="vxlan"),
        pair("app", "nsm-2", 0),
    ]
    messages: list[Any] = [
        IN_USE,
        NodeFacts(node="node1", underlay_address="192.0.2.1", mtu=1500, mechanisms=("vxlan",)),
        NodeFacts(node="node2", underlay_address="192.0.2.2", mtu=1400, mechanisms=("vxlan",)),
        an_endpoint(),
        PAIRS,
        an_endpoint("own", "own-1", network_services=("own",), ipam=IpamSpec()),
        a_request("app"),
        replace(a_request("far"), pod=far),
        a_request("app", "nsm-2", network_service="pairs"),
        a_request("late"),
        a_refusal("late"),
        *connections,
        POOL,
        Pool(namespace="default", endpoint="pairs", families=(figures("172.16.9.0/28", 16, 2),)),
        Pool(
            namespace="default",
            endpoint="own",
            families=(figures("100.112.3.0/24", 254, 0),),
            automatic=True,
        ),
        ClusterPrefixes(prefixes=("10.244.1.0/24", "192.168.7.0/24")),
        a_status("app", client=an_end_status("app", applied=connections[0])),
    ]
    return Picture.of((m.key, m) for m in messages)


def figures(prefix: str, usable: int, used: int) -> PoolFigures:
    free = usable - used
    largest = prefix.replace("0/", "8/").replace("/24", "/29").replace("/28", "/29")
    return PoolFigures(
        family=4, prefixes=(prefix,), size=usable, used=used, free=free, largest_free=largest
    )


def grant(name: str, interface: str, *, number: int, pod: Any = None, **fields: Any) -> Connection:
    pod = pod or a_pod(name)
    is_far = pod.node != "node1"
    client = an_end(
        name,
        interface,
        mac=f"02:00:00:00:01:{number:02x}",
        addresses=(f"172.16.1.{number}/32",),
        underlay="192.0.2.2" if is_far else "",
    )
    server = an_end(
        "gateway",
        f"nse-{number}",
        mac=f"02:00:00:00:02:{number:02x}",
        addresses=("172.16.1.1/32",),
        underlay="192.0.2.1" if is_far else "",
    )
    client = replace(client, pod=pod)
    mtu = 1350 if is_far else 1500
    return a_connection(**{"client": client, "server": server, "mtu": mtu, **fields})


def pair(name: str, interface: str, low: int) -> Connection:
    return a_connection(
        client=an_end(
            name,
            interface,
            mac="02:00:00:00:03:01",
            addresses=(f"172.16.9.{low + 1}/32",),
            routes=PAIRS.routes,
        ),
        server=an_end(
            "pairs-1", "nse-9", mac="02:00:00:00:03:02", addresses=(f"172.16.9.{low}/32",)
        ),
        network_service="pairs",
        endpoint="pairs",
        policies=PAIRS.policies,
    )


def put(picture: Picture, *messages: Any) -> None:
    for message in messages:
        picture.put(message.key, message)


def app(**fields: Any) -> Connection:
    return replace(grant("app", "nsm-vpn", number=2), **fields)


def with_end(connection: Connection, which: str, **fields: Any) -> Connection:
    end: End = getattr(connection, which)
    return replace(connection, **{which: replace(end, **fields)})


def another(number: int, **fields: Any) -> list[Any]:
    """One more grant of vpn on node1, with its request and the right figures."""
    connection = replace(grant(f"pod{number}", "nsm-vpn", number=number), **fields)
    used = replace(POOL.families[0], used=4, free=250)
    return [a_request(f"pod{number}"), connection, replace(POOL, families=(used,))]


def test_a_sound_picture_has_no_conflict():
    assert conflicts(sound()) == []
    more = sound()
    put(more, *another(4))
    assert conflicts(more) == []


def _two_clients(p: Picture) -> None:
    request, connection, _ = another(4)
    put(p, request, with_end(connection, "client", addresses=("172.16.1.2/32",)))


def _client_has_servers(p: Picture) -> None:
    request, connection, _ = another(4)
    put(p, request, with_end(connection, "client", addresses=("172.16.1.1/32",)))


def _pair_repeats(p: Picture) -> None:
    again = with_end(pair("other", "nsm-2", 0), "client", addresses=("172.16.9.3/32",))
    put(p, a_request("other", "nsm-2", network_service="pairs"), again)


def _late_exclusion(p: Picture) -> None:
    used = UsedPrefix(prefix="172.16.1.2/32", used_by="the user")
    put(p, PrefixesInUse(source="user", prefixes=(used,)))
    put(p, ClusterPrefixes(prefixes=("10.244.1.0/24", "172.16.1.2/32", "192.168.7.0/24")))
    told = Collision(prefix="172.16.1.0/24", overlaps="172.16.1.2/32", used_by="the user")
    put(p, replace(POOL, collisions=(told,)))


def _unsaid_collision(p: Picture) -> None:
    _late_exclusion(p)
    put(p, POOL)


def _still_in_a_kernel(p: Picture) -> None:
    put(
        p,
        a_status("gone", client=an_end_status("gone", applied=grant("gone", "nsm-vpn", number=2))),
    )


def _route(*routes: Route) -> Callable[[Picture], None]:
    def doctor(p: Picture) -> None:
        put(p, with_end(app(), "client", routes=routes), an_endpoint(routes=routes))

    return doctor


def _message(*messages: Any) -> Callable[[Picture], None]:
    return lambda p: put(p, *messages)


def _without(shelf: str, **fields: str) -> Callable[[Picture], None]:
    def doctor(p: Picture) -> None:
        found = getattr(p, shelf)
        for key in list(found):
            if all(getattr(key, name) == value for name, value in fields.items()):
                del found[key]

    return doctor


def _pool(**fields: Any) -> Callable[[Picture], None]:
    return _message(replace(POOL, families=(replace(POOL.families[0], **fields),)))


FAR = {"node": "node2", "vni": 7, "mechanism": "vxlan", "pod": a_pod("far", node="node2")}
CASES: dict[str, tuple[Callable[[Picture], None], str]] = {
    "two clients with one address": (_two_clients, "is the client address of"),
    "a client with the endpoint's": (_client_has_servers, "the endpoint's of"),
    "a pair's address twice": (_pair_repeats, "is the endpoint's on"),
    "in use elsewhere": (_late_exclusion, "is in use: 172.16.1.2/32 (the user)"),
    "given away before confirmed": (_still_in_a_kernel, "node1 still has it for default/gone"),
    "outside the prefixes": (
        _message(with_end(app(), "client", addresses=("172.16.2.2/32",))),
        "none that default/vpn may hand out",
    ),
    "in its excludePrefixes": (
        _message(
            an_endpoint(
                ipam=IpamSpec(prefixes=("172.16.1.0/24",), exclude_prefixes=("172.16.1.2/32",))
            )
        ),
        "172.16.1.2/32 is none that default/vpn may hand out",
    ),
    "the broadcast address": (
        _message(with_end(app(), "client", addresses=("172.16.1.255/32",))),
        "none that default/vpn may hand out",
    ),
    "a request without an answer": (_without("refusals", pod="late"), "late/nsm-vpn has no answer"),
    "grant and refusal": (_message(a_refusal("app")), "has both grant and refusal"),
    "a grant nobody asks for": (_without("requests", pod="app"), "granted, and nobody asks"),
    "a refusal nobody asks for": (_message(a_refusal("x")), "refused, and nobody asks"),
    "a grant of an earlier Pod": (
        _message(with_end(app(), "client", pod=a_pod("app", uid="older"))),
        "granted to older",
    ),
    "a refusal of an earlier Pod": (
        _message(a_refusal("late", uid="older")),
        "its refusal of older",
    ),
    "another network service": (_message(app(network_service="own")), "asks for vpn, got own"),
    "another namespace": (
        _message(a_request("app", network_service_namespace="elsewhere")),
        "asks for namespace elsewhere",
    ),
    "an endpoint Pod that is gone": (_without("endpoints", pod="gateway"), "which does not exist"),
    "an endpoint Pod made anew": (
        _message(replace(an_endpoint(), pod=a_pod("gateway", uid="newer"))),
        "which does not exist",
    ),
    "a network service not offered": (
        _message(an_endpoint(network_services=("other",))),
        "does not offer it",
    ),
    "its own Pod": (
        _message(
            an_endpoint(pod="app"),
            with_end(app(), "server", pod=a_pod("app")),
        ),
        "leads to its own Pod",
    ),
    "a namespace that does not allow it": (
        _message(
            app(
                client=replace(app().client, pod=a_pod("app", namespace="guest")),
            ),
            replace(a_request("app"), pod=a_pod("app", namespace="guest")),
            NetworkService(namespace="default", name="vpn", allowed_namespaces=("team-*",)),
        ),
        "default does not allow guest",
    ),
    "labels not asked for": (
        _message(a_request("app", labels={"version": "v2"})),
        "labels that were not asked for",
    ),
    "a rule that leads elsewhere": (
        _message(
            NetworkService(
                namespace="default",
                name="pairs",
                matches=(
                    Match(routes=(Destination(destination_selector={"version": "v2"}),)),
                    Match(routes=(Destination(destination_selector={"version": "v1"}),)),
                ),
            )
        ),
        "labels that were not asked for",
    ),
    "a copy that differs": (
        _message(
            replace(grant("far", "nsm-vpn", number=3, **{**FAR, "node": "node1"}), revision=9)
        ),
        "says other things",
    ),
    "a copy that is missing": (
        _without("connections", node="node1", pod="far"),
        "stands under ['node2']",
    ),
    "a copy left behind": (_message(app(node="node3")), "stands under ['node1', 'node3']"),
    "a body under another key": (
        lambda p: p.connections.__setitem__(ConnectionKey("node1", "default", "app", "x"), app()),
        "holds the body of",
    ),
    "one family at one end": (
        _message(with_end(app(), "server", addresses=("172.16.1.1/32", "2001:db8::1/128"))),
        "families [4] at the client",
    ),
    "a wide address": (
        _message(with_end(app(), "client", addresses=("172.16.1.2/24",))),
        "no single address",
    ),
    "a multicast MAC": (
        _message(with_end(app(), "client", mac="03:00:00:00:00:01")),
        "is no MAC",
    ),
    "one MAC at both ends": (
        _message(with_end(app(), "client", mac="02:00:00:00:02:02")),
        "both ends have MAC",
    ),
    "an interface twice in a Pod": (
        _message(with_end(app(), "server", interface="nse-3")),
        "nse-3 of Pod uid-of-gateway belongs to",
    ),
    "the Pod's own address": (
        _message(replace(a_request("app"), pod=a_pod("app", ips=("172.16.1.2",)))),
        "the Pod's own address",
    ),
    "a route into what is in use": (
        _route(Route(destination="10.244.0.0/16")),
        "overlaps what is in use: 10.244.1.0/24 (Pod CIDR of node node1)",
    ),
    "half a default route": (_route(Route(destination="0.0.0.0/1")), "overlaps what is in use"),
    "a route over the Pod's own address": (
        _message(
            replace(a_request("app"), pod=a_pod("app", ips=("10.9.9.9",))),
            with_end(app(), "client", routes=(Route(destination="10.9.0.0/16"),)),
        ),
        "overlaps 10.9.9.9 of its own Pod",
    ),
    "a route nobody declared": (
        _message(with_end(app(), "client", routes=(Route(destination="10.77.0.0/16"),))),
        "is not declared by vpn",
    ),
    "a next hop out of reach": (
        _route(Route(destination="10.77.0.0/16", next_hop="10.88.0.1")),
        "next hop 10.88.0.1 of 10.77.0.0/16 is out of reach",
    ),
    "a route of two connections": (
        _route(Route(destination="10.20.5.0/24")),
        "overlaps route 10.20.5.0/24",
    ),
    "a route over another's policy": (
        _route(Route(destination="10.30.5.0/24")),
        "policy route 10.30.0.0/16",
    ),
    "a route over another's address": (
        _route(Route(destination="172.16.9.0/24")),
        "172.16.9.0/32 of default/app/nsm-2 overlaps route 172.16.9.0/24",
    ),
    "two default routes": (_route(Route(destination="0.0.0.0/0")), "default routes (IPv4) of"),
    "one peer twice on a client": (
        _message(
            a_request("app", "nsm-3"),
            with_end(
                grant("app", "nsm-3", number=5),
                "server",
                interface="nse-5",
                mac="02:00:00:00:02:05",
            ),
        ),
        "Pod uid-of-app: 172.16.1.1/32 of default/app/nsm-",
    ),
    "one VNI twice": (
        _message(replace(pair("app", "nsm-2", 0), vni=7)),
        "VNI 7 belongs to",
    ),
    "a VNI that a kernel still has": (
        _message(
            a_status("gone", client=an_end_status("gone", applied=a_connection("gone", vni=7)))
        ),
        "VNI 7 belongs to default/far/nsm-vpn and default/gone/nsm-vpn",
    ),
    "a VNI on one node": (_message(app(vni=9)), "VNI 9 on one node"),
    "veth across nodes": (
        _message(grant("far", "nsm-vpn", number=3, **{**FAR, "mechanism": "veth"})),
        "veth, VNI 7 across nodes",
    ),
    "a tunnel end elsewhere": (
        _message(
            NodeFacts(node="node2", underlay_address="192.0.2.9", mtu=1400, mechanisms=("vxlan",))
        ),
        "tunnel end '192.0.2.2' is not that of node2",
    ),
    "a tunnel's MTU": (
        _message(
            NodeFacts(node="node2", underlay_address="192.0.2.2", mtu=1300, mechanisms=("vxlan",))
        ),
        "MTU 1350, 1250 fits",
    ),
    "a veth's MTU": (_message(NodeFacts(node="node1", mtu=9000)), "MTU 1500, its node says 9000"),
    "a pool untold": (_without("pools", endpoint="pairs"), "no pool is told of default/pairs"),
    "figures that do not add up": (_pool(free=250), "3 + 0 + 0 + 250 is not 254"),
    "used that nobody has": (_pool(used=4, free=250), "4 used, the grants have 3"),
    "a free prefix that is granted": (
        _pool(largest_free="172.16.1.2/31"),
        "called free, and granted",
    ),
    "a free prefix of others": (_pool(largest_free="172.16.3.0/25"), "none of its own"),
    "a free prefix too large": (_pool(largest_free="172.16.0.0/16"), "only 251 addresses are"),
    "no free prefix": (_pool(largest_free=""), "no largest free prefix"),
    "a size that the spec does not give": (_pool(size=256, free=253), "its spec gives 254"),
    "excluded called free": (
        _message(
            replace(
                IN_USE,
                prefixes=(*IN_USE.prefixes, UsedPrefix(prefix="172.16.1.9/32", used_by="x")),
            )
        ),
        "251 free, at most 250 are",
    ),
    "silence on a collision": (_unsaid_collision, "silent on 172.16.1.0/24"),
    "a collision that is none": (
        _message(
            replace(
                POOL,
                collisions=(Collision(prefix="172.16.1.0/24", overlaps="10.0.0.0/8", used_by="x"),),
            )
        ),
        "tells a collision that is none",
    ),
    "carved twice": (
        _message(
            an_endpoint("other", "other-1", ipam=IpamSpec()),
            Pool(
                namespace="default",
                endpoint="other",
                families=(figures("100.112.3.0/24", 254, 0),),
                automatic=True,
            ),
        ),
        "overlap, and both were carved",
    ),
    "carved out of what is in use": (
        _message(
            replace(
                IN_USE,
                prefixes=(*IN_USE.prefixes, UsedPrefix(prefix="100.112.3.0/25", used_by="x")),
            )
        ),
        "was carved for default/own out of 100.112.3.0/25 (x)",
    ),
    "carved beside its own": (_message(replace(POOL, automatic=True)), "automatic is True"),
    "cluster prefixes untold": (
        lambda p: p.cluster.clear(),
        "the cluster's prefixes are not told",
    ),
    "cluster prefixes of before": (
        _message(ClusterPrefixes(prefixes=("10.244.1.0/24",))),
        "the cluster's prefixes are told as",
    ),
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
def test_a_doctored_picture_is_seen_through(case):
    doctor, words = CASES[case]
    picture = sound()
    doctor(picture)
    found = conflicts(picture)
    assert any(words in line for line in found), found


def test_what_an_endpoint_names_over_what_was_carved_is_no_conflict():
    picture = sound()
    spec = IpamSpec(prefixes=("100.112.3.0/24",))
    named = Pool(
        namespace="default", endpoint="other", families=(figures("100.112.3.0/24", 254, 0),)
    )
    _message(an_endpoint("other", "other-1", ipam=spec), named)(picture)

    assert conflicts(picture) == []


def test_an_exclusion_that_came_late_is_forgiven_where_it_is_named():
    picture = sound()
    _late_exclusion(picture)
    found = conflicts(picture, late=["172.16.1.2/32"])
    assert not [line for line in found if "in use" in line], found


def test_what_may_never_be_is_seen_in_a_single_version():
    assert double_grants(sound()) == []
    picture = sound()
    _two_clients(picture)
    assert len(double_grants(picture)) == 1


SPANS = st.lists(
    st.builds(
        lambda family, first, length, who: Span(family, first, first + length, "", who),
        st.sampled_from([4, 6]),
        st.integers(0, 60),
        st.integers(0, 12),
        st.sampled_from("abc"),
    ),
    max_size=12,
)


@given(SPANS)
def test_spans_agree_with_sets_of_addresses(spans):
    def addresses(some: list[Span]) -> set[tuple[int, int]]:
        return {(s.family, n) for s in some for n in range(s.first, s.last + 1)}

    assert addresses(merged(spans)) == addresses(spans)
    assert size(spans, 4) == sum(family == 4 for family, _ in addresses(spans))
    half = len(spans) // 2
    left = without(spans[:half], spans[half:])
    assert addresses(left) == addresses(spans[:half]) - addresses(spans[half:])
    naive = {frozenset([a, b]) for a in spans for b in spans if a.who != b.who and a.overlaps(b)}
    assert {frozenset(pair) for pair in clashes(spans)} == naive
    cover = Cover(spans[half:])
    for one in spans[:half]:
        assert (cover.find(one) is None) == (not any(one.overlaps(s) for s in spans[half:]))
