"""Default routes beside the CNI's, and policies: asked of a real kernel, as `ip route get` would."""

import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import msgspec
import pytest

from schemas.grant import Connection
from schemas.intent import Policy
from schemas.intent import Route as GrantedRoute
from services._node import links, netns
from services._node.links import LinkError
from services.plumber import core
from services.plumber.adapters import Kernel
from services.plumber.model import Operation, Wiring
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, V6, a_grant, there, with_client, with_server
from tests.plumber.ways import GATEWAYS, Way, add_eth0, rules_and_routes, way

Pods = Callable[..., Pod]

POD = ("10.244.1.5/24", "fd00:244::5/64")
CLUSTER = ("10.244.0.0/16", "10.96.0.0/16", "192.168.7.1/32", "fd00:96::/108")
EVERYTHING = (GrantedRoute(destination="0.0.0.0/0"), GrantedRoute(destination="::/0"))

# As in the anchor's example: what matches, what is asked, and the answer.
POLICIES = (
    Policy(
        source="172.16.2.201/32",
        protocol="tcp",
        destination_port="6666",
        routes=(GrantedRoute(destination="172.16.3.0/24", next_hop="172.16.2.200"),),
    ),
    Policy(source="172.16.2.201/32", protocol="tcp", source_port="5555"),
    Policy(protocol="udp", destination_port="6666"),
    Policy(protocol="udp", destination_port="6667-6670"),
    Policy(
        source="2004::3/128",
        protocol="udp",
        destination_port="5555",
        routes=(GrantedRoute(destination="2004::/120", next_hop="2004::6"),),
    ),
)
FAMILY = ("172.16.1.101/32", "172.16.1.100/32", "172.16.1.100/32")


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


@pytest.fixture
def client(pods: Pods) -> Pod:
    pod = pods("client")
    add_eth0(pod, *POD)
    return pod


async def wired(
    kernel: Kernel, grant: Connection, client: Pod, server: Pod, cluster: tuple[str, ...] = CLUSTER
) -> Wiring:
    return core.wiring(
        grant,
        await kernel.find_place(client.result),
        await kernel.find_place(server.result),
        cluster=cluster,
    )


async def pursue(kernel: Kernel, wiring: Wiring, before: Wiring | None = None) -> None:
    """Make it so, and see that it is: what the Pod holds is known after the first look only."""
    for _ in range(2):
        for operation in await planned(kernel, wiring, before):
            await kernel.apply(operation)
    assert await planned(kernel, wiring, before) == []


async def planned(kernel: Kernel, wiring: Wiring, before: Wiring | None = None) -> list[Operation]:
    formerly = {before.tag: before} if before else {}
    pair = await kernel.read(wiring)
    return list(core.plan({wiring.tag: wiring}, {wiring.tag: pair}, formerly))


async def end(kernel: Kernel, wiring: Wiring) -> None:
    pair = await kernel.read(wiring)
    for operation in core.plan({}, {wiring.tag: pair}, {}):
        await kernel.apply(operation)
    await kernel.clear(wiring)


def with_defaults(**fields: object) -> Connection:
    return msgspec.structs.replace(with_client(a_grant(V4, V6), routes=EVERYTHING), **fields)


# --- default routes


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ("8.8.8.8", ("nsm0", "172.16.1.1")),
        ("10.96.0.10", ("eth0", GATEWAYS[0])),
        ("10.244.9.9", ("eth0", GATEWAYS[0])),
        ("10.244.1.9", ("eth0", "")),
        ("192.168.7.1", ("eth0", GATEWAYS[0])),
        ("192.168.7.2", ("nsm0", "172.16.1.1")),
        ("172.16.1.1", ("nsm0", "")),
        ("2001:4860::8888", ("nsm0", "2001:db8::1")),
        ("fd00:96::a", ("eth0", GATEWAYS[1])),
        ("fd00:244::9", ("eth0", "")),
        ("2001:db8::1", ("nsm0", "")),
    ],
)
async def test_a_default_route_leads_into_the_connection_and_the_cluster_stays_on_the_cni(
    kernel: Kernel, client: Pod, pods: Pods, destination: str, expected: tuple[str, str]
) -> None:
    await pursue(kernel, await wired(kernel, with_defaults(), client, pods("server")))

    found = way(client, destination)

    assert (found.interface, found.gateway) == expected


