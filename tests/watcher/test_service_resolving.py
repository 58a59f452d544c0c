"""DNS of a connection, back onto the Pod. ipam and the node are played by the test, over a real bus."""

from lab.api.kinds import PODS
from schemas.intent import Dns
from schemas.state import NodeFacts
from services._runtime.streams import STATE
from services.watcher.model import CAPTURE_ANNOTATION
from tests.watcher.builders import a_grant, a_pod, a_resolver, a_status
from tests.watcher.conftest import a_watcher
from tests.watcher.statuses import (
    NSM1,
    condition,
    connect,
    events,
    is_,
    message,
    shown,
    until_event,
)

DNS = Dns(servers=("172.16.1.1",), domains=("corp.example",), search_domains=("corp.example",))
OTHER = Dns(servers=("172.16.1.1",), domains=("other.example",))
SHOWN = {
    "nameservers": ["172.16.1.1"],
    "domains": ["corp.example"],
    "search": ["corp.example"],
}


def conflict(grant, **fields):
    return a_resolver(
        grant,
        state="failed",
        reason="DNSCaptureConflict",
        message="another program redirects port 53; remove its redirect",
        **fields,
    )


def opt_out(cluster, text):
    patch = {"metadata": {"annotations": {CAPTURE_ANNOTATION: text}}}
    cluster.store.patch(PODS, "default", "client", patch)


async def wire(reader, ipam, **fields):
    """A grant whose link stands."""
    await reader.until(lambda: reader.get(NSM1) is not None)
    grant = a_grant(reader.get(NSM1), **fields)
    await ipam.publish(grant)
    await ipam.bus.publish(a_status(grant))
    return grant


def watched(cluster):
    """Every condition that the Pod shows from now on."""
    seen = []
    cluster.store.watch(PODS, lambda _, pod: seen.append(condition(pod)))
    seen.clear()
    return seen


async def marked(cluster, name="marker"):
    """Until the watcher has worked off what came before."""
    cluster.store.create(PODS, a_pod(name, asks=":"))
    await cluster.until(PODS, name, is_("False", "MalformedAnnotation"))
    await until_event(cluster, "MalformedAnnotation", name)


