"""Intent from Kubernetes to the bus: a lab API server, a real nats-server, whole watchers between them."""

import time
from contextlib import AsyncExitStack

import pytest

from lab.api.kinds import (
    CONFIG_MAPS,
    NAMESPACES,
    NETWORK_SERVICE_ENDPOINTS,
    NETWORK_SERVICES,
    NODES,
    PODS,
    SERVICES,
)
from schemas.annotation import ANNOTATION
from schemas.subjects import (
    EndpointKey,
    LeaderKey,
    NetworkServiceKey,
    PrefixKey,
    RequestKey,
)
from services._runtime.streams import INTENT
from tests.watcher.builders import a_node, a_pod, an_endpoint, an_object
from tests.watcher.conftest import a_watcher

NSM1 = RequestKey("default", "client", "nsm-1")
NSM2 = RequestKey("default", "client", "nsm-2")


def annotate(cluster, text, name="client"):
    patch = {"metadata": {"annotations": {ANNOTATION: text}}}
    return cluster.store.patch(PODS, "default", name, patch)


def leading(reader, holder="one"):
    found = reader.get(LeaderKey("watcher"))
    return found is not None and found.holder == holder and found.complete


async def test_a_pod_is_a_request_within_milliseconds_and_gone_with_it(cluster, nats, reader):
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
        begun = time.perf_counter()
        cluster.store.create(PODS, a_pod(asks="kernel://svc/nsm-1"))
        await reader.until(lambda: reader.get(NSM1) is not None)
        elapsed = time.perf_counter() - begun
        assert reader.get(NSM1).network_service == "svc"
        cluster.store.delete(PODS, "default", "client", grace_seconds=0)
        await reader.until(lambda: reader.get(NSM1) is None)
    assert elapsed < 0.25  # about 3 ms on an idle machine


async def test_editing_a_running_pod_touches_only_what_changed(cluster, nats, reader):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(NSM1) is not None)
        sequence = await reader.sequence(NSM1)
        annotate(cluster, "svc/nsm-1, other/nsm-2")
        await reader.until(lambda: reader.get(NSM2) is not None)
        annotate(cluster, "svc/nsm-1")
        await reader.until(lambda: reader.get(NSM2) is None)
        assert await reader.sequence(NSM1) == sequence
        annotate(cluster, None)
        await reader.until(lambda: reader.get(NSM1) is None)


async def test_everything_that_kubernetes_says_is_published(cluster, nats, reader):
    store = cluster.store
    store.create(NODES, a_node("node1", podCIDRs=["10.244.1.0/24"]))
    store.create(
        SERVICES, an_object("kube", spec={"clusterIP": "10.96.0.7", "ports": [{"port": 1}]})
    )
    store.create(
        CONFIG_MAPS,
        an_object("excluded-prefixes", namespace="nsm-system", data={"prefixes": "10.0.0.0/24"}),
    )
    store.create(
        CONFIG_MAPS,
        an_object(
            "kubeadm-config",
            namespace="kube-system",
            data={"ClusterConfiguration": "networking: {podSubnet: 10.244.0.0/16}"},
        ),
    )
    store.create(PODS, a_pod("vpn-0", labels={"app": "vpn"}))
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    store.create(NETWORK_SERVICES, an_object("my-service", spec={"payload": "IP"}))
    wanted = {
        PrefixKey("node", "node1"),
        PrefixKey("service", "clusterips"),
        PrefixKey("user", "excluded-prefixes"),
        PrefixKey("cluster", "kubeadm"),
        EndpointKey("default", "vpn", "vpn-0"),
        NetworkServiceKey("default", "my-service"),
    }
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
        assert {*reader.mirror.items} == {*wanted, LeaderKey("watcher")}
        endpoint = EndpointKey("default", "vpn", "vpn-0")
        assert reader.get(endpoint).ready is False
        conditions = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        store.patch(PODS, "default", "vpn-0", conditions, form="strategic", status=True)
        await reader.until(lambda: reader.get(endpoint).ready)


