"""Intent from Kubernetes to the bus: a lab API server, a real nats-server, whole watchers between them."""

import asyncio
import time
from contextlib import AsyncExitStack

import msgspec
import pytest

from lab.api.kinds import (
    CONFIG_MAPS,
    EVENTS,
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
from services._runtime import auditing
from services._runtime.streams import INTENT
from tests.runtime.helpers import lose
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


async def test_a_pod_is_a_request_at_once_and_gone_with_it(cluster, nats, reader):
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
        took = []
        for _ in range(3):
            begun = time.perf_counter()
            cluster.store.create(PODS, a_pod(asks="kernel://svc/nsm-1"))
            await reader.until(lambda: reader.get(NSM1) is not None)
            took.append(time.perf_counter() - begun)
            assert reader.get(NSM1).network_service == "svc"
            cluster.store.delete(PODS, "default", "client", grace_seconds=0)
            await reader.until(lambda: reader.get(NSM1) is None)
    assert min(took) < 0.25  # by the event, about 3 ms on an idle machine; no sweep is as fast


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
        PrefixKey("cluster", "servicecidr-kubernetes"),
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
    guard = await reader.sequence(LeaderKey("watcher"))
    cluster.store.delete(PODS, "default", "goes", grace_seconds=0)
    annotate(cluster, "svc/nsm-1")
    async with a_watcher(cluster, nats):
        await until_another_term_is_complete(reader, guard)
        assert reader.get(gone) is None
        assert reader.get(NSM2) is None
        assert await reader.sequence(NSM1) == before


async def until_another_term_is_complete(reader, guard):
    """Until a later guard than `guard` says complete: the last word of the term's first writes."""
    for _ in range(1000):
        stored = await reader.bus.read(LeaderKey("watcher"))
        if stored is not None and stored[1] > guard and stored[0].complete:
            await reader.mirror.reached(stored[1])
            return
        await asyncio.sleep(0.01)
    raise AssertionError("no other term")


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


@pytest.mark.parametrize("node", ["node1", "node2"])
async def test_a_pod_born_again_under_its_name_is_a_new_one(cluster, nats, reader, node):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(NSM1) is not None)
        uid = reader.get(NSM1).pod.uid
        cluster.store.delete(PODS, "default", "client", grace_seconds=0)
        cluster.store.create(PODS, a_pod(asks="svc/nsm-1", node=node))
        await reader.until(lambda: (found := reader.get(NSM1)) is not None and found.pod.uid != uid)
        assert reader.get(NSM1).pod.node == node


async def test_a_deleted_pod_keeps_what_it_asked_for_until_its_grace_is_over(cluster, nats, reader):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
        sequence = await reader.sequence(NSM1)
        cluster.store.delete(PODS, "default", "client", grace_seconds=30)
        cluster.store.create(PODS, a_pod("marker", asks="svc/nsm-1"))
        marker = RequestKey("default", "marker", "nsm-1")
        await reader.until(lambda: reader.get(marker) is not None)
        assert await reader.sequence(NSM1) == sequence
        cluster.store.delete(PODS, "default", "client", grace_seconds=0)
        await reader.until(lambda: reader.get(NSM1) is None)


async def test_an_endpoint_pod_that_is_deleted_leaves_at_the_mark_and_is_gone_at_its_end(
    cluster, nats, reader
):
    store, endpoint = cluster.store, EndpointKey("default", "vpn", "vpn-0")
    store.create(NODES, a_node("node1"))
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    for ended in (False, True):
        pod = a_pod("vpn-0", labels={"app": "vpn"})
        store.create(PODS, pod)
        store.patch(PODS, "default", "vpn-0", {"status": pod["status"]}, status=True)
        async with a_watcher(cluster, nats):
            await reader.until(lambda: (e := reader.get(endpoint)) and e.ready and not e.leaving)
            store.delete(PODS, "default", "vpn-0", grace_seconds=30)
            await reader.until(lambda: reader.get(endpoint).leaving)
            assert not reader.get(endpoint).ready
            if ended:  # its containers; the object may stay as long as it has finalizers
                done = {"status": {"phase": "Succeeded"}}
                store.patch(PODS, "default", "vpn-0", done, status=True)
            else:
                store.delete(PODS, "default", "vpn-0", grace_seconds=0)
            await reader.until(lambda: reader.get(endpoint) is None)


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_completed_or_evicted_pod_asks_for_nothing_more(cluster, nats, reader, phase):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(NSM1) is not None)
        ended = {"status": {"phase": phase, "reason": "Evicted" if phase == "Failed" else None}}
        cluster.store.patch(PODS, "default", "client", ended, status=True)
        await reader.until(lambda: reader.get(NSM1) is None)


