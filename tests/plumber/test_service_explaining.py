"""What a person on the node is told of one Pod: desired, actual, the difference, the last error."""

import asyncio

import msgspec
import pytest

from schemas.intent import Policy
from services._node import links
from services.plumber.service import Plumber
from services.plumber.service.explaining import Answer, Explained
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, a_grant
from tests.plumber.test_adapters_lookups import flush
from tests.plumber.test_service_routes import put
from tests.plumber.world import World

Pair = tuple[Pod, Pod]
NEVER = 3600.0


async def only(plumber: Plumber, pod: str = "default/client") -> Explained:
    answer = await plumber.explain({"pod": pod})
    [each] = answer.connections
    return each


async def test_a_connection_as_granted_has_no_difference(world: World, pair: Pair) -> None:
    client, _ = pair
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await world.grant(a_grant())
        await world.client_is("ready")
        answer = await plumber.explain({"pod": "default/client"})
        as_endpoint = await only(plumber, "default/server")

    [each] = answer.connections
    assert (answer.node, answer.pod) == ("node1", "default/client")
    assert client.netns in answer.networks["uid-client"]
    assert (each.role, each.state, each.network_service) == ("client", "ready", "default/vpn")
    assert each.actual is not None
    assert each.actual.client is not None
    assert V4[0] in each.actual.client.addresses
    assert each.differences == ()
    assert each.last_error == ""
    assert as_endpoint.role == "endpoint"
    assert as_endpoint.desired == each.desired
    assert msgspec.json.decode(msgspec.json.encode(answer), type=dict)["pod"] == "default/client"


async def test_what_is_wrong_is_shown_as_the_way_to_right_it(
    world: World, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = pair
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await world.grant(a_grant())
        await world.client_is("ready")
        monkeypatch.setattr(plumber._connections.standing, "contradicted", lambda _changes: set())
        client.set_down("nsm0")

        each = await only(plumber)

    assert "nsm0: to be set up" in each.differences
    assert each.actual is not None
    assert each.actual.client is not None
    assert not each.actual.client.up


async def test_differences_are_told_in_words(
    world: World, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = pair
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await world.grant(a_grant(policies=(Policy(protocol="udp", destination_port="53"),)))
        await world.client_is("ready")
        monkeypatch.setattr(plumber._connections.standing, "contradicted", lambda _changes: set())
        flush(client, 1)
        put(client, V4[1], "nsm0")
        delete_neighbour(client, "nsm0", V4[1].partition("/")[0])

        each = await only(plumber)

    assert each.differences == (
        "nsm0: in the way: route 172.16.1.1/32 dev nsm0",
        "nsm0: to take the place of another: route 172.16.1.1/32 src 172.16.1.2",
        "nsm0: to be set: neighbour 172.16.1.1 at 02:00:00:00:02:01",
        "nsm0: to be added: rule 10000 of IPv4: ipproto udp dport 53 (0.0.0.0/0 src 172.16.1.2)",
    )


def delete_neighbour(pod: Pod, interface: str, address: str) -> None:
    index = pod.index(interface)
    with links.Netlink(pod.netns) as netlink:
        netlink.request([links.neighbour(links.DELNEIGH, index=index, address=address)])


async def test_a_repair_is_shown(world: World, pair: Pair) -> None:
    client, _ = pair
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await world.grant(a_grant())
        await world.client_is("ready")
        client.delete_link("nsm0")
        async with asyncio.timeout(30):
            while not (each := await only(plumber)).repaired:
                await asyncio.sleep(0.01)

    assert "nsm0: it was deleted" in each.repaired


async def test_what_keeps_a_connection_from_being_made_is_shown(world: World, pair: Pair) -> None:
    client, _ = pair
    client.add_link("nsm0")
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await world.grant(a_grant())
        await world.client_is("failed", "InterfaceNameTaken")

        each = await only(plumber)

    assert (each.state, each.reason) == ("failed", "InterfaceNameTaken")
    assert "'nsm0' already that is not ours" in each.last_error
    assert "tried again in" in each.last_error
    assert any(difference.startswith("to be made: nsm0") for difference in each.differences)


async def test_a_network_that_was_not_found_is_explained(world: World) -> None:
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await world.grant(a_grant())
        await world.client_is("pending", "PodNetworkNotFound")

        answer: Answer = await plumber.explain({"pod": "default/client"})

    assert answer.networks["uid-client"].startswith("not found: no CNI result")
    assert answer.connections[0].reason == "PodNetworkNotFound"
    assert answer.connections[0].actual is None


@pytest.mark.parametrize("question", [{}, {"pod": "client"}, {"pod": "default/stranger"}])
async def test_a_question_without_an_answer_says_why(
    world: World, question: dict[str, str]
) -> None:
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        with pytest.raises(LookupError, match=r"NAMESPACE/NAME|has no connection on node node1"):
            await plumber.explain(question)
