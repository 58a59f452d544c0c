"""Status of our own objects. ipam and the nodes are played by the test, over a real bus and the lab's API server."""

import asyncio

import msgspec
import pytest

from lab.api.kinds import (
    NETWORK_SERVICE_ENDPOINTS,
    NETWORK_SERVICES,
    NODES,
    PODS,
)
from schemas.grant import Collision, Pool, PoolFigures
from schemas.state import NodeFacts
from services._runtime.errors import Conflict
from services.watcher import model
from services.watcher.adapters import Denied, Missing, objects
from tests.watcher.builders import (
    a_grant,
    a_node,
    a_pod,
    a_status,
    an_endpoint,
    an_object,
    read,
)
from tests.watcher.conftest import a_watcher
from tests.watcher.statuses import NSM1

POOL = Pool(
    namespace="default",
    endpoint="vpn",
    families=(PoolFigures(family=4, prefixes=("172.16.1.0/24",), size=254, used=2, free=252),),
)


def says(kind, status, reason):
    """Whether a condition says that."""

    def holds(found):
        conditions = found.get("status", {}).get("conditions", [])
        return (kind, status, reason) in [(c["type"], c["status"], c["reason"]) for c in conditions]

    return holds


def has(**fields):
    return lambda found: fields.items() <= found.get("status", {}).items()


def an_offered_service(cluster):
    cluster.store.create(NODES, a_node("node1"))
    cluster.store.create(NETWORK_SERVICES, an_object("my-service", spec={}))
    cluster.store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    cluster.store.create(PODS, a_pod("vpn-0", labels={"app": "vpn"}))
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    cluster.store.patch(PODS, "default", "vpn-0", ready, status=True)
    cluster.store.create(PODS, a_pod(asks="my-service/nsm-1"))


async def granted(reader, ipam):
    """ipam grants, the node wires."""
    await reader.until(lambda: reader.get(NSM1) is not None)
    grant = a_grant(reader.get(NSM1))
    await ipam.publish(grant)
    await ipam.bus.publish(a_status(grant))
    return grant


async def test_an_endpoint_tells_what_became_of_it(cluster, nats, reader, ipam):
    an_offered_service(cluster)
    async with a_watcher(cluster, nats):
        await granted(reader, ipam)
        await ipam.publish(POOL)
        await ipam.complete()
        found = await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "vpn", has(endpoints=1, clients=1, free=252)
        )
        assert found["status"]["prefixes"] == ["172.16.1.0/24"]
        assert found["status"]["observedGeneration"] == found["metadata"]["generation"] == 1
        for word in (("Accepted", "True", "Accepted"), ("PrefixCollision", "False", "NoCollision")):
            assert says(*word)(found)
        await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "vpn", says("Forwarding", "True", "Connected")
        )
        await cluster.until(NETWORK_SERVICES, "my-service", has(endpoints=1, clients=1))


async def test_a_collision_comes_and_goes(cluster, nats, reader, ipam):
    an_offered_service(cluster)
    collision = Collision(prefix="172.16.1.0/24", overlaps="172.16.0.0/16", used_by="user")
    async with a_watcher(cluster, nats):
        await ipam.publish(msgspec.structs.replace(POOL, collisions=(collision,)))
        await ipam.complete()
        await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "vpn", says("PrefixCollision", "True", "UsedAround")
        )
        await ipam.publish(POOL)
        await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "vpn", says("PrefixCollision", "False", "NoCollision")
        )


async def test_a_spec_that_is_not_understood_says_so_until_it_is(cluster, nats):
    bad = an_endpoint(ipam={"prefixes": ["172.16.1.1/24"]})
    cluster.store.create(NETWORK_SERVICE_ENDPOINTS, bad)
    async with a_watcher(cluster, nats):
        await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "vpn", says("Accepted", "False", "InvalidSpec")
        )
        good = {"spec": {"ipam": {"prefixes": ["172.16.1.0/24"]}}}
        cluster.store.patch(NETWORK_SERVICE_ENDPOINTS, "default", "vpn", good)
        found = await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "vpn", says("Accepted", "True", "Accepted")
        )
        assert found["status"]["observedGeneration"] == 2


async def test_a_failed_connection_is_named_and_a_gone_one_counts_no_more(
    cluster, nats, reader, ipam
):
    an_offered_service(cluster)
    async with a_watcher(cluster, nats):
        grant = await granted(reader, ipam)
        await ipam.complete()
        await ipam.bus.publish(a_status(grant, state="failed", reason="KernelError", message="no"))
        found = await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "vpn", says("Forwarding", "False", "AllFailed")
        )
        assert "nsm-1 of Pod default/client (KernelError: no)" in str(found["status"])
        await ipam.bury(grant.key)
        await cluster.until(NETWORK_SERVICE_ENDPOINTS, "vpn", has(clients=0))