async def test_a_stateful_set_that_rolls_asks_anew_for_each_pod_in_turn(cluster, nats, reader):
    names = [f"web-{number}" for number in range(3)]
    keys = [RequestKey("default", name, "nsm-1") for name in names]
    for name in names:
        cluster.store.create(PODS, a_pod(name, asks="svc/nsm-1", labels={"revision": "1"}))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: all(reader.get(key) for key in keys))
        old = {key: reader.get(key).pod.uid for key in keys}
        for name, key in reversed([*zip(names, keys, strict=True)]):
            cluster.store.delete(PODS, "default", name, grace_seconds=0)
            cluster.store.create(PODS, a_pod(name, asks="svc/nsm-1", labels={"revision": "2"}))
            await reader.until(lambda k=key: (r := reader.get(k)) and r.pod.uid != old[k])
    told = [key for key, message in reader.changes if key in keys and message is not None]
    assert [told.count(key) for key in keys] == [2, 2, 2]


async def test_a_standby_writes_nothing_and_leads_when_the_leader_goes(cluster, nats, reader):
    async with AsyncExitStack() as stack:
        leader = await stack.enter_async_context(AsyncExitStack())
        await leader.enter_async_context(a_watcher(cluster, nats, holder="one"))
        await reader.until(lambda: leading(reader, "one"))
        standby = await stack.enter_async_context(a_watcher(cluster, nats, holder="two"))
        await standby._say_ready()
        before = (await reader.bus.place(INTENT)).last_sequence
        cluster.store.create(PODS, a_pod("first", asks="svc/nsm-1"))
        first = RequestKey("default", "first", "nsm-1")
        async with asyncio.timeout(30):
            await standby._own.reached(before + 1)
            while standby.intent.message(first) is None:
                await asyncio.sleep(0.01)
        assert standby._own.items[first] == standby.intent.message(first)
        assert (await reader.bus.place(INTENT)).last_sequence == before + 1
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


def told(cluster, reason):
    """What was said for a reason: (kind of object, message)."""
    bodies = [record.body for record in cluster.store.shelf(EVENTS).records.values()]
    return [(e["involvedObject"]["kind"], e["message"]) for e in bodies if e["reason"] == reason]


async def until_told(cluster, reason):
    async with asyncio.timeout(30):
        while not (found := told(cluster, reason)):
            await asyncio.sleep(0.01)
    return found


