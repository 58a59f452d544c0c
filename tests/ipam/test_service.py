"""ipam on a real bus: conversations of a watcher, a plumber and ipam."""

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import msgspec
import pytest

from lab.nats import NatsServer
from schemas import intent, state
from schemas.codec import Tombstone
from schemas.subjects import (
    ConnectionKey,
    LeaderKey,
    PoolKey,
    PrefixKey,
    RefusalKey,
    StatusKey,
)
from services._runtime.bus import Bus
from services._runtime.leading import lead
from services._runtime.mirror import Mirror
from services._runtime.streams import GRANT, INTENT, STATE
from services.ipam.service import Ipam
from services.ipam.settings import Settings

SECONDS = 10


def a_pod(name, node="node1", uid=""):
    return intent.PodRef(namespace="default", name=name, uid=uid or f"uid-{name}", node=node)


def a_request(pod, interface="nsm-1", uid=""):
    return intent.Request(pod=a_pod(pod, uid=uid), interface=interface, network_service="vpn")


def an_endpoint(pod="vpn-1", prefix="172.16.1.0/24"):
    return intent.Endpoint(
        endpoint="vpn",
        pod=a_pod(pod),
        ready=True,
        network_services=("vpn",),
        ipam=intent.IpamSpec(prefixes=(prefix,)),
    )


