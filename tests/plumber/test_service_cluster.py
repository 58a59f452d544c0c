"""The cluster's prefixes are asked for only where a default route needs them, and never forgotten."""

import asyncio

import msgspec
import pytest

from schemas.grant import ClusterPrefixes, Connection
from schemas.intent import Route
from services._runtime.mirror import Mirror
from services.plumber.service import cluster
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, a_grant, with_client
from tests.plumber.test_adapters import answers
from tests.plumber.world import World

Pair = tuple[Pod, Pod]

NEVER = 3600.0
PREFIXES = ("10.96.0.0/16", "10.244.0.0/16")


def a_default(**fields: object) -> Connection:
    grant = a_grant(**fields)  # type: ignore[arg-type]
    return with_client(grant, routes=(Route(destination="0.0.0.0/0"),))


async def test_nobody_follows_them_without_a_default_route(
    world: World, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []

    def counted(*arguments: object, **options: object) -> object:
        opened.append(arguments)
        return Mirror(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(cluster, "Mirror", counted)
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant())
        await world.client_is("ready")
        assert opened == []

        await world.bus.publish(ClusterPrefixes(prefixes=PREFIXES))
        await world.grant(msgspec.structs.replace(a_default(), revision=2))
        await world.client_is("ready", revision=2)
        assert len(opened) == 1


async def test_a_default_route_waits_for_them_and_what_stands_stays(
    world: World, pair: Pair
) -> None:
    client, server = pair
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant())
        await world.client_is("ready")
        index = client.index("nsm0")
        await world.grant(msgspec.structs.replace(a_default(), revision=2))
        status = await world.client_is("pending", "ClusterPrefixesUnknown", revision=2)
        assert status.client is not None
        assert status.client.applied == a_grant()
        assert answers(client, server, V4[:2])

        await world.bus.publish(ClusterPrefixes(prefixes=PREFIXES))
        await world.client_is("ready", revision=2)

    assert client.index("nsm0") == index
    assert answers(client, server, V4[:2])


async def test_a_restart_does_not_wait_for_them(
    world: World, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = pair
    await world.bus.publish(ClusterPrefixes(prefixes=PREFIXES))
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_default())
        await world.client_is("ready", revision=2)
        index = client.index("nsm0")
    world.told.clear()

    async def silent(_self: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(cluster.Cluster, "run", silent)
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await plumber.adopted.wait()
        held = plumber._connections.held[a_default().key]
        assert held.cluster == PREFIXES
        await world.grant(msgspec.structs.replace(a_default(), revision=3))
        await world.client_is("ready", revision=3)

    assert client.index("nsm0") == index


def is_wanted_after(*grants: Connection) -> bool:
    followed = cluster.Cluster(None, on_change=lambda _keys: None)  # type: ignore[arg-type]
    for grant in grants:
        followed.note(grant.key, grant)
    return followed._wanted.is_set()


def test_the_last_default_route_ends_the_wish() -> None:
    assert is_wanted_after(a_default())
    assert is_wanted_after(a_default(), a_grant(client="other"))
    assert not is_wanted_after(a_grant())
    assert not is_wanted_after(a_default(), a_grant())
