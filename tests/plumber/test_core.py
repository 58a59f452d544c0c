from ipaddress import ip_interface

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.grant import Connection
from schemas.intent import Policy
from schemas.intent import Route as GrantedRoute
from services.plumber import core
from services.plumber.model import (
    Adjust,
    Blocked,
    Create,
    Neighbour,
    Pair,
    Place,
    Remove,
    Route,
    Rule,
    Waiting,
    Wiring,
    parse_alias,
    render_alias,
)
from tests.plumber.fakes import FakeKernel
from tests.plumber.grants import NODE, V4, V6, a_grant, a_pod, there, with_client, with_server

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])


def a_place(uid: str, cookie: int = 1) -> Place:
    return Place(uid=uid, netns=f"/run/netns/{uid}", cookie=cookie)


def wired(grant: Connection, cookie: int = 1) -> Wiring:
    client, server = (
        a_place(end.pod.uid, cookie) if end.is_on(NODE) else None
        for end in (grant.client, grant.server)
    )
    return core.wiring(grant, client, server)


def across_nodes(grant: Connection, *, vni: int = 77, local: str = "client") -> Connection:
    """The same with its other end on another node."""
    ends = {}
    for side in ("client", "server"):
        end = getattr(grant, side)
        node, underlay = (NODE, "172.18.0.11") if side == local else ("node2", "172.18.0.12")
        pod = msgspec.structs.replace(end.pod, node=node)
        ends[side] = msgspec.structs.replace(end, pod=pod, underlay=underlay)
    return msgspec.structs.replace(grant, mechanism="vxlan", vni=vni, **ends)


def applied(*wirings: Wiring) -> FakeKernel:
    kernel = FakeKernel()
    for wiring in wirings:
        kernel.apply(Create(wiring=wiring))
    return kernel


def judged(grant: Connection, *present: str, ended: tuple[str, ...] = ()) -> Wiring | Waiting:
    places = {uid: a_place(uid) for uid in present}
    return core.judge(grant, node=NODE, places=places, ended=ended)


# --- from a grant to a wiring


@FAMILIES
def test_each_end_reaches_the_other_by_a_host_route_from_its_own_address(family) -> None:
    wiring = wired(a_grant(family))
    own, peer = (str(ip_interface(a).ip) for a in family[:2])

    assert there(wiring.client).addresses == {family[0]}
    assert Route(destination=family[1], source=own) in there(wiring.client).routes
    assert there(wiring.server).routes == {Route(destination=family[0], source=peer)}


@FAMILIES
def test_granted_routes_go_through_the_peer(family) -> None:
    wiring = wired(a_grant(family))
    own, peer = (str(ip_interface(a).ip) for a in family[:2])

    assert Route(destination=family[2], gateway=peer, source=own) in there(wiring.client).routes


@FAMILIES
def test_a_next_hop_is_reached_through_the_peers_mac(family) -> None:
    hop = "192.0.2.7" if family is V4 else "2001:db8:7::7"
    grant = a_grant(family)
    grant = with_client(grant, routes=(GrantedRoute(destination=family[2], next_hop=hop),))

    wiring = wired(grant)

    assert hop in {route.gateway for route in there(wiring.client).routes}
    assert Neighbour(address=hop, mac=grant.server.mac) in there(wiring.client).neighbours


def test_both_families_stand_side_by_side() -> None:
    wiring = wired(a_grant(V4, V6))

    assert there(wiring.client).addresses == {V4[0], V6[0]}
    assert len(there(wiring.client).routes) == 4


@FAMILIES
def test_ethernet_resolves_its_neighbours_itself(family) -> None:
    assert there(wired(a_grant(family)).client).neighbours
    assert not there(wired(a_grant(family, payload="ETHERNET")).client).neighbours


# --- judgement


def test_both_ends_here_and_present_is_wired() -> None:
    assert isinstance(judged(a_grant(), "uid-client", "uid-server"), Wiring)


