"""The end of the process under load: what is asked is answered, by us or by the cluster's DNS."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.dns import networks
from tests.dns.networks import DNS_V4, Cluster, serving
from tests.dns.pressure import Pressure, knows_all
from tests.dns.test_adapters import tables
from tests.dns.test_service import ask, process
from tests.dns.world import SERVER, World, a_grant, zone
from tests.node.sandboxes import Pod

OURS = {"nsm_dns"}


@pytest.fixture
def client(pods: Callable[[str], Pod], world: World) -> Iterator[Pod]:
    pod, server = pods("client"), pods("server")
    networks.join(pod, "nsm0", server, ("172.16.1.2", SERVER))
    pod.attach(world.results)
    with serving(server.netns, (SERVER,), zone({"host.corp.example": "172.16.1.77"})):
        yield pod


@pytest.fixture
def cluster_dns(cluster: Cluster) -> Iterator[object]:
    with serving(cluster.netns, (DNS_V4,), knows_all) as asked:
        yield asked


async def until_captured(world: World, client: Pod) -> None:
    await world.until(lambda: tables(client) == OURS)


async def test_a_restart_loses_no_query(world, client, cluster_dns) -> None:
    await world.grant(a_grant())
    with process(world, world.nats) as first:
        await until_captured(world, client)
        with Pressure(client.netns, rate=300) as pressure:
            await asyncio.sleep(0.5)
            first.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(first.wait, 15) == 0
            with process(world, world.nats):
                await until_captured(world, client)
                await asyncio.sleep(0.5)
                pressure.stop()

    assert pressure.sent > 300
    assert pressure.lost == []


async def test_after_a_kill_the_next_queries_are_the_clusters_and_a_new_process_takes_over(
    world, client, cluster_dns
) -> None:
    await world.grant(a_grant())
    with process(world, world.nats) as first:
        await until_captured(world, client)
        with Pressure(client.netns) as pressure:
            await asyncio.sleep(0.5)
            first.kill()
            killed = time.monotonic()
            first.wait()
            await asyncio.sleep(1)
            with process(world, world.nats):
                await until_captured(world, client)
                await asyncio.sleep(0.5)
                pressure.stop()
                assert await ask(client, "host.corp.example") == "172.16.1.77"

    assert pressure.sent > 1000
    assert [lost for lost in pressure.lost if not -3 < lost.at - killed < 0.5] == []


async def test_a_process_that_hangs_costs_four_seconds_and_captures_again_when_it_goes_on(
    world, client, cluster_dns
) -> None:
    await world.grant(a_grant())
    with process(world, world.nats) as first:
        await until_captured(world, client)
        with Pressure(client.netns) as pressure:
            await asyncio.sleep(0.5)
            stopped = time.monotonic()
            first.send_signal(signal.SIGSTOP)
            await asyncio.sleep(5.5)
            first.send_signal(signal.SIGCONT)
            await asyncio.sleep(1.5)
            pressure.stop()
            async with asyncio.timeout(30):
                while await ask(client, "host.corp.example") != "172.16.1.77":
                    pass

    # What waited in our sockets while the process hung is answered when it goes on: too late, perhaps.
    assert [lost for lost in pressure.lost if not -3 < lost.at - stopped < 4.5] == []
