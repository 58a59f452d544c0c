"""What ipam says beside grants: pools, all prefixes in use, and figures."""

import asyncio
from pathlib import Path

from lab.nats import NatsServer
from schemas import intent
from schemas.grant import Pool
from schemas.subjects import ClusterKey, PoolKey
from services._runtime.streams import GRANT
from tests.ipam.conftest import wipe
from tests.ipam.world import a_request, a_user_exclusion, a_world, an_endpoint, an_ipam
from tests.runtime.helpers import until

AUTOMATIC = an_endpoint("auto-1", "", name="auto")


async def test_all_prefixes_in_use_are_told_merged_and_again_only_when_they_changed(
    nats: NatsServer,
) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(a_user_exclusion("10.1.0.0/17", "10.1.128.0/17", "2001:db8::/64"))
        expected = ("10.1.0.0/16", "2001:db8::/64")
        await world.until(
            lambda: (t := world.grants.items.get(ClusterKey())) and t.prefixes == expected
        )
        sequence = world.grants.sequence_of(ClusterKey())

        await world.want(an_endpoint(), a_request("one"))
        await world.pool(lambda pool: pool.families[0].used == 2)
        assert world.grants.sequence_of(ClusterKey()) == sequence
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(a_request("two"))
        await world.granted("two")
        assert world.grants.sequence_of(ClusterKey()) == sequence


async def test_they_are_told_before_the_first_grant(nats: NatsServer) -> None:
    async with a_world(nats.url) as world:
        await world.want(a_user_exclusion("10.1.0.0/16"), an_endpoint(), a_request("one"))
        async with an_ipam(nats.url, pool_interval=3600.0):
            one = await world.granted("one")
            order = [key for key, _ in world.said]
            assert order.index(ClusterKey()) < order.index(one.key)


async def test_a_pool_says_what_it_collides_with(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(a_user_exclusion("172.16.1.128/25"), an_endpoint(), a_request("one"))
        pool = await world.pool(lambda pool: pool.families[0].excluded > 0)
        (collision,) = pool.collisions
        assert (collision.prefix, collision.overlaps) == ("172.16.1.0/24", "172.16.1.128/25")
        assert collision.used_by == "the user's list"


async def test_an_automatic_prefix_stays_the_same_over_restarts_and_over_a_wiped_bus(
    nats: NatsServer,
) -> None:
    key = PoolKey("default", "auto")
    async with a_world(nats.url) as world:
        async with an_ipam(nats.url):
            await world.want(AUTOMATIC, a_request("one", service="auto"))
            one = await world.granted("one")
            before = await world.pool(lambda pool: pool.automatic, "auto")
            await world.drop(a_request("one", service="auto"))
            await world.released(one)
            await world.unplumb(one)
            await world.pool(lambda pool: pool.families[0].used == 0, "auto")
        # carved now it would be another one: somebody declares what it has
        await world.want(an_endpoint("vpn-1", before.families[0].prefixes[0]))
        async with an_ipam(nats.url):
            await world.want(a_request("two", service="auto"))
            two = await world.granted("two")
            assert two.client.addresses == one.client.addresses

            world.leading.clear()
            wipe(nats)
            async with asyncio.timeout(20):
                await world.leading.wait()
                await world.grants.reached(1, incarnation=world.term.incarnations[GRANT])
            await world.want(AUTOMATIC, a_request("two", service="auto"))
            await world.report()
            await until(lambda: not world.grants.stale, 20)
            assert prefixes(world.grants.items[key]) == prefixes(before)
            assert world.grants.items[two.key] == two


def prefixes(pool: Pool) -> list[tuple[str, ...]]:
    return [family.prefixes for family in pool.families]


async def test_automatic_prefixes_that_are_off_leave_an_endpoint_without(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url, automatic_prefixes="off"):
        await world.want(AUTOMATIC, a_request("one", service="auto"))
        assert (await world.refused("one")).reason == "NoPrefixes"


async def test_figures_are_the_leaders_and_name_nobody(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url) as ipam:
        registry = ipam._bus.metrics.registry
        await world.want(an_endpoint(prefix="10.9.0.0/29"), a_request("one"))
        await world.want(a_request("two", service="nobody"))
        await world.granted("one")
        await world.refused("two")

        def value(name: str, **labels: str) -> float | None:
            return registry.get_sample_value(name, labels)

        def addresses(state: str) -> float | None:
            return value("nsm_ipam_addresses", family="4", state=state)

        await until(lambda: (addresses("used"), addresses("free")) == (2, 4))
        assert value("nsm_ipam_granted_total") == value("nsm_ipam_connections") == 1
        assert (
            value("nsm_ipam_refused_total", reason="NoEndpoint") == value("nsm_ipam_waiting") == 1
        )
        assert (value("nsm_ipam_decision_seconds_count") or 0) >= 2
        names = {m.name for m in registry.collect() if m.name.startswith("nsm_ipam")}
        text = Path("docs/reference/metrics.md").read_text()
        assert [name for name in sorted(names) if name not in text] == []


async def test_a_message_that_is_no_prefix_costs_the_others_nothing(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url):
        junk = intent.UsedPrefix(prefix="ten dot one", used_by="somebody")
        good = intent.UsedPrefix(prefix="172.16.1.0/25", used_by="somebody")
        await world.want(intent.PrefixesInUse(source="user", prefixes=(junk, good)))
        await world.want(an_endpoint(), a_request("one"))
        assert (await world.granted("one")).client.addresses == ("172.16.1.129/32",)


async def test_the_memory_of_an_automatic_prefix_outlives_a_bad_spec(nats: NatsServer) -> None:
    async with a_world(nats.url) as world, an_ipam(nats.url):
        await world.want(AUTOMATIC, a_request("one", service="auto"))
        before = await world.pool(lambda pool: pool.automatic, "auto")
        await world.want(an_endpoint("auto-1", "172.16.1.5/24", name="auto"))
        assert (await world.refused("one")).reason == "BadEndpoint"
        await world.want(an_endpoint("vpn-1"), a_request("two"))
        await world.pool(lambda pool: pool.families[0].used == 2)

        assert world.grants.items[before.key].automatic


async def test_who_waits_for_an_automatic_prefix_gets_one_that_somebody_gave_up(
    nats: NatsServer,
) -> None:
    late = an_endpoint("late-1", "", name="late")
    async with (
        a_world(nats.url) as world,
        an_ipam(nats.url, automatic_prefixes="100.112.0.0/30=30"),
    ):
        await world.want(AUTOMATIC, a_request("one", service="auto"))
        one = await world.granted("one")
        await world.pool(lambda pool: pool.automatic, "auto")
        await world.want(late, a_request("two", service="late"))
        refusal = await world.refused("two")
        assert refusal.reason == "NoPrefixes"
        pool = await world.pool(lambda pool: pool.trouble is not None, "late")
        assert "other endpoints" in pool.lacks[0].taken_by

        await world.drop(AUTOMATIC, a_request("one", service="auto"))
        await world.released(one)
        await world.unplumb(one)
        await world.granted("two")
        await world.pool(lambda pool: pool.trouble is None, "late")