@pytest.mark.parametrize(
    ("mechanism", "node"),
    [("veth", "node2"), ("wireguard", "node2"), ("vxlan", NODE), ("wireguard", NODE)],
)
def test_a_mechanism_that_does_not_fit_is_refused_with_its_reason(
    mechanism: str, node: str
) -> None:
    grant = with_server(a_grant(mechanism=mechanism), pod=a_pod("server", node=node))

    verdict = judged(grant, "uid-client", "uid-server")

    assert isinstance(verdict, Waiting)
    assert verdict.client is not None
    assert (verdict.client.state, verdict.client.reason) == ("failed", "RemoteNotSupported")
    assert node in verdict.client.message


@pytest.mark.parametrize(
    ("present", "ended", "client", "server"),
    [
        ((), (), "PodNetworkNotFound", "PodNetworkNotFound"),
        (("uid-client",), (), "PeerNotReady", "PodNetworkNotFound"),
        (("uid-server",), (), "PodNetworkNotFound", "PeerNotReady"),
        (("uid-client",), ("uid-server",), "EndpointPodGone", "PodNetworkNotFound"),
    ],
    ids=["none", "client only", "server only", "server gone"],
)
def test_what_is_missing_is_waited_for_and_named(present, ended, client, server) -> None:
    verdict = judged(a_grant(), *present, ended=ended)

    assert isinstance(verdict, Waiting)
    assert verdict.client is not None
    assert verdict.server is not None
    assert (verdict.client.reason, verdict.server.reason) == (client, server)
    assert {verdict.client.state, verdict.server.state} == {"pending"}


def test_an_unusable_grant_fails_with_what_is_wrong() -> None:
    grant = with_client(a_grant(), addresses=("172.16.1/32",))

    verdict = judged(grant, "uid-client", "uid-server")

    assert isinstance(verdict, Waiting)
    assert verdict.client is not None
    assert verdict.client.reason == "BadGrant"
    assert "172.16.1/32" in verdict.client.message


# --- across nodes


@pytest.mark.parametrize("local", ["client", "server"])
def test_each_node_wires_its_own_end_only_and_waits_for_no_other(local: str) -> None:
    grant = across_nodes(a_grant(), local=local)

    wiring = judged(grant, f"uid-{local}")

    assert isinstance(wiring, Wiring)
    assert [end.place.uid for end in wiring.ends] == [f"uid-{local}"]
    assert wiring.tunnel is not None
    assert (wiring.tunnel.vni, wiring.tunnel.local, wiring.tunnel.remote) == (
        77,
        "172.18.0.11",
        "172.18.0.12",
    )
    assert getattr(wiring, local) == getattr(wired(a_grant()), local)


@pytest.mark.parametrize(
    "change",
    [
        lambda g: msgspec.structs.replace(g, vni=0),
        lambda g: msgspec.structs.replace(g, vni=1 << 24),
        lambda g: with_client(g, underlay=""),
        lambda g: with_server(g, underlay="node2"),
        lambda g: with_server(g, underlay="fd00::1"),
    ],
    ids=["no vni", "vni too large", "no underlay", "no address", "families differ"],
)
def test_a_tunnel_that_leads_nowhere_is_a_bad_grant(change) -> None:
    verdict = judged(change(across_nodes(a_grant())), "uid-client")

    assert isinstance(verdict, Waiting)
    assert verdict.client is not None
    assert verdict.client.reason == "BadGrant"


def test_the_missing_pod_of_this_node_is_what_a_tunnel_waits_for() -> None:
    verdict = judged(across_nodes(a_grant(), local="server"))

    assert isinstance(verdict, Waiting)
    assert verdict.server is not None
    assert verdict.server.reason == "PodNetworkNotFound"


def test_another_vni_is_another_link() -> None:
    before, after = (wired(across_nodes(a_grant(), vni=vni)) for vni in (1, 2))

    operations = core.plan({after.tag: after}, applied(before).pairs, {before.tag: before})

    assert [type(each) for each in operations] == [Remove, Create]
    assert not core.same_links(before, after)