@pytest.mark.parametrize(
    ("destination", "source"), [("8.8.8.8", "10.244.1.5"), ("2001:4860::8888", "fd00:244::5")]
)
async def test_replies_to_what_arrived_over_the_cni_leave_over_the_cni(
    kernel: Kernel, client: Pod, pods: Pods, destination: str, source: str
) -> None:
    await pursue(kernel, await wired(kernel, with_defaults(), client, pods("server")))

    found = way(client, destination, source=source)

    assert (found.interface, found.gateway) == ("eth0", GATEWAYS[":" in source])


async def test_nothing_of_the_cnis_routing_is_changed_and_after_removal_all_is_as_before(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    rules, routes = rules_and_routes(client)
    wiring = await wired(kernel, with_defaults(policies=POLICIES), client, pods("server"))

    await pursue(kernel, wiring)
    assert rules <= rules_and_routes(client)[0]
    assert routes <= rules_and_routes(client)[1]
    await end(kernel, wiring)

    assert rules_and_routes(client) == (rules, routes)


async def test_prefixes_of_the_cluster_follow_in_place(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    server = pods("server")
    before = await wired(kernel, with_defaults(), client, server)
    await pursue(kernel, before)
    index, table = client.index("nsm0"), way(client, "8.8.8.8").table
    later = (*CLUSTER[1:], "8.8.0.0/16")
    after = await wired(kernel, with_defaults(), client, server, later)

    await pursue(kernel, after, before)

    assert client.index("nsm0") == index
    assert way(client, "8.8.8.8").interface == "eth0"
    assert way(client, "10.244.9.9") == Way("nsm0", table, "172.16.1.1", "172.16.1.2")


async def test_a_default_route_that_is_withdrawn_leaves_the_cnis(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    rules, _ = rules_and_routes(client)
    server = pods("server")
    before = await wired(kernel, with_defaults(), client, server)
    await pursue(kernel, before)
    after = await wired(kernel, with_client(a_grant(V4, V6)), client, server)

    await pursue(kernel, after, before)

    assert way(client, "8.8.8.8").interface == "eth0"
    assert rules_and_routes(client)[0] == rules


async def test_two_connections_of_a_pod_share_what_keeps_the_cni_until_the_last_goes(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    rules, routes = rules_and_routes(client)
    v4 = with_client(a_grant(V4), routes=EVERYTHING[:1])
    v6 = with_client(a_grant(V6, number=2), routes=EVERYTHING[1:], interface="nsm1")
    second = with_client(
        a_grant(number=3), routes=EVERYTHING[:1], addresses=("172.16.9.2/32",), interface="nsm2"
    )
    second = with_server(second, addresses=("172.16.9.1/32",))
    server = pods("server")
    wirings = [await wired(kernel, grant, client, server) for grant in (v4, v6, second)]
    for wiring in wirings:
        await pursue(kernel, wiring)
    assert way(client, "2001:4860::8888").interface == "nsm1"

    await end(kernel, wirings[0])

    assert way(client, "8.8.8.8").interface == "nsm2"
    assert way(client, "8.8.8.8", source="10.244.1.5").interface == "eth0"
    assert way(client, "2001:4860::8888").interface == "nsm1"
    await end(kernel, wirings[1])
    await end(kernel, wirings[2])
    assert rules_and_routes(client) == (rules, routes)


def own_rules(pod: Pod) -> list[object]:
    with links.Netlink(pod.netns) as inside:
        return [
            r for r in inside.dump(links.rule(links.GETRULE)) if r.get_attr("FRA_PROTOCOL") == 78
        ]


def delete_rule(pod: Pod, found: object) -> None:
    family, priority, table = (
        found["family"],  # type: ignore[index]
        found.get_attr("FRA_PRIORITY"),  # type: ignore[attr-defined]
        found.get_attr("FRA_TABLE"),  # type: ignore[attr-defined]
    )
    with links.Netlink(pod.netns) as inside:
        inside.request([links.rule(links.DELRULE, family=family, priority=priority, table=table)])


def flush(pod: Pod, table: int) -> None:
    with links.Netlink(pod.netns) as inside:
        for family in (socket.AF_INET, socket.AF_INET6):
            with suppress(LinkError):  # no such table
                found = inside.dump(links.route(links.GETROUTE, family=family, table=table))
                for route in found:
                    nothing = "::" if family == socket.AF_INET6 else "0.0.0.0"
                    prefix = f"{route.get_attr('RTA_DST') or nothing}/{route['dst_len']}"
                    request = links.route(
                        links.DELROUTE,
                        destination=prefix,
                        table=table,
                        type_=route["type"],
                        metric=route.get_attr("RTA_PRIORITY") or 0,
                    )
                    inside.request([request])


async def test_every_rule_and_route_that_somebody_deletes_comes_back(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    wiring = await wired(kernel, with_defaults(policies=POLICIES), client, pods("server"))
    await pursue(kernel, wiring)
    whole = rules_and_routes(client)
    for found in own_rules(client):
        delete_rule(client, found)
    assert await planned(kernel, wiring)
    await pursue(kernel, wiring)
    assert rules_and_routes(client)[0] == whole[0]

    for table in range(1, 8):
        flush(client, table)
    assert await planned(kernel, wiring)
    await pursue(kernel, wiring)

    assert [len(each) for each in rules_and_routes(client)] == [len(each) for each in whole]
    assert way(client, "8.8.8.8").interface == "nsm0"
    assert way(client, "10.96.0.10").interface == "eth0"


async def test_what_a_lost_link_left_behind_goes_with_the_next_one(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    wiring = await wired(kernel, with_defaults(policies=POLICIES), client, pods("server"))
    await pursue(kernel, wiring)
    whole = len(own_rules(client))
    client.delete_link("nsm0")  # its routes go with it, its rules stay

    await pursue(kernel, wiring)

    assert len(own_rules(client)) == whole
    assert way(client, "8.8.8.8").interface == "nsm0"
    assert way(client, "172.16.4.1", protocol="udp", destination_port=6666).table == 3


async def test_other_sockets_of_the_pod_live_through_a_default_route(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    wiring = await wired(kernel, with_defaults(), client, pods("server"))
    with client.udp("10.244.1.5") as mine:
        mine.connect(("8.8.8.8", 53))

        await pursue(kernel, wiring)
        mine.send(b"a reply, say")

        assert mine.getsockname()[0] == "10.244.1.5"
    assert counter(client, "eth0", "tx_packets") > 0


async def test_a_stranger_who_came_over_the_cni_is_answered_over_the_cni(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    """Also where the kernel is strict about which way a packet came."""
    outside = f"{client.netns}-cni"
    with links.Netlink(outside) as beyond:
        (peer,) = [each for each in beyond.links() if each.name != "lo"]
        for address in (f"{GATEWAYS[0]}/24", "8.8.8.8/32"):
            add = links.address(
                links.NEWADDR, index=peer.index, address=address, flags=links.CREATE
            )
            beyond.request([add])
    strict = {"ipv4/conf/all/rp_filter": "0", "ipv4/conf/eth0/rp_filter": "1"}
    netns.write_sysctls(client.netns, strict)
    await pursue(kernel, await wired(kernel, with_defaults(), client, pods("server")))

    with (
        netns.open_socket(client.netns, socket.AF_INET, socket.SOCK_STREAM) as listening,
        netns.open_socket(outside, socket.AF_INET, socket.SOCK_STREAM) as stranger,
    ):
        listening.bind(("0.0.0.0", 8080))
        listening.listen()
        stranger.settimeout(5)
        stranger.bind(("8.8.8.8", 0))
        stranger.connect(("10.244.1.5", 8080))


def counter(pod: Pod, interface: str, name: str) -> int:
    with links.Netlink(pod.netns) as inside:
        link = there(inside.find_link(interface))
    return int(link.get_attr("IFLA_STATS64")[name])


# --- policies


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (
            {
                "destination": "172.16.3.1",
                "source": "172.16.2.201",
                "protocol": "tcp",
                "destination_port": 6666,
            },
            Way("nsm0", 1, "172.16.2.200"),
        ),
        (
            {
                "destination": "172.16.3.1",
                "source": "172.16.2.201",
                "protocol": "tcp",
                "source_port": 5555,
            },
            Way("nsm0", 2),
        ),
        (
            {"destination": "172.16.4.1", "protocol": "udp", "destination_port": 6666},
            Way("nsm0", 3, source="172.16.1.101"),
        ),
        (
            {"destination": "172.16.4.1", "protocol": "udp", "destination_port": 6668},
            Way("nsm0", 4, source="172.16.1.101"),
        ),
        (
            {
                "destination": "2004::5",
                "source": "2004::3",
                "protocol": "udp",
                "destination_port": 5555,
            },
            Way("nsm0", 5, "2004::6", "2004::3"),
        ),
        (
            {"destination": "172.16.4.1", "protocol": "udp", "destination_port": 6671},
            Way("eth0", 254, GATEWAYS[0], "10.244.1.5"),
        ),
    ],
    ids=["tcp to 6666", "tcp from 5555", "udp to 6666", "a range", "v6", "none of them"],
)
async def test_policies_answer_as_in_the_example(
    kernel: Kernel, client: Pod, pods: Pods, question: dict[str, object], answer: Way
) -> None:
    grant = a_grant(FAMILY, policies=POLICIES)
    await pursue(kernel, await wired(kernel, grant, client, pods("server")))

    found = way(client, **question)  # type: ignore[arg-type]

    assert found._replace(source=found.source if answer.source else "") == answer


@pytest.mark.parametrize(("family", "table"), [(socket.AF_INET, 3), (socket.AF_INET6, 5)])
async def test_routes_of_policies_show_no_protocol_where_people_compare_answers(
    kernel: Kernel, client: Pod, pods: Pods, family: int, table: int
) -> None:
    grant = a_grant(FAMILY, policies=POLICIES)
    await pursue(kernel, await wired(kernel, grant, client, pods("server")))

    with links.Netlink(client.netns) as inside:
        (route,) = inside.dump(links.route(links.GETROUTE, family=family, table=table))

    assert route["proto"] == 3  # what `ip route` shows as nothing


async def test_a_policys_packets_reach_an_endpoint_that_forwards_them(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    server = pods("server")
    netns.write_sysctls(server.netns, {"ipv4/ip_forward": "1"})
    with links.Netlink(server.netns) as inside:
        add = links.address(links.NEWADDR, index=1, address="172.16.4.1/32", flags=links.CREATE)
        inside.request([add])
    grant = a_grant(FAMILY, policies=POLICIES)
    wiring = await wired(kernel, grant, client, server)
    await pursue(kernel, wiring)
    add_eth0(server, "10.244.1.6/24")

    with client.udp() as here, server.udp("172.16.4.1", 6666) as listening:
        here.sendto(b"hello", ("172.16.4.1", 6666))
        assert listening.recvfrom(100)[1][0] == "172.16.1.101"
        # what it only passes on has no address of its own there: the endpoint answers for it all the same
        here.sendto(b"onward", ("172.16.77.1", 6667))

    assert there((await kernel.read(wiring)).server).answers_for_all
    assert arp_state(client, "172.16.77.1") not in {0, 0x20}  # none, failed


def arp_state(pod: Pod, address: str) -> int:
    with links.Netlink(pod.netns) as inside:
        index = pod.index("nsm0")
        for _ in range(200):
            for each in inside.dump(links.neighbour(links.GETNEIGH, index=index)):
                if each.get_attr("NDA_DST") == address and each["state"] != 1:  # incomplete
                    return int(each["state"])
            time.sleep(0.005)
    return 0


@pytest.mark.parametrize(
    "later",
    [
        POLICIES[:2],
        POLICIES[1:],
        (),
        (
            msgspec.structs.replace(
                POLICIES[0], routes=(GrantedRoute(destination="172.16.9.0/24"),)
            ),
            *POLICIES[1:],
        ),
        (*POLICIES, Policy(protocol="sctp")),
    ],
    ids=["fewer", "another first", "none", "other routes", "more"],
)
async def test_policies_are_updated_and_withdrawn_in_place_and_cleanly(
    kernel: Kernel, client: Pod, pods: Pods, later: tuple[Policy, ...]
) -> None:
    server = pods("server")
    before = await wired(kernel, a_grant(FAMILY, policies=POLICIES), client, server)
    after_grant = a_grant(FAMILY, policies=later, revision=2)
    after = await wired(kernel, after_grant, client, server)
    await pursue(kernel, after)
    fresh = len(rules_and_routes(client)[0]), len(rules_and_routes(client)[1])
    await end(kernel, after)
    await pursue(kernel, before)
    index = client.index("nsm0")

    await pursue(kernel, after, before)

    assert client.index("nsm0") == index
    assert (len(rules_and_routes(client)[0]), len(rules_and_routes(client)[1])) == fresh


async def test_the_first_policy_that_matches_decides(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    policies = (
        Policy(protocol="udp", destination_port="6666"),
        Policy(protocol="udp", routes=(GrantedRoute(destination="172.16.4.0/24"),)),
    )
    grant = a_grant(FAMILY, policies=policies)
    await pursue(kernel, await wired(kernel, grant, client, pods("server")))

    assert way(client, "172.16.4.1", protocol="udp", destination_port=6666).table == 1
    assert way(client, "172.16.4.1", protocol="udp", destination_port=7).table == 2


async def test_what_the_pod_routes_through_our_link_by_itself_stays(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    wiring = await wired(kernel, a_grant(FAMILY, policies=POLICIES), client, pods("server"))
    await pursue(kernel, wiring)
    index = client.index("nsm0")
    with links.Netlink(client.netns) as inside:
        for table in (3, 50):
            route = links.route(
                links.NEWROUTE,
                index=index,
                destination="192.0.2.0/24",
                protocol=3,
                table=table,
                flags=links.CREATE,
            )
            inside.request([route])

    assert await planned(kernel, wiring, wiring) == []


async def test_tables_that_others_use_are_not_taken(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    with links.Netlink(client.netns) as inside:
        eth0 = client.index("eth0")
        add = links.rule(
            links.NEWRULE, family=socket.AF_INET, priority=5, table=1, flags=links.CREATE
        )
        route = links.route(
            links.NEWROUTE, index=eth0, destination="fd00:9::/64", table=2, flags=links.CREATE
        )
        inside.request([add, route])
    before = rules_and_routes(client)
    wiring = await wired(kernel, a_grant(FAMILY, policies=POLICIES[2:4]), client, pods("server"))

    await pursue(kernel, wiring)

    assert way(client, "172.16.4.1", protocol="udp", destination_port=6666).table == 3
    assert way(client, "172.16.4.1", protocol="udp", destination_port=6667).table == 4
    await end(kernel, wiring)
    assert rules_and_routes(client) == before


async def test_both_families_of_one_policy_have_one_number(
    kernel: Kernel, client: Pod, pods: Pods
) -> None:
    grant = a_grant(V4, V6, policies=(Policy(protocol="udp"), Policy(protocol="tcp")))
    await pursue(kernel, await wired(kernel, grant, client, pods("server")))

    assert way(client, "172.16.4.1", protocol="tcp").table == 2
    assert way(client, "2004::1", protocol="tcp") == Way("nsm0", 2, "2001:db8::1", "2001:db8::2")
