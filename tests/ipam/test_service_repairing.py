"""What a writer left when it died in the middle, and what must not leak: every rule on a real bus."""

import asyncio
from typing import Any

import msgspec
import pytest

from lab.nats import NatsServer
from schemas import intent
from schemas.codec import Tombstone
from schemas.subjects import ConnectionKey, LeaderKey, RequestKey
from services._runtime import auditing
from services._runtime.streams import GRANT
from services.ipam.adapters import tombstone_of
from services.ipam.service import repairing
from tests.ipam.world import (
    World,
    a_request,
    a_user_exclusion,
    a_world,
    an_endpoint,
    an_ipam,
    status_key,
    status_of,
)
from tests.runtime.helpers import lose, until

TWO = ("node1", "node2")


async def two_nodes(world: World) -> None:
    for node, address in (("node1", "192.0.2.1"), ("node2", "192.0.2.2")):
        await world.report(node, mechanisms=("veth", "vxlan"), underlay_address=address)


async def a_far_connection(world: World) -> tuple[Any, Any]:
    await two_nodes(world)
    await world.want(an_endpoint(prefix="10.9.0.0/30", node="node1"))
    await world.want(a_request("far", node="node2"))
    return await world.granted("far", node="node2"), await world.granted("far", node="node1")


async def test_a_connection_across_nodes_is_told_to_both_and_free_when_both_confirmed(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url, nodes=TWO) as world, an_ipam(nats.url):
        far, copy = await a_far_connection(world)
        assert msgspec.structs.replace(copy, node="node2") == far
        await world.plumb(far)
        await world.plumb(copy)
        await world.want(a_request("next"))
        await world.refused("next")

        await world.drop(a_request("far"))
        assert await world.released(far)
        assert await world.released(copy)
        await world.unplumb(far)
        pool = await world.pool(lambda pool: pool.families[0].held > 0)
        assert pool.families[0].free == 0
        await world.unplumb(copy)
        assert (await world.granted("next")).client.addresses == far.client.addresses


async def test_a_release_told_to_one_node_only_is_told_to_the_other_by_who_leads_next(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url, nodes=TWO) as world:
        async with an_ipam(nats.url):
            far, copy = await a_far_connection(world)
        await world.drop(a_request("far"))
        await world.bus.bury(far.key, tombstone_of(far, at="then"))
        await world.want(a_request("next"))
        async with an_ipam(nats.url):
            tombstone = await world.released(copy)
            assert tombstone.peer_addresses == copy.server.addresses
            await world.refused("next")
            await world.unplumb(far)
            await world.unplumb(copy)
            await world.granted("next")


async def test_a_grant_told_to_the_clients_node_only_is_told_to_the_other_by_who_leads_next(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url, nodes=TWO) as world:
        async with an_ipam(nats.url):
            far, copy = await a_far_connection(world)
        await world.bus.bury(copy.key)
        await world.until(lambda: copy.key not in world.grants.items)
        async with an_ipam(nats.url):
            assert await world.granted("far", node="node1") == copy
            assert world.grants.items[far.key] == far


async def test_grants_that_nobody_asks_for_any_more_are_taken_back_by_who_leads_next(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url) as world:
        async with an_ipam(nats.url):
            await world.want(an_endpoint(prefix="10.9.0.0/30"), a_request("one"))
            one = await world.granted("one")
        await world.drop(a_request("one"))
        async with an_ipam(nats.url):
            await world.released(one)
            await world.unplumb(one)
            await world.pool(lambda pool: pool.families[0].used == pool.families[0].held == 0)


async def test_what_a_node_has_without_a_request_is_held_until_it_says_that_it_is_gone(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url) as world:
        async with an_ipam(nats.url):
            await world.want(an_endpoint(prefix="10.9.0.0/30"), a_request("one"))
            one = await world.granted("one")
            await world.plumb(one)
        await world.drop(a_request("one"))
        await world.bus.bury(one.key)  # as after an hour: nothing says any more what it held
        await world.until(lambda: one.key not in world.grants.items)
        async with an_ipam(nats.url):
            await world.want(a_request("two"))
            await world.refused("two")
            await world.unplumb(one)
            assert (await world.granted("two")).client.addresses == one.client.addresses


async def test_a_pod_that_comes_back_after_a_restart_of_ipam_gets_its_old_address(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url) as world:
        async with an_ipam(nats.url):
            await world.want(an_endpoint(), a_request("one"), a_request("two"))
            one, two = await world.granted("one"), await world.granted("two")
            await world.drop(a_request("one"), a_request("two"))
            for connection in (one, two):
                await world.released(connection)
                await world.unplumb(connection)
        async with an_ipam(nats.url):
            await world.want(a_request("two", uid="uid-again"))
            assert (await world.granted("two")).client.addresses == two.client.addresses
            await world.pool(lambda pool: pool.families[0].used == 2 and not pool.families[0].held)


async def test_what_a_revision_replaced_is_held_over_a_restart_until_the_node_says_the_new_one(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url) as world:
        async with an_ipam(nats.url):
            await world.want(an_endpoint(prefix="10.9.0.0/29"), a_request("one"))
            one = await world.granted("one")
            await world.want(a_user_exclusion("10.9.0.2/32"))
            after = await world.until(lambda: (c := world.grants.items[one.key]) != one and c)
            await world.want(a_user_exclusion())
        async with an_ipam(nats.url):
            await world.want(*(a_request(f"more-{number}") for number in range(4)))
            await world.refused("more-3")

            await world.plumb(after)
            assert (await world.granted("more-3")).client.addresses == one.client.addresses