# --- tables

EVERYTHING = (GrantedRoute(destination="0.0.0.0/0"),)


def test_a_default_route_waits_until_the_clusters_prefixes_are_known() -> None:
    grant = with_client(a_grant(), routes=EVERYTHING)
    places = {uid: a_place(uid) for uid in ("uid-client", "uid-server")}

    def verdict(cluster: tuple[str, ...] | None) -> Wiring | Waiting:
        return core.judge(grant, node=NODE, places=places, ended=(), cluster=cluster)

    waiting = verdict(None)
    assert isinstance(waiting, Waiting)
    assert waiting.client is not None
    assert (waiting.client.state, waiting.client.reason) == ("pending", core.CLUSTER_UNKNOWN)
    assert isinstance(verdict(()), Wiring)


def test_the_endpoints_end_of_a_tunnel_needs_no_prefixes_of_the_cluster() -> None:
    grant = across_nodes(with_client(a_grant(), routes=EVERYTHING), local="server")

    assert isinstance(judged(grant, "uid-server"), Wiring)


def test_a_default_route_is_no_route_of_the_main_table() -> None:
    grant = with_client(a_grant(), routes=EVERYTHING)

    end = there(core.wiring(grant, a_place("c"), a_place("s"), cluster=["10.96.0.0/16"]).client)

    assert {route.destination for route in end.routes} == {V4[1]}
    (lookup,) = end.lookups
    assert lookup.routes == {
        Route(destination="0.0.0.0/0", gateway="172.16.1.1", source="172.16.1.2"),
        Route(destination="10.96.0.0/16", yields=True),
    }


def test_a_policy_about_one_address_gives_it_to_the_client() -> None:
    grant = a_grant(policies=(Policy(source="172.16.5.5/32"), Policy(source="172.16.6.0/24")))

    wiring = wired(grant)

    assert there(wiring.client).addresses == {V4[0], "172.16.5.5/32"}
    assert "172.16.5.5/32" not in {route.destination for route in there(wiring.server).routes}


def test_rules_of_a_policy_that_moved_up_are_made_anew_and_its_table_too() -> None:
    policies = (Policy(protocol="tcp"), Policy(protocol="udp"))
    kernel = applied(before := wired(a_grant(policies=policies)))
    for operation in core.plan({before.tag: before}, kernel.pairs, {}):
        kernel.apply(operation)
    after = wired(a_grant(policies=policies[1:], revision=2))

    (change, _) = core.plan({after.tag: after}, kernel.pairs, {before.tag: before})

    assert isinstance(change, Adjust)
    assert [each.rule.protocol for each in change.add_lookups] == ["udp"]
    assert len(change.drop_lookups) == 2


# --- ownership


def test_the_alias_tells_whose_and_which_side() -> None:
    tag = core.tag(a_grant().key)

    assert len(tag) == 16
    assert parse_alias(render_alias(tag, 7, is_server=False)) == (tag, 7, False)
    assert parse_alias(render_alias(tag, 7, is_server=True)) == (tag, 7, True)


@pytest.mark.parametrize("text", [None, "", "eth0", "nsm", "nsm:short:1", "nsm:0123456789abcdef:x"])
def test_a_foreign_alias_is_nobodys(text) -> None:
    assert parse_alias(text) is None


# --- the plan


@FAMILIES
def test_what_stands_as_it_shall_is_left_alone(family) -> None:
    wiring = wired(a_grant(family))
    kernel = applied(wiring)

    assert core.plan({wiring.tag: wiring}, kernel.pairs, {}) == []


@FAMILIES
def test_a_new_address_is_set_in_place(family) -> None:
    other = "172.16.1.9/32" if family is V4 else "2001:db8::9/128"
    before = wired(a_grant(family))
    after = wired(with_client(a_grant(family), addresses=(other,)))
    kernel = applied(before)

    operations = core.plan({after.tag: after}, kernel.pairs, {before.tag: before})

    assert [type(each) for each in operations] == [Adjust, Adjust]
    change = operations[0]
    assert isinstance(change, Adjust)
    assert change.add_addresses == (other,)
    assert change.drop_addresses == (family[0],)
    assert not change.add_routes
    assert len(change.change_routes) == 2  # the same destinations, from the new address


