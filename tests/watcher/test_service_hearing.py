"""Nodes that are not Ready and silent, over a real bus: both have to be so before a Pod says that nobody can tell."""

import asyncio

import pytest
from structlog.testing import capture_logs

from lab.api.kinds import NODES, PODS
from schemas.live import Alive
from schemas.subjects import AliveKey
from services._runtime.bus import Bus
from services._runtime.streams import LIVE
from services.watcher import model
from services.watcher.core.intent import Intent
from services.watcher.service import hearing
from services.watcher.service.hearing import Hearing
from tests.watcher.builders import a_node, a_pod, read
from tests.watcher.conftest import a_watcher
from tests.watcher.statuses import condition, connect, events, is_, shown, until_event

LOST = is_("Unknown", "NodeLost")


class Ears:
    """A Hearing that looks when it is told to, at the time that it is told."""

    def __init__(self, bus, *, nodes=("node1",), ready="Unknown"):
        self.now = 1000.0
        self.turned: list[model.Ref] = []
        self.intent = Intent(system_namespace="nsm-system")
        for name in nodes:
            self.node(name, ready)
            pod = read(model.Pod, a_pod(f"on-{name}", asks="svc/nsm-1", node=name))
            self.intent.put(model.Pod, pod.ref, pod)
        self.own = Hearing(bus, self.intent, on_change=self.turned.extend, clock=lambda: self.now)

    def node(self, name, ready):
        self.intent.put(model.Node, ("", name), read(model.Node, a_node(name, ready=ready)))

    async def look(self, *, after=0.0):
        self.now += after
        await self.own._look()
        return self.own.heard("node1")


async def test_silence_counts_after_a_while_and_a_heartbeat_at_once(bus):
    ears = Ears(bus)
    assert [await ears.look(after=each) for each in (0, 19.9, 0.2, 5)] == [None, None, False, False]
    assert ears.turned == [("default", "on-node1")]
    await bus.publish(Alive(node="node1"), ttl=10)
    assert await ears.look(after=5) is True
    assert ears.turned == [("default", "on-node1")] * 2


async def test_a_heartbeat_between_begins_the_wait_anew_and_ends_by_itself(bus):
    ears = Ears(bus)
    assert await ears.look() is None
    await bus.publish(Alive(node="node1"), ttl=1)
    assert await ears.look(after=15) is True
    async with asyncio.timeout(30):
        while (await bus.holds(LIVE, AliveKey))[1]:
            await asyncio.sleep(0.05)
    assert [await ears.look(after=each) for each in (1, 19, 2)] == [True, True, False]


@pytest.mark.parametrize("how", ["heard", "ready", "empty"])
async def test_a_lost_node_is_told_in_one_line_when_it_starts_and_one_when_it_ends(bus, how):
    ears = Ears(bus)
    with capture_logs() as logs:
        for each in (0, 21, 5):
            await ears.look(after=each)
        assert [(each["event"], each["nodes"]) for each in logs] == [
            ("nodes lost: not Ready, and silent", ["node1"])
        ]
        logs.clear()

        if how == "heard":
            await bus.publish(Alive(node="node1"), ttl=60)
        elif how == "ready":
            ears.node("node1", "True")
            ears.own.forget("node1")
        else:
            ears.intent.put(model.Pod, ("default", "on-node1"), None)
        for _ in range(2):
            await ears.look(after=5)
    assert [(each["event"], each["nodes"]) for each in logs] == [("nodes lost no more", ["node1"])]


async def test_of_nodes_that_are_ready_nobody_asks(bus, monkeypatch):
    async def never(*_):
        raise AssertionError("the bus was asked")

    monkeypatch.setattr(Bus, "holds", never)
    ears = Ears(bus, ready="True")
    assert await ears.look() is None
    assert await ears.look(after=60) is None


async def test_all_nodes_at_once_are_one_question(bus, monkeypatch):
    asked = []
    holds = Bus.holds

    async def counted(self, stream, kind):
        asked.append(stream)
        return await holds(self, stream, kind)

    monkeypatch.setattr(Bus, "holds", counted)
    nodes = [f"node{number}" for number in range(300)]
    ears = Ears(bus, nodes=nodes)
    for each in nodes[:100]:
        await bus.publish(Alive(node=each), ttl=60)
    await ears.look()
    await ears.look(after=21)
    assert asked == [LIVE, LIVE]
    assert {ears.own.heard(each) for each in nodes[:100]} == {True}
    assert {ears.own.heard(each) for each in nodes[100:]} == {False}


