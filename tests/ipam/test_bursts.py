"""A thousand Pods at once, while the active writer is killed or stopped: real processes, a real bus."""

import os
import random
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from lab.nats import NatsServer
from schemas import intent
from schemas.subjects import PoolKey
from services._runtime.streams import GRANT
from tests.ipam.bursts import answering, says, taken_over, two_replicas
from tests.ipam.world import a_request, a_world, an_endpoint
from tests.runtime.clusters import Cluster

PODS = 1000
KILLS = int(os.environ.get("NSM_SOAK", "5"))

# A pool that serves exactly a thousand: 1,022 usable addresses, one of them the endpoint's, 21 left out.
EXACTLY = an_endpoint(
    prefix="172.20.0.0/22", exclude=("172.20.3.224/28", "172.20.3.240/30", "172.20.3.244/32")
)


def a_burst(number: int) -> list[intent.Request]:
    return [a_request(f"pod-{number}-{pod}") for pod in range(PODS)]


@pytest.mark.timeout(120 + 20 * KILLS)
async def test_a_writer_killed_in_a_burst_is_replaced_nothing_is_granted_twice_and_all_in_the_end(
    nats: NatsServer, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 30)
    chosen = random.Random(seed)
    async with (
        a_world(nats.url) as world,
        answering(world) as checker,
        two_replicas(world, nats.url, tmp_path) as ipams,
    ):
        await world.want(an_endpoint(prefix="172.16.0.0/20"))
        for number in range(KILLS):
            before, at = world.leader(), chosen.randrange(PODS)
            await world.want(*a_burst(number))
            await world.until(partial(checker.has, f"pod-{number}", at), 30)
            await ipams.kill(before.holder)
            started = time.monotonic()
            if number % 2:  # as a kubelet would: it takes its own lease back
                await ipams.start(before.holder)
            await world.drop(*(a_burst(number - 1) if number else ()))
            after = await taken_over(world, before)
            took = time.monotonic() - started
            sys.stdout.write(f"seed {seed}: killed after {at}, {after} leads after {took:.2f} s\n")
            if not number % 2:
                assert after != before.holder
                await ipams.start(before.holder)
            await world.until(partial(checker.has, f"pod-{number}", PODS), 60)
            assert checker.conflicts == []

        await world.drop(*a_burst(KILLS - 1))
        pool = await world.pool(lambda pool: pool.families[0].used + pool.families[0].held <= 1)
        assert pool.families[0].size == 4094
        await world.until(lambda: not checker.granted)
        assert checker.conflicts == []


async def test_a_pool_of_a_thousand_serves_a_thousand_and_the_next_one_when_one_is_freed(
    nats: NatsServer, tmp_path: Path
) -> None:
    async with (
        a_world(nats.url) as world,
        answering(world) as checker,
        two_replicas(world, nats.url, tmp_path),
    ):
        await world.want(EXACTLY)
        requests = [*a_burst(0), a_request("one-more")]
        await world.want(*requests)
        refusal = await world.refused("one-more")
        await world.until(lambda: len(checker.granted) == PODS, 60)

        assert refusal.reason == "PoolExhausted"
        assert "1001 of 1001" in refusal.message  # a thousand clients and the endpoint
        await world.drop(requests[500])
        await world.granted("one-more")
        assert len(checker.granted) == PODS
        assert checker.conflicts == []
        assert PoolKey("default", "vpn") in world.grants.items


@pytest.mark.parametrize("servers", [1, 3])
async def test_a_stopped_writer_that_wakes_up_in_a_burst_writes_nothing(
    servers: int, nats: NatsServer, tmp_path: Path
) -> None:
    cluster = Cluster(tmp_path) if servers == 3 else None
    url = ",".join(cluster.urls) if cluster is not None else nats.url
    try:
        async with (
            a_world(url, replicas=servers) as world,
            answering(world) as checker,
            two_replicas(world, url, tmp_path, replicas=servers) as ipams,
        ):
            await world.want(an_endpoint(prefix="172.16.0.0/20"))
            await world.want(*a_burst(0))
            await world.until(partial(checker.has, "pod-0", 100), 30)
            before = world.leader()
            ipams.pause("ipam-0")
            await world.want(*a_burst(1))  # lies in its socket when it wakes up
            assert await taken_over(world, before) == "ipam-1"
            await world.until(lambda: len(checker.granted) == 2 * PODS, 60)
            await world.pool(lambda pool: pool.families[0].used == 2 * PODS + 1)
            await world.until(lambda: world.leader().complete)  # nothing is left to be said
            last = (await world.bus.place(GRANT)).last_sequence

            ipams.resume("ipam-0")
            await says(ipams, "ipam-0", "no longer leading")
            await says(ipams, "ipam-0", "standing by")
            assert (await world.bus.place(GRANT)).last_sequence == last
            assert world.leader().holder == "ipam-1"
            assert checker.conflicts == []
    finally:
        if cluster is not None:
            cluster.stop()