async def test_a_rename_buries_the_old_interface_before_it_asks_for_the_new_one(
    cluster, nats, reader
):
    names = [f"pod-{at}" for at in range(20)]
    for name in names:
        cluster.store.create(PODS, a_pod(name, asks="svc/nsm-1, svc/nsm-3"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
        reader.changes.clear()
        for name in names:
            annotate(cluster, "svc/nsm-2, svc/nsm-4", name)
        await reader.until(lambda: len(reader.changes) == 80)
    for name in names:
        order = [
            key.interface
            for key, _ in reader.changes
            if isinstance(key, RequestKey) and key.pod == name
        ]
        assert {*order[:2]} == {"nsm-1", "nsm-3"}
        assert {*order[2:]} == {"nsm-2", "nsm-4"}


async def test_thousands_of_exclusions_are_all_told_before_anything_is_complete(
    cluster, nats, reader
):
    lines = [f"10.{at // 100}.{at % 100}.1" for at in range(14_000)]
    data = {"prefixes": "\n".join(lines)}
    cluster.store.create(
        CONFIG_MAPS, an_object("excluded-prefixes", namespace="nsm-system", data=data)
    )
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
        told = [
            used.prefix
            for key, message in reader.mirror.items.items()
            if isinstance(key, PrefixKey) and key.source == "user"
            for used in message.prefixes
        ]
        assert sorted(told) == sorted(f"{line}/32" for line in lines)
        few = {"data": {"prefixes": "10.0.0.1"}}
        cluster.store.patch(CONFIG_MAPS, "nsm-system", "excluded-prefixes", few)
        await reader.until(lambda: sources(reader) == ["cluster", "user"])


def sources(reader):
    return sorted(key.source for key in reader.mirror.items if isinstance(key, PrefixKey))


TOO_MUCH = {f"label-{at}": "x" * 60 for at in range(16_000)}  # more than a message may hold


async def test_what_the_bus_refuses_is_told_and_holds_up_nobody(cluster, nats, reader):
    store = cluster.store
    store.create(PODS, a_pod("vpn-0", labels={"app": "vpn"}))
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint(labels=TOO_MUCH))
    store.create(PODS, a_pod(asks="svc/nsm-1"))
    endpoint = EndpointKey("default", "vpn", "vpn-0")
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
        assert reader.get(NSM1) is not None
        assert reader.get(endpoint) is None
        ((kind, message),) = await until_told(cluster, "NotPublished")
        assert kind == "NetworkServiceEndpoint"
        assert "larger than the bus takes (1048576)" in message
        assert "raise max_payload of the NATS server, or make this object smaller" in message
        small = {"spec": {"labels": None}}
        store.patch(NETWORK_SERVICE_ENDPOINTS, "default", "vpn", small)
        await reader.until(lambda: reader.get(endpoint) is not None)


async def test_without_every_prefix_in_use_nothing_is_complete(cluster, nats, reader):
    subnets = ",".join(f"10.{at // 100}.{at % 100}.0/28" for at in range(20_000))
    cluster.store.create(NODES, a_node("node1", podCIDRs=subnets.split(",")))
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        ((kind, message),) = await until_told(cluster, "NotPublished")
        assert kind == "Node"
        assert "nsm.prefix.node.node1" in message
        await reader.until(lambda: reader.get(NSM1) is not None)
        assert not leading(reader)
        small = {"spec": {"podCIDRs": ["10.0.0.0/28"]}}
        cluster.store.patch(NODES, "", "node1", small)
        await reader.until(lambda: leading(reader))
        assert reader.get(PrefixKey("node", "node1")) is not None


async def test_a_typo_in_an_endpoint_withdraws_nothing_even_over_a_restart(cluster, nats, reader):
    store = cluster.store
    store.create(NODES, a_node("node1"))
    store.create(PODS, a_pod("vpn-0", labels={"app": "vpn"}))
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    endpoint = EndpointKey("default", "vpn", "vpn-0")
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader))
        offered = reader.get(endpoint)
        bad = {"spec": {"ipam": {"prefixes": ["172.16.1.0/33"]}}}
        store.patch(NETWORK_SERVICE_ENDPOINTS, "default", "vpn", bad)
        ((kind, message),) = await until_told(cluster, "InvalidSpec")
        assert kind == "NetworkServiceEndpoint"
        assert "has no effect as it is written" in message
        await reader.until(lambda: reader.get(endpoint).refused == message)
        assert reader.get(endpoint) == msgspec.structs.replace(offered, refused=message)
        before = await reader.sequence(endpoint)
    guard = await reader.sequence(LeaderKey("watcher"))
    async with a_watcher(cluster, nats):
        await until_another_term_is_complete(reader, guard)
        assert await reader.sequence(endpoint) == before
        good = {"spec": {"ipam": {"prefixes": ["172.16.2.0/24"]}}}
        store.patch(NETWORK_SERVICE_ENDPOINTS, "default", "vpn", good)
        await reader.until(lambda: reader.get(endpoint).ipam.prefixes == ("172.16.2.0/24",))


async def test_what_cannot_be_published_does_not_keep_a_pod_that_is_gone(cluster, nats, reader):
    store = cluster.store
    store.create(PODS, a_pod("vpn-0", labels={"app": "vpn"}))
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    endpoint = EndpointKey("default", "vpn", "vpn-0")
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(endpoint) is not None)
        big = {"spec": {"labels": TOO_MUCH}}
        store.patch(NETWORK_SERVICE_ENDPOINTS, "default", "vpn", big)
        await until_told(cluster, "NotPublished")
        assert reader.get(endpoint).labels == {}
        store.delete(PODS, "default", "vpn-0", grace_seconds=0)
        store.create(PODS, a_pod("vpn-0", labels={"app": "vpn"}))
        await reader.until(lambda: reader.get(endpoint) is None)


async def test_a_request_that_the_stream_lost_is_written_again(cluster, nats, reader, monkeypatch):
    monkeypatch.setattr(auditing, "CHECK_SECONDS", 0.2)
    monkeypatch.setattr(auditing, "AGAIN_SECONDS", 0.05)
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: leading(reader) and reader.get(NSM1) is not None)
        request = reader.get(NSM1)
        await lose(reader.bus, request)
        async with asyncio.timeout(20):
            while await reader.bus.read(NSM1) is None:
                await asyncio.sleep(0.05)
        assert reader.get(NSM1) == request
        assert [message for key, message in reader.changes if key == NSM1] == [request]
