"""A route that somebody put where ours was gives way to ours again; one that was there first is named and left."""

from collections.abc import Callable

import msgspec
import pytest

from schemas.intent import Route
from schemas.state import Status
from services._node import links
from services._node.encoding import Request
from services._node.links import Netlink
from services._node.nft import nested, raw
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, V6, a_grant, with_client
from tests.plumber.test_adapters import answers
from tests.plumber.ways import way
from tests.plumber.world import World

Pair = tuple[Pod, Pod]
_BOOT = 3
_METRICS, _MTU = 8, 2


def put(
    pod: Pod, destination: str, interface: str, *, flags: int = links.REPLACE, mtu: int = 0
) -> None:
    """`ip route replace DESTINATION dev INTERFACE`"""
    request = links.route(
        links.NEWROUTE,
        index=pod.index(interface),
        destination=destination,
        protocol=_BOOT,
        flags=flags,
    )
    if mtu:
        metrics = nested(_METRICS, raw(_MTU, mtu.to_bytes(4, "little")))
        request = Request(request.kind, request.body + metrics, request.flags)
    with Netlink(pod.netns) as netlink:
        netlink.request([request])


def blackhole(pod: Pod, destination: str, _interface: str) -> None:
    request = links.route(
        links.NEWROUTE, destination=destination, protocol=_BOOT, type_=6, flags=links.REPLACE
    )
    with Netlink(pod.netns) as netlink:
        netlink.request([request])


def remove(pod: Pod, destination: str, interface: str) -> None:
    request = links.route(
        links.DELROUTE, index=pod.index(interface), destination=destination, protocol=_BOOT
    )
    with Netlink(pod.netns) as netlink:
        netlink.request([request])


def with_other_link(pod: Pod) -> None:
    pod.add_link("theirs")
    with Netlink(pod.netns) as netlink:
        netlink.request([links.link(links.NEWLINK, index=pod.index("theirs"), up=True)])


def on_ours(pod: Pod, destination: str, interface: str) -> None:
    put(pod, destination, interface, mtu=1300)


def elsewhere(pod: Pod, destination: str, _interface: str) -> None:
    put(pod, destination, "theirs")


def repaired(status: Status | None, side: str = "client") -> str:
    end = getattr(status, side) if status else None
    return end.repaired if end else ""


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("replace", [on_ours, elsewhere, blackhole])
async def test_what_took_the_place_of_our_route_gives_it_back(
    world: World,
    pair: Pair,
    family: tuple[str, str, str],
    side: str,
    replace: Callable[[Pod, str, str], None],
) -> None:
    client, server = pair
    pod, interface, peer = (
        (client, "nsm0", family[1]) if side == "client" else (server, "nse-1", family[0])
    )
    with_other_link(pod)
    async with world.plumber():
        await world.grant(a_grant(family))
        await world.client_is("ready")

        replace(pod, peer, interface)
        await world.until(lambda: repaired(world.status(), side))
        status = await world.client_is("ready")

        assert f"its route {peer} was another" in repaired(status, side)
        assert way(pod, peer.partition("/")[0]).interface == interface
        assert answers(client, server, family[:2])


async def test_what_took_the_place_gives_way_to_a_plumber_that_started_later(
    world: World, pair: Pair
) -> None:
    client, server = pair
    with_other_link(client)
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
    put(client, V4[1], "theirs")

    async with world.plumber():
        await world.until(lambda: way(client, "172.16.1.1").interface == "nsm0")
    assert answers(client, server, V4[:2])


async def test_a_route_that_was_there_first_is_named_and_left_until_it_goes(
    world: World, pair: Pair
) -> None:
    client, _ = pair
    with_other_link(client)
    put(client, V4[2], "theirs")
    async with world.plumber() as plumber:
        await world.grant(a_grant())
        status = await world.client_is("failed", "RouteTaken")
        assert status.client is not None
        assert "10.20.0.0/16 dev theirs" in status.client.message
        answer = await plumber.explain({"pod": "default/client"})
        assert "10.20.0.0/16 dev theirs" in answer.connections[0].last_error
        assert way(client, "10.20.0.1").interface == "theirs"

        remove(client, V4[2], "theirs")
        await world.client_is("ready")
    assert way(client, "10.20.0.1").interface == "nsm0"


async def test_a_route_that_was_there_before_it_was_granted_is_left_at_every_look(
    world: World, pair: Pair
) -> None:
    client, server = pair
    with_other_link(client)
    put(client, "10.30.0.0/16", "theirs")
    grant = with_client(
        a_grant(), routes=(Route(destination=V4[2]), Route(destination="10.30.0.0/16"))
    )
    async with world.plumber(sweep_seconds=0.05) as plumber:
        await world.grant(a_grant())
        await world.client_is("ready")
        await world.grant(grant)
        status = await world.client_is("failed", "RouteTaken", revision=2)
        assert status.client is not None
        assert "10.30.0.0/16 dev theirs" in status.client.message
        for _ in range(3):
            await plumber._look_at(grant.key)
            assert way(client, "10.30.0.1").interface == "theirs"
        assert answers(client, server, V4[:2])


async def test_a_route_of_another_connection_is_never_taken(world: World, pair: Pair) -> None:
    client, _ = pair
    both = (Route(destination="10.30.0.0/16"),)
    one = with_client(a_grant(), routes=both)
    other = with_client(
        a_grant(number=2), interface="nsm1", addresses=("172.16.1.3/32",), routes=both
    )
    other = msgspec.structs.replace(
        other, server=msgspec.structs.replace(other.server, addresses=("172.16.1.4/32",))
    )
    async with world.plumber(sweep_seconds=0.05) as plumber:
        await world.grant(one)
        await world.client_is("ready")
        await world.grant(other)
        await world.until(
            lambda: any(
                "10.30.0.0/16 via 172.16.1.1 dev nsm0 (another connection's); wait until"
                in str(message)
                for _, message in world.told
            )
        )
        for _ in range(3):
            await plumber._look_at(one.key)
            await plumber._look_at(other.key)
            assert way(client, "10.30.0.1").interface == "nsm0"
        assert repaired(await world.client_is("ready")) == ""
