"""Whose tunnel is silent moves, after a moment; whoever is heard again stays."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec.structs import replace

from lab.nats import NatsServer
from schemas import state
from schemas.subjects import ConnectionKey
from services.ipam.service import silence
from services.ipam.service.agenda import Agenda
from services.ipam.service.silence import Silence
from tests.ipam.builders import a_request, a_state, an_endpoint, facts, granted, settled
from tests.ipam.world import World, a_world, an_ipam, status_of
from tests.ipam.world import a_request as a_wish
from tests.ipam.world import an_endpoint as an_offer

NODES = ("node1", "node2", "node3")


def said(connection, *, kind="failed", reason="PeerSilent"):
    status = status_of(connection)
    assert status.client is not None
    return replace(status, client=replace(status.client, state=kind, reason=reason))


class Scene:
    """A client on node1 with a tunnel to node2, and what is heard of it."""

    def __init__(self) -> None:
        self.state = a_state(an_endpoint("a", node="node2"), nodes=NODES)
        for node in NODES:
            self.state.put_facts(facts(node))
        self.agenda = Agenda()
        self.silence = Silence(self.state, self.agenda)
        self.connection = granted(self.state, a_request())
        self.key = a_request().key

    def hear(self, **fields: Any) -> None:
        status = said(self.connection, **fields)
        self.silence.note(status.key, status)

    async def due(self) -> None:
        async with asyncio.timeout(30):
            await self.agenda.wake.wait()

    async def outlast(self) -> None:
        """Until what was waited for has run out: a loop's timers run in the order in which they are due."""
        await asyncio.sleep(silence.PATIENCE_SECONDS)


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(silence, "PATIENCE_SECONDS", 0.02)
    scene = Scene()
    yield scene
    scene.silence.close()


async def test_silence_is_avoided_at_once_and_moves_clients_after_a_moment(scene: Scene) -> None:
    scene.hear()
    assert scene.state.paths.unheard_from("node1") == {"node2"}
    assert not scene.state.paths.lost
    await scene.due()
    assert scene.state.paths.lost == {scene.key}


@pytest.mark.parametrize("kind", ["ready", "pending"])
async def test_who_is_heard_again_in_that_moment_does_not_move(scene: Scene, kind: str) -> None:
    scene.hear()
    scene.hear(kind=kind, reason="")
    await scene.outlast()
    assert not scene.state.paths.lost
    assert not scene.agenda
    assert bool(scene.state.paths.unheard_from("node1")) == (kind == "pending")


async def test_what_was_lost_and_is_heard_again_is_not_lost_any_more(scene: Scene) -> None:
    scene.hear()
    await scene.due()
    scene.hear(kind="ready", reason="")
    assert not scene.state.paths.lost


async def test_the_word_on_an_older_tunnel_or_of_the_other_node_moves_nobody(scene: Scene) -> None:
    old = scene.connection
    edited = an_endpoint("a", node="node2", prefixes=("172.16.9.0/24",))
    scene.state.put_endpoint(edited.key, edited)
    assert settled(scene.state, a_request()).granted is not None
    status = said(old)
    scene.silence.note(status.key, status)
    assert not scene.state.paths.unheard_from("node1")

    theirs = replace(status, node="node2", client=None)
    scene.silence.note(replace(status.key, node="node2"), theirs)
    assert not scene.state.paths.unheard_from("node1")


async def test_a_silent_path_is_not_avoided_for_ever(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "AVOIDED_SECONDS", 0.02)
    scene.hear()
    async with asyncio.timeout(30):
        while scene.state.paths.unheard_from("node1"):
            await asyncio.sleep(0.01)


async def connected(world: World, pod: str) -> Any:
    key = ConnectionKey("node1", "default", pod, "nsm-1")
    return await world.until(lambda: world.grants.items.get(key))


async def test_a_client_moves_away_from_a_silent_node_and_stays_where_it_is(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silence, "PATIENCE_SECONDS", 0.1)
    async with (
        a_world(nats.url, nodes=NODES, reports=False) as world,
        an_ipam(nats.url),
    ):
        for number, node in enumerate(NODES, start=1):
            await world.report(
                node, underlay_address=f"192.0.2.{number}", mechanisms=("veth", "vxlan")
            )
        await world.want(an_offer("vpn-1", node="node2"), a_wish("one"))
        first = await connected(world, "one")
        await world.plumb(first)
        await world.want(an_offer("vpn-2", node="node3"))
        status: state.Status = said(first)
        await world.bus.publish(status)
        moved = await world.until(
            lambda: (c := world.grants.items[first.key]).server.pod.node == "node3" and c
        )
        assert moved.client.addresses == first.client.addresses

        await world.plumb(moved)
        await world.want(a_wish("two"))
        assert (await connected(world, "two")).server.pod.node == "node3"
        assert world.grants.items[first.key] == moved
