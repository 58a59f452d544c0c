"""Connected and disconnected a thousand times, nothing is left: no interface, rule, route, namespace or descriptor.

NSM_CYCLES says how many times; a soak has ten thousand.
"""

import asyncio
import gc
import os
import resource
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.subjects import StatusKey
from services._node import links
from services._node.links import Netlink
from services.plumber.service.figures import open_descriptors
from tests.node.sandboxes import Pod
from tests.plumber.grants import NODE, a_grant, a_pod
from tests.plumber.world import World

CYCLES = int(os.environ.get("NSM_CYCLES", "1000"))
CLIENTS = 20
GROWTH_KIB = 3000  # of an interpreter that worked for some seconds; a leak of 4 KiB per cycle shows


def grants_of(number: int, revision: int) -> Connection:
    name = f"client{number}"
    grant = a_grant(client=name, number=number, revision=revision)
    client = msgspec.structs.replace(
        grant.client, pod=a_pod(name), addresses=(f"172.16.1.{number + 1}/32",)
    )
    return msgspec.structs.replace(grant, client=client)


def contents(pod: Pod) -> tuple[set[str], int, int]:
    """Interfaces, routes and rules of a Pod's network."""
    with Netlink(pod.netns) as netlink:
        routes = [
            each
            for family in (2, 10)
            for each in netlink.dump(links.route(links.GETROUTE, family=family, table=0))
        ]
        rules = [
            each
            for family in (2, 10)
            for each in netlink.dump(links.rule(links.GETRULE, family=family))
        ]
    return pod.interfaces(), len(routes), len(rules)


def memory_kib() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


async def cycle(world: World, revision: int) -> None:
    """Every client is connected, then every one disconnected, and all of it confirmed."""
    grants = [grants_of(number, revision) for number in range(1, CLIENTS + 1)]
    keys = {StatusKey(NODE, "default", grant.client.pod.name, "nsm0") for grant in grants}
    for grant in grants:
        await world.grant(grant)

    def ready() -> bool:
        found = [world.status(key) for key in keys]
        return all(
            s is not None
            and s.client is not None
            and (s.client.state, s.revision) == ("ready", revision)
            for s in found
        )

    await world.until(ready)
    world.told.clear()
    for grant in grants:
        await world.release(grant)
    await world.until(
        lambda: (
            {k for k, said in world.told if isinstance(said, Tombstone) and said.released} >= keys
        )
    )
    world.told.clear()


@pytest.mark.timeout(max(120, CYCLES))
async def test_a_thousand_cycles_leave_nothing(world: World, pods: Callable[..., Pod]) -> None:
    server = pods("server")
    clients = [pods(f"client{number}") for number in range(1, CLIENTS + 1)]
    for pod in (server, *clients):
        pod.attach(world.results)
    before = [contents(pod) for pod in (server, *clients)]
    async with world.plumber(sweep_seconds=1):
        for revision in range(1, 4):  # until caches are warm and pools are filled
            await cycle(world, revision)
        descriptors, memory = open_descriptors(), memory_kib()
        for revision in range(4, 4 + CYCLES // CLIENTS):
            await cycle(world, revision)

        async with asyncio.timeout(30):
            while open_descriptors() != descriptors:  # packet sockets are closed in the background
                await asyncio.sleep(0.05)
        assert memory_kib() - memory < GROWTH_KIB
    assert [contents(pod) for pod in (server, *clients)] == before
    assert not list(Path(world.settings.runtime_dir, "connections").iterdir())