def test_a_foreign_address_on_our_link_stays() -> None:
    wiring = wired(a_grant())
    kernel = applied(wiring)
    pair = kernel.pairs[wiring.tag]
    assert pair.client is not None
    foreign = msgspec.structs.replace(
        pair.client, addresses=pair.client.addresses | {"192.0.2.1/24"}
    )
    kernel.pairs[wiring.tag] = msgspec.structs.replace(pair, client=foreign)

    assert core.plan({wiring.tag: wiring}, kernel.pairs, {wiring.tag: wiring}) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda g: with_client(g, interface="other0"),
        lambda g: with_client(g, mac="02:00:00:00:09:09"),
        lambda g: with_server(g, interface="nse-9"),
        lambda g: with_server(g, pod=a_pod("another")),
    ],
    ids=["client's name", "client's mac", "server's name", "another server"],
)
def test_another_link_is_removed_before_the_new_one_is_made(change) -> None:
    before, after = wired(a_grant()), wired(change(a_grant()))
    kernel = applied(before)

    operations = core.plan({after.tag: after}, kernel.pairs, {before.tag: before})

    assert [type(each) for each in operations] == [Remove, Create]
    assert not core.same_links(before, after)


def test_half_a_connection_is_made_anew() -> None:
    wiring = wired(a_grant())
    kernel = applied(wiring)
    half = msgspec.structs.replace(kernel.pairs[wiring.tag], client=None)

    operations = core.plan({wiring.tag: wiring}, {wiring.tag: half}, {})

    assert [type(each) for each in operations] == [Remove, Create]


def test_nothing_that_stands_is_removed_as_long_as_it_is_desired() -> None:
    wiring = wired(a_grant())

    assert core.plan({}, {wiring.tag: Pair()}, {}) == []
    assert isinstance(core.plan({wiring.tag: wiring}, {}, {})[0], Create)


POOL = st.sampled_from([f"172.16.1.{n}/32" for n in range(1, 6)])
ROUTES = st.sets(st.sampled_from(["0.0.0.0/0", *(f"10.{n}.0.0/16" for n in range(4))]), max_size=3)
POLICIES = [
    Policy(protocol="udp"),
    Policy(protocol="tcp", destination_port="80"),
    Policy(protocol="udp", routes=(GrantedRoute(destination="10.9.0.0/16"),)),
    Policy(source="172.16.5.5/32"),
]


@st.composite
def wirings(draw) -> dict[str, Wiring]:
    found = {}
    for number in draw(st.sets(st.integers(1, 3))):
        grant = a_grant(client=f"c{number}", number=number)
        grant = with_client(
            grant,
            addresses=(draw(POOL),),
            interface=draw(st.sampled_from(["nsm0"])),
            routes=tuple(GrantedRoute(destination=r) for r in sorted(draw(ROUTES))),
        )
        grant = with_server(
            grant, pod=a_pod(draw(st.sampled_from(["s1", "s2"]))), addresses=("172.16.1.200/32",)
        )
        grant = msgspec.structs.replace(
            grant,
            mtu=draw(st.sampled_from([1400, 1500])),
            revision=draw(st.integers(1, 3)),
            policies=tuple(draw(st.lists(st.sampled_from(POLICIES), max_size=3))),
        )
        if draw(st.booleans()):
            grant = across_nodes(grant, vni=draw(st.integers(1, 2)))
        wiring = wired(grant, draw(st.sampled_from([1, 2])))
        found[wiring.tag] = wiring
    return found


