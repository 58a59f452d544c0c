"""Prefixes that come into use later: who is swallowed gets other addresses, slowly, and nobody waits for that."""

import msgspec
from msgspec.structs import replace

from lab.nats import NatsServer
from schemas import state
from services.ipam.service import Ipam
from tests.ipam.world import a_request, a_user_exclusion, a_world, an_endpoint, an_ipam
from tests.runtime.helpers import until

ONE_A_DAY = 1e-5
TWO_PREFIXES = "10.9.0.0/29,10.9.1.0/29"


async def shows(ipam: Ipam, name: str, number: float) -> None:
    """A metric gets to this number."""
    registry = ipam._bus.metrics.registry
    await until(lambda: registry.get_sample_value(name) == number)


async def test_a_swallowed_connection_gets_other_addresses_and_says_why(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url) as ipam:
        await world.want(an_endpoint(prefix="10.9.0.0/24"), a_request("one"), a_request("two"))
        one, two = await world.granted("one"), await world.granted("two")

        await world.want(a_user_exclusion("10.9.0.2/32"))
        after = await world.until(lambda: (c := world.grants.items[one.key]) != one and c)

        assert after.client.addresses == ("10.9.0.4/32",)
        assert after.revision == one.revision + 1
        assert "10.9.0.2/32" in after.readdressed
        assert "the user's list" in after.readdressed
        assert world.grants.items[two.key] == two
        await shows(ipam, "nsm_ipam_readdressed_total", 1)


async def test_one_at_a_time_in_a_steady_order_and_nobody_else_waits(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url, readdress_per_second=ONE_A_DAY):
        pods = [f"pod-{number}" for number in range(5)]
        await world.want(an_endpoint(prefix="10.9.0.0/24"), *map(a_request, reversed(pods)))
        before = {pod: await world.granted(pod) for pod in pods}

        await world.want(a_user_exclusion("10.9.0.0/28"))
        first = before["pod-0"]
        await world.until(lambda: world.grants.items[first.key] != first)
        await world.want(a_request("new"))
        assert (await world.granted("new")).client.addresses == ("10.9.0.18/32",)
        rest = [before[pod] for pod in pods[1:]]
        assert [world.grants.items[c.key] for c in rest] == rest


async def test_without_a_replacement_it_stands_is_counted_and_goes_when_there_is_room(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url) as ipam:
        await world.want(an_endpoint(prefix="10.9.0.0/29"), a_request("one"))
        one = await world.granted("one")
        await world.want(a_user_exclusion("10.9.0.0/24"))
        await world.pool(lambda pool: pool.families[0].free == 0)
        await world.want(a_request("two"))
        assert (await world.refused("two")).reason == "PrefixCollision"
        stands = await world.until(lambda: (c := world.grants.items[one.key]).covered and c)
        assert "10.9.0.2 and 10.9.0.1 came to overlap 10.9.0.0/24" in stands.covered
        assert stands == replace(one, revision=stands.revision, covered=stands.covered)
        await shows(ipam, "nsm_ipam_unaddressable", 1)

        await world.want(an_endpoint(prefix="10.9.0.0/29,10.8.0.0/29"))
        after = await world.until(lambda: (c := world.grants.items[one.key]) != stands and c)
        assert after.covered == ""
        others = {after.client.addresses, (await world.granted("two")).client.addresses}
        assert others == {("10.8.0.2/32",), ("10.8.0.3/32",)}
        await shows(ipam, "nsm_ipam_unaddressable", 0)


async def test_a_prefix_that_goes_again_leaves_what_stands(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url) as ipam:
        await world.want(an_endpoint(prefix="10.9.0.0/29"), a_request("one"))
        one = await world.granted("one")
        await world.want(a_user_exclusion("10.9.0.0/24"))
        await world.pool(lambda pool: pool.families[0].free == 0)
        await world.want(a_user_exclusion())
        await world.want(a_request("two"))
        await world.granted("two")

        await shows(ipam, "nsm_ipam_unaddressable", 0)
        stands = await world.until(lambda: not (c := world.grants.items[one.key]).covered and c)
        assert stands == replace(one, revision=stands.revision)


async def test_a_prefix_seen_on_a_node_touches_nothing_that_stands(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url) as ipam:
        await world.want(an_endpoint(prefix="10.9.0.0/24"), a_request("one"))
        one = await world.granted("one")
        await world.bus.publish(state.SeenPrefixes(node="node1", prefixes=("10.9.0.0/28",)))
        await world.pool(lambda pool: pool.families[0].free < 250)

        await world.want(a_request("two"))
        assert (await world.granted("two")).client.addresses == ("10.9.0.17/32",)
        assert world.grants.items[one.key] == one
        await shows(ipam, "nsm_ipam_readdressed_total", 0)


async def test_the_old_address_is_held_until_the_node_has_the_new_one(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(an_endpoint(prefix="10.9.0.0/29"), a_request("one"))
        one = await world.granted("one")
        await world.plumb(one)
        await world.want(a_user_exclusion("10.9.0.2/32"))
        after = await world.until(lambda: (c := world.grants.items[one.key]) != one and c)
        await world.want(a_user_exclusion())
        await world.want(*(a_request(f"more-{number}") for number in range(4)))
        await world.refused("more-3")

        await world.plumb(after)
        last = await world.granted("more-3")
        assert last.client.addresses == one.client.addresses
        assert msgspec.structs.replace(after, revision=0) != msgspec.structs.replace(
            one, revision=0
        )