async def test_much_that_happens_is_written_at_most_once_a_second(cluster, nats, reader, ipam):
    an_offered_service(cluster)
    written = []
    cluster.store.watch(NETWORK_SERVICE_ENDPOINTS, lambda _, found: written.append(found))
    async with a_watcher(cluster, nats):
        await ipam.complete()
        begun = asyncio.get_running_loop().time()
        for free in range(250, -1, -1):
            (figures,) = POOL.families
            families = (msgspec.structs.replace(figures, free=free),)
            await ipam.publish(msgspec.structs.replace(POOL, families=families))
        await cluster.until(NETWORK_SERVICE_ENDPOINTS, "vpn", has(free=0))
        seconds = asyncio.get_running_loop().time() - begun
    told = [found["status"]["free"] for found in written if "free" in found.get("status", {})]
    assert len(told) <= seconds + 2


async def test_a_restart_writes_nothing_again(cluster, nats, reader, ipam):
    an_offered_service(cluster)
    async with a_watcher(cluster, nats):
        await granted(reader, ipam)
        await ipam.publish(POOL)
        await ipam.complete()
        await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "vpn", says("Forwarding", "True", "Connected")
        )
        before = await cluster.until(NETWORK_SERVICE_ENDPOINTS, "vpn", has(clients=1, free=252))
    cluster.store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint("marker"))
    async with a_watcher(cluster, nats, holder="two"):
        await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "marker", says("Accepted", "True", "Accepted")
        )
        await cluster.until(NETWORK_SERVICE_ENDPOINTS, "marker", has(clients=0))
    assert cluster.store.get(NETWORK_SERVICE_ENDPOINTS, "default", "vpn") == before


async def test_a_wiped_bus_takes_nothing_from_what_is_shown(cluster, nats, reader, ipam):
    an_offered_service(cluster)
    async with a_watcher(cluster, nats):
        await granted(reader, ipam)
        await ipam.publish(POOL)
        await ipam.complete()
        await cluster.until(NETWORK_SERVICE_ENDPOINTS, "vpn", has(clients=1, free=252))
        before = await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "vpn", says("Forwarding", "True", "Connected")
        )
    await nats.wipe()
    await ipam.bus.connected()
    async with a_watcher(cluster, nats, holder="two"):
        cluster.store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint("marker"))
        await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "marker", says("Accepted", "True", "Accepted")
        )
        now = cluster.store.get(NETWORK_SERVICE_ENDPOINTS, "default", "vpn")
        assert now["status"] == before["status"]


async def test_a_nodes_silence_counts_once_it_has_told_everything(cluster, nats, reader, ipam):
    an_offered_service(cluster)
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(NSM1) is not None)
        await ipam.publish(a_grant(reader.get(NSM1)))
        await ipam.complete()
        await cluster.until(NETWORK_SERVICE_ENDPOINTS, "vpn", has(clients=1))
        place = await ipam.bus.place("NSM_STATE")
        await ipam.bus.publish(
            NodeFacts(node="node1", complete=True, incarnation=place.incarnation)
        )
        await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "vpn", says("Forwarding", "Unknown", "Connecting")
        )


async def test_status_waits_out_an_api_server_that_is_away(cluster, nats, ipam):
    an_offered_service(cluster)
    async with a_watcher(cluster, nats):
        await ipam.complete()
        await cluster.until(NETWORK_SERVICE_ENDPOINTS, "vpn", has(endpoints=1))
        await cluster.stop()
        await ipam.publish(POOL)
        await cluster.restart()
        await cluster.until(NETWORK_SERVICE_ENDPOINTS, "vpn", has(free=252))


async def test_a_status_is_written_on_the_version_that_was_judged(cluster, kube):
    cluster.store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    found = read(
        model.NetworkServiceEndpoint, cluster.store.get(NETWORK_SERVICE_ENDPOINTS, "default", "vpn")
    )
    version = found.metadata.resource_version
    now = await objects.write_status(kube, found, {"clients": 1}, version=version)
    assert now.shown == {"clients": 1} and now.version > found.version
    with pytest.raises(Conflict):
        await objects.write_status(kube, found, {"clients": 2}, version=version)
    cluster.store.delete(NETWORK_SERVICE_ENDPOINTS, "default", "vpn")
    with pytest.raises(Missing):
        await objects.write_status(kube, found, {"clients": 1}, version=version)


async def test_who_may_not_write_a_status_leaves_a_word_and_goes_on(
    cluster, nats, ipam, monkeypatch
):
    an_offered_service(cluster)
    tried = asyncio.Event()

    async def refuse(*_, **__):
        tried.set()
        raise Denied("403 Forbidden: no", status=403)

    monkeypatch.setattr(objects, "write_status", refuse)
    async with a_watcher(cluster, nats) as watcher:
        await asyncio.wait_for(tried.wait(), 10)
        monkeypatch.undo()
        # Not for this object, for a minute; others are written.
        cluster.store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint("other"))
        await cluster.until(
            NETWORK_SERVICE_ENDPOINTS, "other", says("Accepted", "True", "Accepted")
        )
        assert (model.NetworkServiceEndpoint, ("default", "vpn")) in watcher.intent.objects
