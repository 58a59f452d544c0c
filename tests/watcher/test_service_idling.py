"""Endpoints without Pods: warned of where that lasts, and never for what is on its way."""

import asyncio

import pytest

from lab.api.kinds import NETWORK_SERVICE_ENDPOINTS, NODES, PODS
from schemas.grant import Refusal
from services.watcher import model
from services.watcher.core.intent import Intent
from services.watcher.service import idling
from services.watcher.service.idling import Idling
from tests.runtime.helpers import running
from tests.watcher.builders import a_node, a_pod, an_endpoint, read
from tests.watcher.conftest import a_watcher
from tests.watcher.statuses import NSM1, condition, events, message, until_event

ENDPOINT = read(model.NetworkServiceEndpoint, an_endpoint())
SERVER = read(model.Pod, a_pod("vpn-0", labels={"app": "vpn"}))
HOURS = 10_000.0


class Heard:
    """An announcer that keeps what it is told."""

    def __init__(self):
        self.said: asyncio.Queue[tuple[str, str, bool]] = asyncio.Queue()
        self.dropped = 0
        self.drops = 0  # the first so many are not taken

    def say(self, about, what, *, again=True):
        if self.dropped < self.drops:
            self.dropped += 1
            return False
        self.said.put_nowait((about.name, what.reason, again))
        return True

    async def next(self):
        async with asyncio.timeout(60):
            return await self.said.get()


@pytest.fixture
def heard():
    return Heard()


@pytest.fixture
def intent():
    found = Intent(system_namespace="nsm-system")
    found.put(model.NetworkServiceEndpoint, ENDPOINT.ref, ENDPOINT)
    return found


@pytest.fixture
def idle(intent, heard):
    return Idling(intent=intent, announcer=heard)


def put(intent, idle, pod, *, there=True):
    idle.note(intent.put(model.Pod, pod.ref, pod if there else None).idle)


async def test_an_endpoint_without_pods_is_told_once_as_long_as_it_lasts(
    monkeypatch, intent, idle, heard
):
    monkeypatch.setattr(idling, "_GRACE_SECONDS", 0.0)
    async with running(idle.run()):
        # A predecessor may have told it already.
        assert await heard.next() == ("vpn", "NoEndpoint", False)
        idle.note([ENDPOINT.ref])
        put(intent, idle, SERVER)
        put(intent, idle, SERVER, there=False)
        assert await heard.next() == ("vpn", "NoEndpoint", True)
        assert heard.said.empty()


async def test_what_the_announcer_did_not_take_is_told_later(monkeypatch, intent, idle, heard):
    monkeypatch.setattr(idling, "_GRACE_SECONDS", 0.0)
    heard.drops = 2
    async with running(idle.run()):
        assert await heard.next() == ("vpn", "NoEndpoint", False)
        assert heard.dropped == 2
        idle.note([ENDPOINT.ref])
        put(intent, idle, SERVER)
        assert not idle._timers
        assert heard.said.empty()


async def test_pods_that_come_meanwhile_or_cannot_serve_are_no_such_news(
    monkeypatch, intent, idle, heard
):
    monkeypatch.setattr(idling, "_GRACE_SECONDS", HOURS)
    of_the_node = read(model.Pod, a_pod("vpn-1", labels={"app": "vpn"}, host_network=True))
    async with running(idle.run()):
        await asyncio.sleep(0)
        for pod in (SERVER, of_the_node):
            assert list(idle._timers) == [ENDPOINT.ref]
            put(intent, idle, pod)
            assert not idle._timers
            put(intent, idle, pod, there=False)
        idle.note(intent.put(model.NetworkServiceEndpoint, ENDPOINT.ref, None).idle)
        assert not idle._timers


async def test_who_does_not_lead_tells_nothing(monkeypatch, intent, idle, heard):
    monkeypatch.setattr(idling, "_GRACE_SECONDS", HOURS)
    idle.note([ENDPOINT.ref])
    async with running(idle.run()):
        await asyncio.sleep(0)
        timers = [*idle._timers.values()]
        assert len(timers) == 1
    assert timers[0].cancelled()
    idle.note([ENDPOINT.ref])
    assert idle._timers is None


async def test_a_selector_that_matches_nothing_is_told_on_the_endpoint_and_to_who_waits(
    cluster, nats, reader, ipam, monkeypatch
):
    monkeypatch.setattr(idling, "_GRACE_SECONDS", 0.01)
    store = cluster.store
    store.create(NODES, a_node("node1"))
    store.create(PODS, a_pod("vpn-0", labels={"app": "vpm"}))
    store.create(PODS, a_pod(asks="my-service/nsm-1"))
    told = "NetworkServiceEndpoint default/vpn is there, but its podSelector matches no Pod"

    def waits_for(words):
        return lambda pod: condition(pod) == ("False", "NoEndpoint") and words in message(pod)

    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(NSM1) is not None)
        pod = reader.get(NSM1).pod
        refusal = Refusal(
            namespace=pod.namespace,
            pod=pod.name,
            interface="nsm-1",
            uid=pod.uid,
            network_service="my-service",
            reason="NoEndpoint",
            message="no endpoint Pod offers it; create a NetworkServiceEndpoint",
        )
        await ipam.publish(refusal)
        await cluster.until(PODS, "client", waits_for("create a NetworkServiceEndpoint"))
        # ipam hears of no such endpoint, and says nothing new of it.
        store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
        await cluster.until(PODS, "client", waits_for(told))
        await until_event(cluster, "NoEndpoint", "vpn")
        assert events(cluster, "vpn")["NoEndpoint", "Warning"]["message"].startswith(told)
        store.create(PODS, a_pod("vpn-1", labels={"app": "vpn"}))
        await cluster.until(PODS, "client", waits_for("create a NetworkServiceEndpoint"))
        store.delete(PODS, "default", "vpn-1", grace_seconds=0)
        await cluster.until(PODS, "client", waits_for(told))
        store.delete(NETWORK_SERVICE_ENDPOINTS, "default", "vpn")
        await cluster.until(PODS, "client", waits_for("create a NetworkServiceEndpoint"))