async def test_a_node_that_was_ready_in_between_is_to_be_proved_silent_anew(bus):
    ears = Ears(bus)
    await ears.look()
    assert await ears.look(after=21) is False
    ears.node("node1", "True")
    ears.own.forget("node1")
    ears.node("node1", "Unknown")
    assert [await ears.look(after=each) for each in (1, 10, 11)] == [None, None, False]


async def test_after_a_cut_heartbeats_have_time_to_come_back(nats, bus):
    ears = Ears(bus)
    await ears.look()
    reconnects = bus.reconnects
    await nats.kill()
    await nats.start()
    async with asyncio.timeout(30):
        while bus.reconnects == reconnects:
            await asyncio.sleep(0.01)
    assert [await ears.look(after=each) for each in (30, 19, 2)] == [None, None, False]


async def test_without_the_stream_nothing_is_known(bus):
    ears = Ears(bus)
    await ears.look()
    await bus.api(f"STREAM.DELETE.{LIVE}")
    assert await ears.look(after=60) is None
    await bus.ensure_streams()
    assert [await ears.look(after=each) for each in (1, 19, 2)] == [None, None, False]


@pytest.fixture
def patience(monkeypatch):
    """Little of it; set by the function that this gives."""

    def of(seconds):
        monkeypatch.setattr(hearing, "_SILENT_SECONDS", seconds)

    monkeypatch.setattr(hearing, "_LOOK_SECONDS", 0.05)
    of(0.2)
    return of


def set_node(cluster, ready):
    status = {"status": {"conditions": [{"type": "Ready", "status": ready}]}}
    cluster.store.patch(NODES, "", "node1", status, form="strategic", status=True)


async def test_a_pod_of_a_lost_node_says_unknown_and_comes_back_with_its_plumber(
    cluster, nats, reader, ipam, patience
):
    seen = []
    cluster.store.create(NODES, a_node("node1"))
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam)
        await until_event(cluster, "Connected")
        before = set(events(cluster))
        cluster.store.watch(PODS, lambda _, pod: seen.append(condition(pod)))
        set_node(cluster, "Unknown")
        lost = await cluster.until(PODS, "client", LOST)
        await ipam.bus.publish(Alive(node="node1"), ttl=30)
        await cluster.until(PODS, "client", is_("True", "Connected"))
    assert set(dict.fromkeys(seen)) == {("True", "Connected"), ("Unknown", "NodeLost")}
    assert [each["state"] for each in shown(lost)] == ["ready"]
    assert set(events(cluster)) == before


async def test_the_next_leader_leaves_a_lost_pod_as_it_is_and_a_ready_node_brings_it_back(
    cluster, nats, reader, ipam, patience
):
    cluster.store.create(NODES, a_node("node1"))
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam)
        set_node(cluster, "False")
        await cluster.until(PODS, "client", LOST)
    patience(3600)  # it never gets to know
    before = cluster.store.get(PODS, "default", "client")["metadata"]["resourceVersion"]
    cluster.store.create(PODS, a_pod("marker", asks=":"))
    async with a_watcher(cluster, nats, holder="two"):
        await cluster.until(PODS, "marker", is_("False", "MalformedAnnotation"))
        now = cluster.store.get(PODS, "default", "client")["metadata"]["resourceVersion"]
        assert now == before
        set_node(cluster, "True")
        await cluster.until(PODS, "client", is_("True", "Connected"))


async def test_silent_plumbers_alone_change_nothing(cluster, nats, reader, ipam, patience):
    cluster.store.create(NODES, a_node("node1"))
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats) as watcher:
        await connect(cluster, reader, ipam)
        await nats.kill()
        await nats.start()
        cluster.store.create(PODS, a_pod("marker", asks=":"))
        await cluster.until(PODS, "marker", is_("False", "MalformedAnnotation"))
        assert watcher._hearing.heard("node1") is None
    pod = cluster.store.get(PODS, "default", "client")
    assert condition(pod) == ("True", "Connected")
