"""A wiped bus: what nodes have comes back as it was, and what a silent node may have is given to nobody."""

import asyncio

from lab.nats import NatsServer
from schemas import intent
from schemas.codec import Tombstone
from schemas.subjects import ConnectionKey, LeaderKey, PrefixKey, RefusalKey
from services._runtime.streams import GRANT
from services.ipam.service.past import Past
from tests.ipam.conftest import wipe
from tests.ipam.world import World, a_request, a_world, an_endpoint, an_ipam, knows, status_key

TWO = ("node1", "node2")
TUNNEL = {"mechanisms": ("veth", "vxlan")}


async def test_a_wiped_bus_gets_the_same_grants_again(nats):
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(an_endpoint(), a_request("one"), a_request("two"))
        before = [await world.granted("one"), await world.granted("two")]
        world.leading.clear()
        world.is_complete_at_once = False

        wipe(nats)
        async with asyncio.timeout(20):
            await world.leading.wait()
            await world.grants.reached(1, incarnation=world.term.incarnations[GRANT])
            while world.grants.stale:  # written again as it was, which no mirror tells as a change
                await asyncio.sleep(0.01)
        await world.want(an_endpoint(), a_request("one"), a_request("two"), a_request("three"))
        await world.report()
        await world.term.declare_complete()

        assert (await world.granted("three")).client.addresses == ("172.16.1.4/32",)
        assert [world.grants.items[c.key] for c in before] == before


async def test_on_a_fresh_bus_what_nodes_have_is_adopted_before_anything_is_granted(nats):
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(an_endpoint(), a_request("one"), a_request("two"))
        await world.granted("one")
        before = await world.granted("two")
    wipe(nats)
    async with a_world(nats.url, reports=False) as world, an_ipam(nats.url) as ipam:
        await world.want(an_endpoint(), a_request("a-new-one"), a_request("two"))
        await knows(ipam, a_request("two"))
        assert not any(isinstance(key, ConnectionKey) for key in world.grants.items)

        await world.plumb(before)
        await world.report()
        assert await world.granted("two") == before
        assert (await world.granted("a-new-one")).client.addresses != before.client.addresses


async def test_fifty_live_connections_survive_a_wiped_bus_and_a_restart_unchanged(
    nats: NatsServer,
) -> None:
    pods = [f"pod-{number}" for number in range(50)]
    endpoint = an_endpoint(prefix="172.16.1.0/24,2001:db8::/112")
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(endpoint, *map(a_request, pods))
        before = [await world.granted(pod) for pod in pods]
    wipe(nats)
    async with a_world(nats.url, reports=False) as world, an_ipam(nats.url):
        # in another order than they were granted, and new ones among them
        await world.want(endpoint, *(a_request(f"a-{pod}") for pod in pods))
        await world.want(*map(a_request, reversed(pods)))
        for connection in reversed(before):
            await world.plumb(connection)
        await world.report()

        assert [await world.granted(pod) for pod in pods] == before
        new = {(await world.granted(f"a-{pod}")).client.addresses for pod in pods}
        assert len(new) == len(pods)
        assert not new & {connection.client.addresses for connection in before}


async def until_silent(world: World, *nodes: str) -> None:
    await world.until(
        lambda: (leader := world.grants.items.get(LeaderKey("ipam"))) and leader.silent == nodes
    )


async def test_a_silent_node_keeps_only_those_waiting_who_could_be_given_what_it_may_hold(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url, nodes=TWO) as world, an_ipam(nats.url):
        await world.want(an_endpoint(node="node2"), a_request("old", node="node2"))
        before = await world.granted("old", node="node2")
    wipe(nats)
    there = (
        an_endpoint(node="node2"),
        a_request("old", node="node2"),
        a_request("new", node="node2"),
    )
    here = an_endpoint("nat-1", "172.16.9.0/24", name="nat"), a_request("app", service="nat")
    async with a_world(nats.url, nodes=TWO, reports=False) as world:
        async with an_ipam(nats.url, adoption_seconds=0.2):
            await world.report("node1")
            await world.want(*there, *here)
            await world.granted("app")
            refusal = await world.refused("new")
            assert (await world.refused("old")).reason == refusal.reason == "NodeSilent"
            assert "node2" in refusal.message
            await until_silent(world, "node2")
            # also a leader that dies before it is complete leaves that word
            kinds = [getattr(message, "silent", key.kind) for key, message in world.said]
            assert kinds.index(("node2",)) < kinds.index("connection")

        async with an_ipam(nats.url, adoption_seconds=3600):  # who leads next asks nobody again
            await world.want(a_request("app-2", service="nat"))
            await world.granted("app-2")
            assert (await world.refused("new")).reason == "NodeSilent"

            await world.plumb(before)
            await world.report("node2")
            assert await world.granted("old", node="node2") == before
            new = await world.granted("new", node="node2")
            assert new.client.addresses != before.client.addresses
            await until_silent(world)


