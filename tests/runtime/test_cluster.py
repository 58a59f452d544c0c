"""Three servers, three replicas: the same promises while one of them dies."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab import nats
from lab.nats import NatsServer
from schemas.subjects import LeaderKey
from services._runtime import streams
from services._runtime.bus import Bus
from services._runtime.leading import Deposed, Term, write_guard
from tests.builders import a_connection, a_leader
from tests.runtime.helpers import mirroring, running, until

CLUSTER = """
cluster {{ name: test, listen: "127.0.0.1:{port}", routes: [{routes}] }}
"""


class Cluster:
    """Three nats-servers that replicate each other's streams."""

    def __init__(self, directory: Path, ports: list[int]) -> None:
        self._ports = ports
        self._folders = [directory / f"n{number}" for number in range(3)]
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    @property
    def urls(self) -> list[str]:
        return [f"nats://127.0.0.1:{port}" for port in self._ports[:3]]

    def start(self, number: int) -> None:
        config = nats.write_config(
            self._folders[number], port=self._ports[number], name=f"n{number}"
        )
        routes = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in self._ports[3:])
        with config.open("a") as file:
            file.write(CLUSTER.format(port=self._ports[3 + number], routes=routes))
        with (self._folders[number] / "log").open("ab") as log:
            self.processes[number] = subprocess.Popen(
                nats.command(config), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, number: int) -> None:
        process = self.processes.pop(number)
        process.kill()
        process.wait()


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    servers = [NatsServer(tmp_path / f"port{number}") for number in range(6)]
    for server in servers:  # six free ports
        server.start()
    ports = [server.port for server in servers]
    for server in servers:
        server.stop()
    cluster = Cluster(tmp_path, ports)
    for number in range(3):
        cluster.start(number)
    yield cluster
    for number in list(cluster.processes):
        cluster.kill(number)


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
            started = time.monotonic()
            async with asyncio.timeout(45):
                await writing
            assert time.monotonic() - started < 30
        await until(lambda: len([k for k, _ in changes.all if k.kind == "connection"]) == 100, 20)
        newer = a_leader(holder="new", incarnations=dict(bus.incarnations))
        await write_guard(bus, newer, after=term.sequence)
        with pytest.raises(Deposed):
            await term.publish(a_connection("too-late"))
        assert (await bus.read(LeaderKey("ipam")) or [None])[0] == newer
    await bus.close()
