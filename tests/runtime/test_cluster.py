"""Three servers, three replicas: the same promises while one of them dies."""

import asyncio
import contextlib
import itertools
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from schemas.live import Alive
from schemas.subjects import LeaderKey
from services._runtime import streams
from services._runtime.auditing import AGAIN_SECONDS
from services._runtime.bus import Bus
from services._runtime.errors import Unavailable
from services._runtime.leading import Deposed, Term, write_guard
from services._runtime.mirror import Mirror
from tests.builders import a_connection, a_leader, a_request, a_status
from tests.runtime.clusters import Cluster
from tests.runtime.helpers import mirroring, running, until
from tests.runtime.test_mirror import NODE_FILTERS


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()


async def leader_of(bus: Bus, stream: str) -> int:
    info = await bus.api(f"STREAM.INFO.{stream}")
    return int(info["cluster"]["leader"].removeprefix("n"))


async def test_a_replicated_bus_survives_its_leader_and_keeps_the_fence(cluster: Cluster) -> None:
    bus = await Bus.connect(",".join(cluster.urls), name="ipam", replicas=3)
    async with asyncio.timeout(30):
        await bus.ensure_streams()
    async with mirroring(bus, streams.GRANT) as (own, changes):
        guard = a_leader(holder="old", incarnations=dict(bus.incarnations))
        term = Term(bus, guard, await write_guard(bus, guard, after=0), own)
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(term.publish(a_connection(f"p{number}")))

        async def write() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(50, 100):
                    group.create_task(term.publish(a_connection(f"p{number}")))

        async with running(write()) as (writing,):
            cluster.kill(await leader_of(bus, streams.GRANT))
            async with asyncio.timeout(60):
                await writing
        await until(lambda: len([k for k, _ in changes.all if k.kind == "connection"]) == 100, 20)
        newer = a_leader(holder="new", incarnations=dict(bus.incarnations))
        await write_guard(bus, newer, after=term.sequence)
        with pytest.raises(Deposed):
            await term.publish(a_connection("too-late"))
        assert (await bus.read(LeaderKey("ipam")) or [None])[0] == newer
    await bus.close()


async def test_every_stream_can_be_written_when_one_of_two_dead_servers_is_back(
    cluster: Cluster,
) -> None:
    bus = await Bus.connect(",".join(cluster.urls), name="ipam", replicas=3)
    async with asyncio.timeout(60):
        await bus.ensure_streams()
    for number in range(3):
        await cluster.healthy(number)
    for number in (1, 2):
        cluster.kill(number)
    cluster.start(1)
    async with asyncio.timeout(90):
        for message in (a_request(), a_connection(), a_status(), Alive(node="node1")):
            await bus.publish(message)
    await bus.close()


async def test_an_owner_of_fewer_copies_takes_none_away(cluster: Cluster) -> None:
    """From one server to three: for the length of a rollout there are owners of both settings."""
    urls = ",".join(cluster.urls)
    old, new = [await Bus.connect(urls, name="ipam", replicas=copies) for copies in (1, 3)]

    async def copies() -> set[int]:
        told = [await old.api(f"STREAM.INFO.{config['name']}") for config in streams.configs(1)]
        return {each["config"]["num_replicas"] for each in told}

    async with asyncio.timeout(60):
        await old.ensure_streams()
        assert await copies() == {1}
        await new.ensure_streams()
        assert await copies() == {3}
        with capture_logs() as logs:
            for _ in range(2):
                await old.ensure_streams()
        assert await copies() == {3}
    (told,) = [each for each in logs if "never shrink" in each["event"]]  # not of every stream
    assert (told["copies"], told["setting"]) == (3, 1)
    await old.close()
    await new.close()


@pytest.mark.parametrize("owner", [True, False], ids=["owner", "node"])
async def test_a_replica_that_is_still_catching_up_takes_nothing_away(
    cluster: Cluster, owner: bool
) -> None:
    """The server places consumers beside it too, and snapshots there are short or empty."""
    urls = ",".join(cluster.urls)
    bus = await Bus.connect(urls, name="ipam", replicas=3)
    async with asyncio.timeout(30):
        await bus.ensure_streams()
    large = "x" * 100_000
    for number in range(200):
        await bus.publish(a_connection(f"p{number}", network_service=large))
    guard = a_leader(incarnations=dict(bus.incarnations), complete=True)
    last = await write_guard(bus, guard, after=0)
    keys = {a_connection(f"p{number}").key for number in range(200)}
    wiped = (await leader_of(bus, streams.GRANT) + 1) % 3
    cluster.kill(wiped)
    cluster.wipe(wiped)
    cluster.start(wiped)

    async def look(number: int) -> None:
        name = "ipam" if owner else f"plumber-node{number}"
        reader = await Bus.connect(urls, name=name, replicas=3)
        if owner:
            await reader.ensure_streams()
        filters = ["nsm.>"] if owner else NODE_FILTERS
        async with mirroring(reader, streams.GRANT, filters, patience_seconds=60) as (mirror, _):
            missing = keys - mirror.items.keys()
            if owner:
                assert not missing
                assert mirror.sequence_of(guard.key) == last
            assert not [key for key in missing if mirror.complete(key)]
            await until(lambda: keys <= mirror.items.keys(), 60)
        await reader.close()

    for batch in range(4):
        async with asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(look(10 * batch + number))
    await bus.close()


async def test_servers_that_die_and_come_back_make_no_stream_short(cluster: Cluster) -> None:
    """Two counts in a row would end a term: a new leader catches up in less time than lies between them."""
    bus = await Bus.connect(",".join(cluster.urls), name="ipam", replicas=3)
    async with asyncio.timeout(30):
        await bus.ensure_streams()
    counts: list[bool] = []
    short_since: list[float] = []  # of the counts in a row that are short

    async def write() -> None:
        for number in itertools.count():
            connection = a_connection(f"p{number % 50}", revision=number)
            await (bus.bury(connection.key) if number % 5 == 0 else bus.publish(connection))

    async def count(mirror: Mirror) -> None:
        while True:
            with contextlib.suppress(Unavailable):
                counts.append(await mirror.is_short())
                short_since[:] = [*short_since, time.monotonic()] if counts[-1] else []
                assert not short_since or short_since[-1] < short_since[0] + AGAIN_SECONDS
            await asyncio.sleep(0.05)

    async with (
        mirroring(bus, streams.GRANT, patience_seconds=60) as (mirror, _),
        running(write(), count(mirror)),
    ):
        for _ in range(2):
            await until(lambda: len(counts) > 5, 60)
            victim = await leader_of(bus, streams.GRANT)
            cluster.kill(victim)
            counts.clear()
            await until(lambda: len(counts) > 10, 60)
            cluster.wipe(victim)
            cluster.start(victim)
            await cluster.healthy(victim)  # before, the next death would be of the majority
            counts.clear()
            await until(lambda: len(counts) > 40 and not counts[-1], 60)
    await bus.close()