async def test_a_new_leader_counts_on_from_what_nodes_confirmed(nats: NatsServer) -> None:
    async with a_world(nats.url) as world:
        gone = status_key(ConnectionKey("node1", "default", "one", "nsm-1"))
        await world.bus.bury(gone, Tombstone(released="uid-before", revision=7))
        async with an_ipam(nats.url):
            await world.want(an_endpoint(), a_request("one"))
            assert (await world.granted("one")).revision == 8


async def test_a_node_that_has_a_newer_revision_is_told_a_newer_one(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(an_endpoint(), a_request("one"))
        one = await world.granted("one")
        await world.plumb(msgspec.structs.replace(one, revision=3))

        newer = msgspec.structs.replace(one, revision=4)
        await world.until(lambda: world.grants.items[one.key] == newer)


async def test_addresses_of_a_pod_are_told_to_a_node_that_still_looks_for_it(
    nats: NatsServer,
) -> None:
    def known(pod: str) -> intent.Request:
        request = a_request(pod)
        return msgspec.structs.replace(
            request, pod=msgspec.structs.replace(request.pod, ips=("10.244.1.7",))
        )

    async with a_world(nats.url) as world, an_ipam(nats.url) as ipam:
        await world.want(an_endpoint(), a_request("found"), a_request("sought"))
        found, sought = await world.granted("found"), await world.granted("sought")
        await world.plumb(found)
        await until(lambda: RequestKey("default", "found", "nsm-1") in ipam._past._applied)
        await world.want(known("found"), known("sought"))
        told = await world.until(lambda: (c := world.grants.items[sought.key]) != sought and c)

        assert told.client.pod.ips == ("10.244.1.7",)
        assert told.client.addresses == sought.client.addresses
        await world.want(a_request("last"))
        await world.granted("last")
        assert world.grants.items[found.key] == found


async def test_what_a_node_said_before_kubernetes_told_of_it_counts(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(an_endpoint(prefix="10.9.0.0/30"), a_request("one"))
        one = await world.granted("one")
        await world.drop(a_request("one"))
        await world.released(one)
        await world.unplumb(one)
        await world.pool(lambda pool: pool.families[0].free == 2)

        away = msgspec.structs.replace(one.client.pod, node="node9")
        moved = msgspec.structs.replace(
            one, node="node9", client=msgspec.structs.replace(one.client, pod=away)
        )
        await world.bus.publish(status_of(moved))
        await world.want(intent.PrefixesInUse(source="node", name="node9"))
        await world.pool(lambda pool: pool.families[0].held > 0)


async def test_a_tombstone_that_nobody_confirmed_is_told_again_before_it_goes(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repairing, "KEEP_SECONDS", 0.05)
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(an_endpoint(), a_request("one"), a_request("two"))
        one, two = await world.granted("one"), await world.granted("two")
        await world.drop(a_request("one"), a_request("two"))
        await world.released(one)
        await world.released(two)
        await world.unplumb(two)
        await world.pool(lambda pool: pool.families[0].used == 0)
        again = first = await told(world, one)
        while again == first:
            again = await told(world, one)
        before, last = await told(world, two), again
        while last == again:
            last = await told(world, one)
        assert await told(world, two) == before


async def told(world: World, connection: Any) -> int:
    """The sequence of the tombstone of a connection."""
    found = await world.bus.read(connection.key)
    assert found is not None
    assert isinstance(found[0], Tombstone)
    return found[1]


async def guard(world: World) -> int:
    """The sequence of what each write of ipam is guarded by."""
    found = await world.bus.peek(LeaderKey("ipam"))
    assert found is not None
    return found.sequence


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams are counted every moment."""
    monkeypatch.setattr(auditing, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(auditing, "AGAIN_SECONDS", 0.05)


async def test_a_grant_that_the_stream_lost_is_written_again_as_it_was(
    nats: NatsServer, often: None
) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(an_endpoint(), *(a_request(f"p{number}") for number in range(20)))
        grants = [await world.granted(f"p{number}") for number in range(20)]
        for each in grants:
            await world.plumb(each)
        await world.until(lambda: world.leader().complete)
        before = await guard(world)
        await lose(world.bus, *grants[5:8])
        async with asyncio.timeout(20):
            while len((await world.bus.holds(GRANT, ConnectionKey))[1]) < 20:
                await asyncio.sleep(0.05)
        for each in grants:
            assert (await world.bus.read(each.key) or [None])[0] == each
        assert await guard(world) > before  # in a term of its own
        await world.until(lambda: world.leader().complete)
        said = [message for key, message in world.said if key == grants[5].key]
        assert said == [grants[5]]  # nobody ever heard of an end
        await world.want(a_request("next"))
        addresses = {each.client.addresses for each in grants}
        assert (await world.granted("next")).client.addresses not in addresses


async def test_nodes_are_asked_again_for_statuses_that_were_lost_and_what_none_tells_is_gone(
    nats: NatsServer, often: None
) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url) as ipam:
        await world.want(an_endpoint(), a_request("told"), a_request("untold"))
        told, untold = await world.granted("told"), await world.granted("untold")
        await world.plumb(told)
        await world.plumb(untold)
        await world.until(lambda: world.leader().complete)
        assert not world.leader().asked_again
        await lose(world.bus, status_of(told), status_of(untold))
        await world.until(lambda: world.leader().asked_again)
        assert status_key(told.key) in ipam._mirrors.states.items  # until nobody tells it
        await world.plumb(told)
        states = ipam._mirrors.states
        await until(lambda: status_key(untold.key) not in states.items, 20)
        assert status_key(told.key) in states.items
        assert not await states.is_short()
        assert (await world.bus.read(untold.key) or [None])[0] == untold  # what is granted stays so
