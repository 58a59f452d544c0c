"""ipam on a real bus: conversations of a watcher, a plumber and ipam."""

from contextlib import AsyncExitStack

import msgspec

from schemas.codec import Tombstone
from schemas.subjects import ConnectionKey, LeaderKey, PoolKey, PrefixKey, RefusalKey, StatusKey
from tests.ipam.world import a_request, a_world, an_endpoint, an_ipam, knows


async def test_a_request_becomes_a_connection_and_the_pool_is_told(nats):
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(an_endpoint(), a_request("app"))

        connection = await world.granted("app")
        pool = await world.until(lambda: world.grants.items.get(PoolKey("default", "vpn")))

        assert connection.client.addresses == ("172.16.1.2/32",)
        assert connection.revision == 1
        (figures,) = pool.families
        assert (figures.size, figures.used, figures.free) == (254, 2, 252)


async def test_a_refusal_is_told_and_withdrawn_when_an_endpoint_comes(nats):
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(a_request("app"))
        assert (await world.refused("app")).reason == "NoEndpoint"

        await world.want(an_endpoint())
        await world.granted("app")
        await world.until(lambda: RefusalKey("default", "app", "nsm-1") not in world.grants.items)


async def test_an_address_is_free_only_when_the_node_confirmed(nats):
    async with a_world(nats.url) as world, an_ipam(nats.url):
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
    async with a_world(nats.url) as world, an_ipam(nats.url):
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
    async with a_world(nats.url) as world:
        async with an_ipam(nats.url):
            await world.want(an_endpoint(prefix="10.9.0.0/29"), a_request("one"), a_request("two"))
            one, two = await world.granted("one"), await world.granted("two")
            await world.term.bury(a_request("one").key)
            await world.until(lambda: one.key not in world.grants.items)
        async with an_ipam(nats.url):
            await world.want(a_request("three"))
            three = await world.granted("three")

        assert three.client.addresses == ("10.9.0.4/32",)
        assert world.grants.items[two.key] == two


async def test_nothing_is_granted_or_withdrawn_on_half_a_picture(nats):
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(an_endpoint(), a_request("app"))
        before = await world.granted("app")
    async with a_world(nats.url, complete=False) as world, an_ipam(nats.url) as ipam:
        await world.term.bury(an_endpoint().key)
        await world.want(a_request("late"))
        await knows(ipam, a_request("late"))

        assert world.grants.items[before.key] == before
        assert ConnectionKey("node1", "default", "late", "nsm-1") not in world.grants.items
        await world.term.declare_complete()
        assert (await world.refused("app")).reason == "NoEndpoint"
        assert (await world.refused("late")).reason == "NoEndpoint"


async def test_a_standby_takes_over_with_the_whole_state(nats):
    async with a_world(nats.url) as world, AsyncExitStack() as standby:
        async with an_ipam(nats.url, "ipam-1"):
            await world.want(an_endpoint(), a_request("one"))
            before = await world.granted("one")
            await standby.enter_async_context(an_ipam(nats.url, "ipam-2"))
        await world.want(a_request("two"))

        assert (await world.granted("two")).client.addresses == ("172.16.1.3/32",)
        assert world.grants.items[before.key] == before
        assert world.grants.items[LeaderKey("ipam")].holder == "ipam-2"


async def test_one_bad_message_of_a_node_or_an_endpoint_costs_nobody_else(nats):
    async with a_world(nats.url) as world, an_ipam(nats.url):
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
    async with a_world(nats.url) as world:
        async with an_ipam(nats.url):
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
        async with an_ipam(nats.url):
            await world.want(a_request("three"))
            assert (await world.granted("three")).client.addresses == ("10.9.0.2/32",)


async def test_a_pool_is_told_no_more_when_its_endpoint_is_gone(nats):
    async with a_world(nats.url) as world, an_ipam(nats.url):
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
    async with a_world(nats.url) as world, an_ipam(nats.url):
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
