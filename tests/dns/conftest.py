import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from lab.nats import NatsServer
from services._node import netns
from services._runtime.bus import Bus
from tests.dns.networks import Cluster
from tests.dns.world import World
from tests.node.sandboxes import Pod, ensure_namespaces_allowed


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """The namespace of the cluster's DNS; every namespace of the test ends with it."""
    ensure_namespaces_allowed(tmp_path)
    yield Cluster(tmp_path)
    for path in tmp_path.glob("netns-*"):
        netns.delete(path)


@pytest.fixture
def pods(tmp_path: Path, cluster: Cluster) -> Callable[[str], Pod]:
    """Makes Pods with an eth0."""
    made: list[Pod] = []

    def make(name: str) -> Pod:
        pod = Pod(tmp_path, name, f"10.244.1.{len(made) + 2}")
        cluster.attach(pod)
        made.append(pod)
        return pod

    return make


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with NatsServer(tmp_path / "nats") as nats:
        bus = await Bus.connect(nats.url, name="test")
        made = World(tmp_path, nats, bus)
        await made.lead(complete=False)
        await made.lead(complete=True)
        try:
            async with asyncio.TaskGroup() as group:
                following = group.create_task(made.state.run())
                yield made
                following.cancel()
        finally:
            await bus.close()