async def test_a_silent_node_that_kubernetes_drops_holds_nothing(nats: NatsServer) -> None:
    there = an_endpoint(node="node2"), an_endpoint("vpn-2", node="node1"), a_request("app")
    async with (
        a_world(nats.url, nodes=TWO, reports=False) as world,
        an_ipam(nats.url, adoption_seconds=0.2),
    ):
        await world.report("node1")
        await world.want(*there)
        assert (await world.refused("app")).reason == "NodeSilent"

        await world.term.bury(PrefixKey("node", "node2"))
        await world.granted("app")
        await world.until(lambda: RefusalKey("default", "app", "nsm-1") not in world.grants.items)
        await until_silent(world)


async def test_what_a_silent_clients_node_has_is_adopted_from_the_endpoints_node(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url, nodes=TWO) as world, an_ipam(nats.url):
        await world.report("node1", underlay_address="192.0.2.1", **TUNNEL)
        await world.report("node2", underlay_address="192.0.2.2", **TUNNEL)
        await world.want(an_endpoint(node="node1"), a_request("far", node="node2"))
        before = await world.granted("far", node="node2")
        copy = await world.granted("far", node="node1")
        assert (before.mechanism, copy.mechanism, copy.vni) == ("vxlan", "vxlan", before.vni)
    wipe(nats)
    async with (
        a_world(nats.url, nodes=TWO, reports=False) as world,
        an_ipam(nats.url, adoption_seconds=2),
    ):
        await world.want(an_endpoint(node="node1"), a_request("far", node="node2"))
        await world.plumb(copy)
        await world.report("node1", underlay_address="192.0.2.1", **TUNNEL)
        adopted = await world.granted("far", node="node2")

        assert adopted.client.addresses == before.client.addresses
        assert adopted.vni == before.vni
        await until_silent(world, "node2")


async def test_on_a_running_bus_a_node_that_has_not_reported_yet_keeps_nobody_waiting(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url) as world:
        async with an_ipam(nats.url):
            await world.want(an_endpoint(), a_request("one"))
            await world.granted("one")
        joined = intent.PrefixesInUse(source="node", name="node9")
        await world.want(joined)
        async with an_ipam(nats.url, adoption_seconds=3600):
            await world.want(a_request("two"), an_endpoint("vpn-9", node="node9"))
            await world.granted("two")


async def test_a_new_interface_waits_until_what_its_pod_has_is_adopted(nats: NatsServer) -> None:
    one, other = an_endpoint("a-1", name="a"), an_endpoint("b-1", name="b")
    old, new = a_request("app", "i1", service="a"), a_request("app", "i0", service="b")
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(one, old)
        before = await world.granted("app", "i1")
    wipe(nats)
    async with a_world(nats.url, reports=False) as world, an_ipam(nats.url):
        await world.want(one, other, old, new)
        await world.plumb(before)
        await world.report()

        assert await world.granted("app", "i1") == before
        assert (await world.granted("app", "i0")).client.addresses != before.client.addresses


async def test_what_was_edited_during_a_silence_is_settled_when_all_are_heard(
    nats: NatsServer,
) -> None:
    here = an_endpoint("vpn-1")
    async with a_world(nats.url, nodes=TWO) as world, an_ipam(nats.url):
        await world.want(here, a_request("one"))
        before = await world.granted("one")
    wipe(nats)
    async with (
        a_world(nats.url, nodes=TWO, reports=False) as world,
        an_ipam(nats.url, adoption_seconds=0.2),
    ):
        edited = "172.16.9.0/24"
        await world.plumb(before)
        await world.report("node1")
        await world.want(
            an_endpoint("vpn-1", edited),
            an_endpoint("vpn-2", edited, node="node2"),
            a_request("one"),
            a_request("two"),
        )
        assert (await world.refused("two")).reason == "NodeSilent"
        assert await world.granted("one") == before

        await world.report("node2")
        after = await world.until(lambda: (c := world.grants.items[before.key]) != before and c)
        assert after.client.addresses[0].startswith("172.16.9.")


def test_a_confirmation_about_another_pod_of_that_name_confirms_nothing() -> None:
    key = ConnectionKey("node1", "default", "app", "nsm-1")
    past = Past()
    released = Tombstone(released="uid-new", revision=1)
    past.note_status(status_key(key), Tombstone(released="uid-old", revision=7))
    past.note_grant(key, released)
    assert list(past.released()) == [(key, released, False)]

    for uid in ("uid-new", ""):  # who serves a Pod does not know it
        past.note_status(status_key(key), Tombstone(released=uid, revision=1))
        assert list(past.released()) == [(key, released, True)]