@settings(max_examples=200, deadline=None)
@given(wirings(), wirings(), st.integers(0, 20))
def test_any_plan_leads_there_also_when_it_was_cut_short(before, after, cut: int) -> None:
    kernel = applied(*before.values())

    for operation in core.plan(after, kernel.pairs, before)[:cut]:
        kernel.apply(operation)
    for _ in range(2):  # tables come after their link
        for operation in core.plan(after, kernel.pairs, before):
            kernel.apply(operation)

    assert core.plan(after, kernel.pairs, before) == []
    assert kernel.pairs.keys() == after.keys()
    for tag, wiring in after.items():
        client = kernel.pairs[tag].client
        assert client is not None
        assert (client.place, client.addresses, client.routes, client.mtu) == (
            there(wiring.client).place,
            there(wiring.client).addresses,
            there(wiring.client).routes,
            wiring.mtu,
        )


@settings(max_examples=100, deadline=None)
@given(wirings(), wirings())
def test_removals_come_first(before, after) -> None:
    kinds = [type(each) for each in core.plan(after, applied(*before.values()).pairs, before)]

    assert kinds == sorted(kinds, key=[Remove, Adjust, Create].index)


# --- words


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(family=4, priority=20002, table=2), "20002 of IPv4: lookup 2"),
        (Rule(family=4, priority=10000), "10000 of IPv4: everything"),
        (
            Rule(family=6, priority=20001, table=254, no_default=True),
            "20001 of IPv6: lookup 254 without its default route",
        ),
        (
            Rule(family=4, priority=10000, source="10.0.0.1/32", protocol="tcp", source_port="7-9"),
            "10000 of IPv4: from 10.0.0.1/32 ipproto tcp sport 7-9",
        ),
    ],
)
def test_a_rule_is_told_in_words(rule: Rule, words: str) -> None:
    assert core.wording.rule(rule) == words


def test_a_table_is_told_by_its_first_routes() -> None:
    staying = {Route(destination=f"10.{n}.0.0/16", yields=True) for n in range(4)}
    found = staying | {Route(destination="0.0.0.0/0", gateway="172.16.1.1")}

    assert core.wording.routes(found) == (
        "0.0.0.0/0 via 172.16.1.1, 10.0.0.0/16 left to the next rule, "
        "10.1.0.0/16 left to the next rule, 2 more"
    )


# --- status


def test_ready_says_what_the_kernel_has() -> None:
    grant = a_grant()
    wiring = wired(grant)
    pair = applied(wiring).pairs[wiring.tag]

    status = core.status(grant, node=NODE, pair=pair, waiting=Waiting(), applied=grant)

    assert status.key.subject == "nsm.status.node1.default.client.nsm0"
    assert status.client is not None
    assert (status.client.state, status.client.reason) == ("ready", "")
    assert (status.client.uid, status.client.ifindex) == ("uid-client", 100)
    assert status.client.addresses == (V4[0],)
    assert status.client.applied == grant
    assert status.server is not None
    assert status.server.interface == "nse-1"


def test_a_section_is_only_for_ends_of_this_node() -> None:
    grant = with_server(a_grant(), pod=a_pod("server", node="node2"))
    blocked = Blocked(state="failed", reason="RemoteNotSupported", message="no")

    status = core.status(
        grant, node=NODE, pair=Pair(), waiting=Waiting(client=blocked, server=blocked)
    )

    assert status.server is None
    assert status.client is not None
    assert (status.client.state, status.client.reason) == ("failed", "RemoteNotSupported")
    assert status.client.applied is None


def test_where_nobody_could_look_what_was_applied_counts_as_standing() -> None:
    blocked = Blocked(state="failed", reason="KernelError", message="no answer")
    newer = with_client(a_grant())
    status = core.status(
        newer, node=NODE, pair=Pair(), waiting=Waiting(client=blocked, server=blocked)
    )

    told = core.unseen(status, a_grant())

    assert told.client is not None
    assert told.server is not None
    assert (told.client.applied, told.server.applied) == (a_grant(), a_grant())
    assert (told.revision, told.client.state) == (newer.revision, "failed")
