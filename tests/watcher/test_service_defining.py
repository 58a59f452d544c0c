"""Another mesh's definitions are told: log, metric, and on the objects; and nobody stays unconnected for it."""

import asyncio

from structlog.testing import capture_logs

from lab.api.definitions import shipped
from lab.api.kinds import DEFINITIONS, NETWORK_SERVICE_ENDPOINTS, NETWORK_SERVICES, NODES, PODS
from schemas.subjects import EndpointKey
from services.watcher.service import defining
from tests.watcher.builders import a_node, a_pod, an_endpoint, an_object
from tests.watcher.conftest import a_watcher
from tests.watcher.statuses import events, until_event


def foreign(cluster):
    """The endpoints lose their pools, the services have no status."""
    found = cluster.store.get(DEFINITIONS, "", NETWORK_SERVICE_ENDPOINTS.resource)
    spec = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del spec["x-kubernetes-preserve-unknown-fields"]
    del spec["properties"]["ipam"]
    cluster.store.update(DEFINITIONS, found)
    found = cluster.store.get(DEFINITIONS, "", NETWORK_SERVICES.resource)
    found["spec"]["versions"][0]["subresources"] = {}
    cluster.store.update(DEFINITIONS, found)


def ours(cluster):
    for each in shipped():
        found = cluster.store.get(DEFINITIONS, "", each["metadata"]["name"])
        cluster.store.update(DEFINITIONS, found | {"spec": each["spec"]})


def gauges(watcher):
    name = "nsm_watcher_foreign_definition"
    kinds = ("NetworkService", "NetworkServiceEndpoint")
    registry = watcher._bus.metrics.registry
    return [registry.get_sample_value(name, {"kind": kind}) for kind in kinds]


async def test_a_definition_of_another_mesh_is_told_and_keeps_nobody_from_being_connected(
    cluster, nats, reader, monkeypatch
):
    monkeypatch.setattr(defining, "_LOOK_SECONDS", 0.05)
    foreign(cluster)
    store = cluster.store
    store.create(NODES, a_node("node1"))
    store.create(PODS, a_pod("vpn-0", labels={"app": "vpn"}))
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    store.create(NETWORK_SERVICES, an_object("my-service", spec={}))
    with capture_logs() as logged:
        async with a_watcher(cluster, nats) as watcher:
            offered = EndpointKey("default", "vpn", "vpn-0")
            await reader.until(lambda: reader.get(offered) is not None)
            await until_event(cluster, "ForeignDefinition", "vpn")
            await until_event(cluster, "ForeignDefinition", "my-service")
            told = events(cluster, "vpn")["ForeignDefinition", "Warning"]
            assert "drops spec.ipam of every NetworkServiceEndpoint" in told["message"]
            assert gauges(watcher) == [1, 1]
            ours(cluster)
            async with asyncio.timeout(30):
                while gauges(watcher) != [0, 0]:
                    await asyncio.sleep(0.01)
            assert events(cluster, "vpn")["ForeignDefinition", "Warning"]["count"] == 1
    errors = [e["kind"] for e in logged if e["event"] == "the definition of a kind is not ours"]
    assert sorted(errors) == ["NetworkService", "NetworkServiceEndpoint"]  # once each


async def test_more_objects_than_one_look_tells_have_their_turn_in_the_next(
    cluster, nats, reader, monkeypatch
):
    monkeypatch.setattr(defining, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(defining, "_MOST_TOLD", 2)
    foreign(cluster)
    names = [f"service-{at}" for at in range(5)]
    for name in names:
        cluster.store.create(NETWORK_SERVICES, an_object(name, spec={}))
    async with a_watcher(cluster, nats):
        for name in names:
            await until_event(cluster, "ForeignDefinition", name)


async def test_our_own_definitions_are_no_news(cluster, nats, reader):
    store = cluster.store
    store.create(NODES, a_node("node1"))
    store.create(PODS, a_pod("vpn-0", labels={"app": "vpn"}))
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    async with a_watcher(cluster, nats) as watcher, asyncio.timeout(30):
        while gauges(watcher) != [0, 0]:
            await asyncio.sleep(0.01)
    assert not [reason for reason, _ in events(cluster, "vpn") if reason == "ForeignDefinition"]