async def test_a_pod_is_connected_once_its_dns_is_served_and_shows_it(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        grant = await wire(reader, ipam, dns=DNS)
        waits = await cluster.until(
            PODS, "client", lambda pod: (shown(pod) or [{}])[0].get("reason") == "ResolverPending"
        )
        assert shown(waits)[0]["state"] == "waiting"
        await cluster.until(
            PODS, "client", lambda pod: condition(pod) and "dns service of node" in message(pod)
        )
        await ipam.bus.publish(a_resolver(grant))
        pod = await cluster.until(PODS, "client", is_("True", "Connected"))
        await until_event(cluster, "Connected")
    assert shown(pod)[0]["dns"] == SHOWN
    assert set(events(cluster)) == {("Connected", "Normal")}


async def test_a_resolver_that_answers_at_once_costs_no_second_write(cluster, nats, reader, ipam):
    seen = watched(cluster)
    async with a_watcher(cluster, nats):
        cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
        await connect(cluster, reader, ipam, dns=DNS)
    assert {*seen} == {None, ("True", "Connected")}


async def test_a_conflict_shows_its_reason_is_told_once_and_passes(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        grant = await connect(cluster, reader, ipam, dns=DNS)
        await ipam.bus.publish(conflict(grant))
        pod = await cluster.until(PODS, "client", is_("False", "DNSCaptureConflict"))
        assert "remove its redirect" in message(pod)
        assert (shown(pod)[0]["state"], shown(pod)[0]["reason"]) == ("failed", "DNSCaptureConflict")
        assert "dns" not in shown(pod)[0]
        await until_event(cluster, "DNSCaptureConflict")
        await ipam.bus.publish(conflict(grant, upstreams=()))
        await marked(cluster)
        assert events(cluster)["DNSCaptureConflict", "Warning"]["count"] == 1
        assert ("Disconnected", "Normal") not in events(cluster)
        await ipam.bus.publish(a_resolver(grant))
        await cluster.until(PODS, "client", is_("True", "Connected"))


async def test_a_revision_that_leaves_dns_alone_needs_no_word_of_the_resolver(
    cluster, nats, reader, ipam
):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam, dns=DNS)
        seen = watched(cluster)
        await wire(reader, ipam, dns=DNS, revision=2, mtu=1400)
        await cluster.until(PODS, "client", lambda pod: shown(pod)[0]["mtu"] == 1400)
    assert {*seen} == {("True", "Connected")}


async def test_dns_that_is_edited_under_a_connection_is_no_flap(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam, dns=DNS)
        seen = watched(cluster)
        grant = await wire(reader, ipam, dns=OTHER, revision=2)
        await ipam.bus.publish(a_resolver(grant))
        await cluster.until(
            PODS,
            "client",
            lambda pod: shown(pod)[0].get("dns", {}).get("domains") == ["other.example"],
        )
        assert ("Disconnected", "Normal") not in events(cluster)
    assert {*seen} == {("True", "Connected")}


async def test_opting_out_and_in_again_is_no_flap(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        grant = await connect(cluster, reader, ipam, dns=DNS)
        seen = watched(cluster)
        opt_out(cluster, "false")
        await reader.until(lambda: not reader.get(NSM1).dns)
        await wire(reader, ipam, revision=2)
        await ipam.bus.bury(a_resolver(grant).key)
        await cluster.until(PODS, "client", lambda pod: "dns" not in shown(pod)[0])
        opt_out(cluster, None)
        await reader.until(lambda: reader.get(NSM1).dns)
        grant = await wire(reader, ipam, dns=DNS, revision=3)
        await ipam.bus.publish(a_resolver(grant))
        await cluster.until(PODS, "client", lambda pod: shown(pod)[0].get("dns") == SHOWN)
    assert {*seen} == {("True", "Connected")}


async def test_an_unclear_opt_out_is_told_and_the_pod_has_dns(cluster, nats, reader):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1", annotations={CAPTURE_ANNOTATION: "off"}))
    async with a_watcher(cluster, nats):
        await until_event(cluster, "InvalidAnnotation")
        await reader.until(lambda: reader.get(NSM1) is not None)
    assert reader.get(NSM1).dns
    assert "'off'" in events(cluster)["InvalidAnnotation", "Warning"]["message"]


async def test_a_resolver_of_a_predecessor_serves_nobody(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        grant = await wire(reader, ipam, dns=DNS)
        await ipam.bus.publish(a_resolver(grant, uid="of-another"))
        await cluster.until(
            PODS, "client", lambda pod: condition(pod) and "ResolverPending" in message(pod)
        )


async def test_a_bus_that_lost_its_resolvers_makes_no_served_pod_unready(
    cluster, nats, reader, ipam
):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        grant = await connect(cluster, reader, ipam, dns=DNS)
    before = cluster.store.get(PODS, "default", "client")["metadata"]["resourceVersion"]
    await ipam.bus.bury(a_resolver(grant).key)
    async with a_watcher(cluster, nats):
        incarnation = ipam.bus.incarnations[STATE]
        await ipam.bus.publish(NodeFacts(node="node1", complete=True, incarnation=incarnation))
        await marked(cluster)
    pod = cluster.store.get(PODS, "default", "client")
    assert condition(pod) == ("True", "Connected")
    assert pod["metadata"]["resourceVersion"] == before


async def test_a_wiped_bus_makes_no_served_pod_unready(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam, dns=DNS)
    before = cluster.store.get(PODS, "default", "client")["metadata"]["resourceVersion"]
    await nats.wipe()
    async with a_watcher(cluster, nats):
        await marked(cluster)

        await reader.until(lambda: reader.get(NSM1) is not None and not reader.mirror.stale)
    pod = cluster.store.get(PODS, "default", "client")
    assert condition(pod) == ("True", "Connected")
    assert pod["metadata"]["resourceVersion"] == before