class World:
    """A watcher that writes intent, a plumber that writes statuses, and eyes on what ipam writes."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.changed = asyncio.Event()
        self.said: list[tuple[object, object]] = []
        self.intent = Mirror(bus, INTENT, ["nsm.>"], on_change=lambda *_: None)
        self.grants = Mirror(bus, GRANT, ["nsm.>"], on_change=self._on_change)
        self.states = Mirror(bus, STATE, ["nsm.>"], on_change=lambda *_: None)
        self.term: Any = None
        self.leading = asyncio.Event()
        self.is_complete_at_once = True

    def _on_change(self, key, message):
        self.said.append((key, message))
        self.changed.set()

    async def watcher(self, term):
        self.term = term
        await term.publish(intent.PrefixesInUse(source="node", name="node1"))
        if self.is_complete_at_once:
            await term.declare_complete()
        self.leading.set()
        await asyncio.Event().wait()

    async def report(self):
        """The node says that all its statuses are on this bus."""
        incarnation = (await self.bus.ensure_streams())[STATE]
        await self.bus.publish(
            state.NodeFacts(node="node1", complete=True, incarnation=incarnation)
        )

    async def want(self, *messages):
        for message in messages:
            await self.term.publish(message)

    async def until(self, holds):
        async with asyncio.timeout(SECONDS):
            while not (found := holds()):
                self.changed.clear()
                await self.changed.wait()
            return found

    async def granted(self, pod, interface="nsm-1"):
        key = ConnectionKey("node1", "default", pod, interface)
        return await self.until(lambda: self.grants.items.get(key))

    async def refused(self, pod, interface="nsm-1"):
        key = RefusalKey("default", pod, interface)
        return await self.until(lambda: self.grants.items.get(key))

    async def plumb(self, connection):
        end = state.EndStatus(uid=connection.client.pod.uid, state="ready", applied=connection)
        await self.bus.publish(
            state.Status(
                node="node1",
                namespace="default",
                pod=connection.client.pod.name,
                interface=connection.client.interface,
                revision=connection.revision,
                client=end,
            )
        )

    async def unplumb(self, connection, at=""):
        key = StatusKey("node1", "default", connection.client.pod.name, connection.client.interface)
        await self.bus.bury(
            key,
            Tombstone(released=connection.client.pod.uid, revision=connection.revision, at=at),
        )


@pytest.fixture
def nats(tmp_path):
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


@asynccontextmanager
async def a_world(nats, *, complete=True, reports=True):
    bus = await Bus.connect(nats.url, name="test")
    try:
        await bus.ensure_streams()
        world = World(bus)
        world.is_complete_at_once = complete
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(world.intent.run()),
                tasks.create_task(world.grants.run()),
                tasks.create_task(world.states.run()),
                tasks.create_task(
                    lead(bus, "watcher", world.intent, world.watcher, holder="watcher-0")
                ),
            ]
            async with asyncio.timeout(SECONDS):
                await world.leading.wait()
                await world.grants.synced.wait()
            if reports:
                await world.report()
            yield world
            for task in running:
                task.cancel()
    finally:
        await bus.close()


@asynccontextmanager
async def an_ipam(nats, holder="ipam-0", **settings):
    bus = await Bus.connect(nats.url, name="ipam")
    try:
        async with asyncio.TaskGroup() as tasks:
            ipam = Ipam(bus, Settings(pool_interval=0.05, **settings), holder=holder)
            task = tasks.create_task(ipam.run())
            yield ipam
            task.cancel()
    finally:
        await bus.close()


async def test_a_request_becomes_a_connection_and_the_pool_is_told(nats):
    async with a_world(nats) as world, an_ipam(nats):
        await world.want(an_endpoint(), a_request("app"))

        connection = await world.granted("app")
        pool = await world.until(lambda: world.grants.items.get(PoolKey("default", "vpn")))

        assert connection.client.addresses == ("172.16.1.2/32",)
        assert connection.revision == 1
        (figures,) = pool.families
        assert (figures.size, figures.used, figures.free) == (254, 2, 252)


async def test_a_refusal_is_told_and_withdrawn_when_an_endpoint_comes(nats):
    async with a_world(nats) as world, an_ipam(nats):
        await world.want(a_request("app"))
        assert (await world.refused("app")).reason == "NoEndpoint"

        await world.want(an_endpoint())
        await world.granted("app")
        await world.until(lambda: RefusalKey("default", "app", "nsm-1") not in world.grants.items)


async def test_an_address_is_free_only_when_the_node_confirmed(nats):
    async with a_world(nats) as world, an_ipam(nats):
        await world.want(an_endpoint(prefix="10.9.0.0/30"), a_request("one"), a_request("two"))
        connection = await world.granted("one")
        assert (await world.refused("two")).reason == "PoolExhausted"
        await world.plumb(connection)

        await world.term.bury(a_request("one").key)
        tombstone = await world.until(
            lambda: next(
                (m for k, m in world.said if k == connection.key and isinstance(m, Tombstone)), None
            )
        )
        assert tombstone.released == "uid-one"
        assert tombstone.addresses == ("10.9.0.2/32",)
        assert RefusalKey("default", "two", "nsm-1") in world.grants.items

        await world.unplumb(connection)
        assert (await world.granted("two")).client.addresses == ("10.9.0.2/32",)


async def test_a_sandbox_that_went_before_its_pod_is_confirmed_again_at_the_release(nats):
    async with a_world(nats) as world, an_ipam(nats):
        await world.want(an_endpoint(prefix="10.9.0.0/30"), a_request("one"), a_request("two"))
        connection = await world.granted("one")
        await world.refused("two")
        await world.plumb(connection)
        await world.unplumb(connection, at="first")
        await world.term.bury(a_request("one").key)
        await world.until(lambda: connection.key not in world.grants.items)
        await world.unplumb(connection, at="second")

        assert (await world.granted("two")).client.addresses == ("10.9.0.2/32",)


async def test_a_restarted_ipam_changes_nothing_and_holds_what_is_not_confirmed(nats):
    async with a_world(nats) as world:
        async with an_ipam(nats):
            await world.want(an_endpoint(prefix="10.9.0.0/29"), a_request("one"), a_request("two"))
            one, two = await world.granted("one"), await world.granted("two")
            await world.term.bury(a_request("one").key)
            await world.until(lambda: one.key not in world.grants.items)
        async with an_ipam(nats):
            await world.want(a_request("three"))
            three = await world.granted("three")

        assert three.client.addresses == ("10.9.0.4/32",)
        assert world.grants.items[two.key] == two


async def test_nothing_is_granted_or_withdrawn_on_half_a_picture(nats):
    async with a_world(nats) as world, an_ipam(nats):
        await world.want(an_endpoint(), a_request("app"))
        before = await world.granted("app")
    async with a_world(nats, complete=False) as world, an_ipam(nats) as ipam:
        await world.term.bury(an_endpoint().key)
        await world.want(a_request("late"))
        async with asyncio.timeout(SECONDS):
            while a_request("late").key not in ipam._intent.items:
                await asyncio.sleep(0.01)

        assert world.grants.items[before.key] == before
        assert ConnectionKey("node1", "default", "late", "nsm-1") not in world.grants.items
        await world.term.declare_complete()
        assert (await world.refused("app")).reason == "NoEndpoint"
        assert (await world.refused("late")).reason == "NoEndpoint"


async def test_a_wiped_bus_gets_the_same_grants_again(nats):
    async with a_world(nats) as world, an_ipam(nats):
        await world.want(an_endpoint(), a_request("one"), a_request("two"))
        before = [await world.granted("one"), await world.granted("two")]
        world.leading.clear()
        world.is_complete_at_once = False

        nats.kill()
        nats.wipe()
        nats.start()
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
    async with a_world(nats) as world, an_ipam(nats):
        await world.want(an_endpoint(), a_request("one"), a_request("two"))
        await world.granted("one")
        before = await world.granted("two")
    nats.kill()
    nats.wipe()
    nats.start()
    async with a_world(nats, reports=False) as world, an_ipam(nats) as ipam:
        await world.want(an_endpoint(), a_request("a-new-one"), a_request("two"))
        async with asyncio.timeout(SECONDS):
            while a_request("two").key not in ipam._intent.items:
                await asyncio.sleep(0.01)
        assert not any(isinstance(key, ConnectionKey) for key in world.grants.items)

        await world.plumb(before)
        await world.report()
        assert await world.granted("two") == before
        assert (await world.granted("a-new-one")).client.addresses != before.client.addresses


async def test_a_silent_node_does_not_keep_all_others_waiting(nats):
    async with a_world(nats, reports=False) as world, an_ipam(nats, adoption_seconds=0.3):
        await world.want(an_endpoint(), a_request("one"))
        await world.granted("one")


async def test_a_standby_takes_over_with_the_whole_state(nats):
    async with a_world(nats) as world, AsyncExitStack() as standby:
        async with an_ipam(nats, "ipam-1"):
            await world.want(an_endpoint(), a_request("one"))
            before = await world.granted("one")
            await standby.enter_async_context(an_ipam(nats, "ipam-2"))
        await world.want(a_request("two"))

        assert (await world.granted("two")).client.addresses == ("172.16.1.3/32",)
        assert world.grants.items[before.key] == before
        assert world.grants.items[LeaderKey("ipam")].holder == "ipam-2"


async def test_one_bad_message_of_a_node_or_an_endpoint_costs_nobody_else(nats):
    async with a_world(nats) as world, an_ipam(nats):
        await world.want(an_endpoint("vpn-1", prefix="172.16.1.5/24"), an_endpoint("vpn-2"))
        await world.want(a_request("one"))
        connection = await world.granted("one")
        broken = msgspec.structs.replace(connection.client, addresses=("no address",))
        await world.plumb(msgspec.structs.replace(connection, client=broken))
        nested = b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}"
        await world.bus.store(StatusKey("node1", "default", "two", "nsm-1"), nested)

        await world.want(a_request("three"))
        assert (await world.granted("three")).client.addresses == ("172.16.1.3/32",)


async def test_a_node_that_is_gone_confirms_nothing_and_holds_nothing(nats):
    async with a_world(nats) as world:
        async with an_ipam(nats):
            await world.want(an_endpoint(prefix="10.9.0.0/30"), a_request("one"), a_request("two"))
            connection = await world.granted("one")
            await world.refused("two")
            await world.plumb(connection)
            await world.term.bury(PrefixKey("node", "node1"))
            await world.term.bury(a_request("one").key)
            await world.granted("two")
            await world.term.bury(a_request("two").key)
            await world.until(
                lambda: not any(isinstance(k, ConnectionKey) for k in world.grants.items)
            )
        async with an_ipam(nats):
            await world.want(a_request("three"))
            assert (await world.granted("three")).client.addresses == ("10.9.0.2/32",)


async def test_a_pool_is_told_no_more_when_its_endpoint_is_gone(nats):
    async with a_world(nats) as world, an_ipam(nats):
        await world.want(an_endpoint(), a_request("one"))
        connection = await world.granted("one")
        pool = PoolKey("default", "vpn")
        await world.until(lambda: pool in world.grants.items)
        await world.term.bury(a_request("one").key)
        await world.term.bury(an_endpoint().key)
        await world.until(lambda: connection.key not in world.grants.items)
        await world.unplumb(connection)

        await world.until(lambda: pool not in world.grants.items)


async def test_a_pod_that_is_made_anew_under_its_name_keeps_its_address(nats):
    async with a_world(nats) as world, an_ipam(nats):
        await world.want(an_endpoint(), a_request("one"), a_request("two"))
        before = await world.granted("two")
        await world.plumb(before)

        await world.want(a_request("two", uid="uid-new"))
        after = await world.until(
            lambda: (c := world.grants.items[before.key]).client.pod.uid == "uid-new" and c
        )

        assert after.client.addresses == before.client.addresses
        assert after.revision == before.revision + 1
        assert after == msgspec.structs.replace(
            before,
            revision=after.revision,
            client=msgspec.structs.replace(
                before.client, pod=after.client.pod, mac=after.client.mac
            ),
            server=msgspec.structs.replace(before.server, mac=after.server.mac),
        )