async def test_complete_is_said_only_after_everything_is_written(cluster, nats, reader):
    for at in range(50):
        cluster.store.create(PODS, a_pod(f"pod-{at}", asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
    kinds = [type(key).__name__ for key, _ in reader.changes]
    assert kinds.count("RequestKey") == 50
    assert kinds[-1] == "LeaderKey"


async def test_a_restart_writes_only_what_changed_meanwhile(cluster, nats, reader):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1, other/nsm-2"))
    cluster.store.create(PODS, a_pod("goes", asks="svc/nsm-1"))
    gone = RequestKey("default", "goes", "nsm-1")
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
    before = await reader.sequence(NSM1)
    cluster.store.delete(PODS, "default", "goes", grace_seconds=0)
    annotate(cluster, "svc/nsm-1")
    reader.changes.clear()
    async with a_watcher(cluster, nats):
        await reader.until(lambda: any(leading(reader) for _ in reader.changes))
        await reader.until(lambda: reader.get(gone) is None and reader.get(NSM2) is None)
        assert await reader.sequence(NSM1) == before


async def test_a_malformed_edit_keeps_what_stands_even_over_a_restart(cluster, nats, reader):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
    annotate(cluster, "svc/nsm-1, new/nsm-2, :")
    cluster.store.create(PODS, a_pod("marker", asks="svc/nsm-1"))
    marker = RequestKey("default", "marker", "nsm-1")
    before = await reader.sequence(NSM1)
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(marker) is not None)
        assert reader.get(NSM2) is None
        assert await reader.sequence(NSM1) == before
        annotate(cluster, "new/nsm-2")
        await reader.until(lambda: reader.get(NSM1) is None and reader.get(NSM2) is not None)


async def test_a_namespaces_annotation_reaches_its_pods(cluster, nats, reader):
    cluster.store.create(PODS, a_pod())
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
        patch = {"metadata": {"annotations": {ANNOTATION: "svc/nsm-1"}}}
        cluster.store.patch(NAMESPACES, "", "default", patch)
        await reader.until(lambda: reader.get(NSM1) is not None)


async def test_a_pod_born_again_under_its_name_is_a_new_one(cluster, nats, reader):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(NSM1) is not None)
        uid = reader.get(NSM1).pod.uid
        cluster.store.delete(PODS, "default", "client", grace_seconds=0)
        cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
        await reader.until(lambda: (found := reader.get(NSM1)) is not None and found.pod.uid != uid)


async def test_a_standby_writes_nothing_and_leads_when_the_leader_goes(cluster, nats, reader):
    async with AsyncExitStack() as stack:
        leader = await stack.enter_async_context(AsyncExitStack())
        await leader.enter_async_context(a_watcher(cluster, nats, holder="one"))
        await reader.until(lambda: leading(reader, "one"))
        await stack.enter_async_context(a_watcher(cluster, nats, holder="two"))
        cluster.store.create(PODS, a_pod("first", asks="svc/nsm-1"))
        first = RequestKey("default", "first", "nsm-1")
        await reader.until(lambda: reader.get(first) is not None)
        assert leading(reader, "one")
        await leader.aclose()
        cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
        await reader.until(lambda: leading(reader, "two") and reader.get(NSM1) is not None)


async def test_an_api_server_that_restarts_is_followed_again(cluster, nats, reader):
    cluster.store.create(PODS, a_pod("goes", asks="svc/nsm-1"))
    gone = RequestKey("default", "goes", "nsm-1")
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(gone) is not None)
        await cluster.stop()
        cluster.store.delete(PODS, "default", "goes", grace_seconds=0)
        cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
        await cluster.restart()
        await reader.until(lambda: reader.get(gone) is None and reader.get(NSM1) is not None)


@pytest.mark.parametrize("wiped", [False, True], ids=["killed", "wiped"])
async def test_a_bus_that_dies_is_told_everything_again(cluster, nats, reader, wiped):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
        incarnation = reader.bus.incarnations[INTENT]
        await (nats.wipe() if wiped else nats.kill())
        cluster.store.create(PODS, a_pod("second", asks="svc/nsm-1"))
        if not wiped:
            await nats.start()
        second = RequestKey("default", "second", "nsm-1")
        await reader.until(lambda: reader.get(second) is not None)
        await reader.until(lambda: leading(reader) and not reader.mirror.stale)
        assert reader.get(NSM1) is not None
        assert (await reader.bus.ensure_streams())[INTENT] != incarnation or not wiped
        assert await reader.bus.read(NSM1) is not None
