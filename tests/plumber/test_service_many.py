"""Hundreds of connections of one node, all with one endpoint: made, adopted by the next plumber, removed.

NSM_CONNECTIONS says how many; a soak has three thousand in one endpoint's network.
"""

import asyncio
import os
from collections.abc import Callable, Iterator

import msgspec
import pytest

from schemas.grant import Connection
from schemas.state import Status
from schemas.subjects import StatusKey
from services._node import links
from tests.node.sandboxes import Pod
from tests.plumber.grants import NODE, a_grant
from tests.plumber.world import World

CONNECTIONS = int(os.environ.get("NSM_CONNECTIONS", "300"))
CLIENTS = max(1, CONNECTIONS // 30)
SECONDS = 30 + CONNECTIONS / 10


def grants() -> Iterator[Connection]:
    for number in range(CONNECTIONS):
        high, low = divmod(number, 250)
        peer = f"172.19.0.{1 + number // CLIENTS}/32"  # another one on each link of a client
        grant = a_grant(
            (f"172.18.{high}.{low + 2}/32", peer, f"10.{60 + high}.{low}.0/24"),
            client=f"client{number % CLIENTS}",
        )
        client = msgspec.structs.replace(
            grant.client, interface=f"nsm{number}", mac=f"02:00:00:01:{high:02x}:{low:02x}"
        )
        server = msgspec.structs.replace(
            grant.server, interface=f"nse-{number}", mac=f"02:00:00:02:{high:02x}:{low:02x}"
        )
        yield msgspec.structs.replace(grant, client=client, server=server)


def indexes(pod: Pod) -> dict[str, int]:
    with links.Netlink(pod.netns) as netlink:
        return {each.name: each.index for each in netlink.links() if each.name != "lo"}


async def until_ready(world: World, keys: set[StatusKey]) -> None:
    def ready(status: Status | None) -> bool:
        return status is not None and status.client is not None and status.client.state == "ready"

    async with asyncio.timeout(SECONDS):
        while not all(ready(world.status(key)) for key in keys):
            await asyncio.sleep(0.05)


@pytest.mark.timeout(60 + 3 * SECONDS)
async def test_hundreds_of_connections_of_one_endpoint_are_made_adopted_and_removed(
    world: World, pods: Callable[..., Pod]
) -> None:
    server = pods("server")
    clients = [pods(f"client{number}") for number in range(CLIENTS)]
    for pod in (server, *clients):
        pod.attach(world.results)
    granted = list(grants())
    keys = {StatusKey(NODE, "default", g.client.pod.name, g.client.interface) for g in granted}

    async with world.plumber(sweep_seconds=1), asyncio.TaskGroup() as group:
        for grant in granted:
            group.create_task(world.grant(grant))
        await until_ready(world, keys)
    made = indexes(server)
    assert len(made) == CONNECTIONS

    async with world.plumber(sweep_seconds=1) as plumber:
        async with asyncio.timeout(SECONDS):
            await plumber.adopted.wait()
        assert indexes(server) == made
        async with asyncio.TaskGroup() as group:
            for grant in granted:
                group.create_task(world.release(grant))
        async with asyncio.timeout(SECONDS):
            while indexes(server):
                await asyncio.sleep(0.05)
    assert not any(indexes(client) for client in clients)
