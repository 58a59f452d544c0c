"""What became of wishes, back onto the Pod. ipam and the node are played by the test, over a real bus."""

import asyncio
from functools import partial
from types import SimpleNamespace
from typing import Any

import msgspec
from structlog.testing import capture_logs

from lab.api.kinds import (
    CONFIG_MAPS,
    DEFINITIONS,
    NETWORK_SERVICE_ENDPOINTS,
    NETWORK_SERVICES,
    PODS,
)
from schemas.grant import Refusal
from schemas.state import NodeFacts
from schemas.subjects import LeaseKey
from services._runtime.mirror import Mirror
from services._runtime.streams import GRANT, STATE
from services.watcher import model
from services.watcher.adapters import NOT_INSTALLED, Events
from services.watcher.core.intent import Intent
from services.watcher.core.prefixes import MALFORMED
from services.watcher.core.report import showing
from services.watcher.model import STATUS_ANNOTATION
from services.watcher.service import defining, publishing, reporting, seen_by
from services.watcher.service.announcing import Announcer
from services.watcher.service.reporting import Reporter
from tests.watcher.builders import a_grant, a_pod, a_status, an_endpoint, an_object, read
from tests.watcher.conftest import a_watcher
from tests.watcher.statuses import (
    NSM1,
    NSM2,
    condition,
    connect,
    edit,
    events,
    is_,
    message,
    shown,
    until_event,
)

TOO_MANY = [f"{'team' * 15}-{at}" for at in range(20_000)]


async def until_word(bus, holds):
    """What the watcher's lease tells, once it is as wanted."""
    async with asyncio.timeout(60):
        while True:
            found = await bus.read(LeaseKey("watcher"))
            if found is not None and holds(found[0].word):
                return found[0].word
            await asyncio.sleep(0.05)


async def test_a_connection_shows_on_the_pod_with_all_it_is(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        waiting = await cluster.until(PODS, "client", is_("False", "Connecting"))
        assert shown(waiting)[0]["state"] == "waiting"
        await connect(cluster, reader, ipam)
        await until_event(cluster, "Connected")
    pod = cluster.store.get(PODS, "default", "client")
    assert shown(pod) == [
        {
            "name": "default/svc",
            "interface": "nsm-1",
            "ips": ["172.16.1.2"],
            "mac": "02:00:00:00:00:01",
            "mtu": 1500,
            "state": "ready",
            "endpoint": "default/vpn-0",
        }
    ]
    (said,) = events(cluster).values()
    assert (said["type"], said["count"]) == ("Normal", 1)
    assert said["message"] == (
        "nsm-1 is connected to default/svc with 172.16.1.2 by endpoint Pod default/vpn-0"
    )


async def test_what_is_connected_at_once_is_written_once(cluster, nats, reader, ipam):
    seen = []
    cluster.store.watch(PODS, lambda _, pod: seen.append(condition(pod)))
    async with a_watcher(cluster, nats):
        cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
        await connect(cluster, reader, ipam)
    assert {*seen} == {None, ("True", "Connected")}


def a_refusal(request, reason, message):
    return Refusal(
        namespace="default",
        pod="client",
        interface="nsm-1",
        uid=request.pod.uid,
        network_service="svc",
        reason=reason,
        message=message,
    )


async def test_a_refusal_shows_its_reason_and_passes(cluster, nats, reader, ipam, monkeypatch):
    monkeypatch.setattr(reporting, "_COMING_SECONDS", 0.2)
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(NSM1) is not None)
        request = reader.get(NSM1)
        refusal = a_refusal(request, "NoEndpoint", "nobody offers svc; start an endpoint")
        await ipam.publish(refusal)
        pod = await cluster.until(PODS, "client", is_("False", "NoEndpoint"))
        assert "nobody offers svc; start an endpoint" in message(pod)
        await until_event(cluster, "NoEndpoint")
        assert ("NoEndpoint", "Warning") in events(cluster)
        await (await ipam.term).bury(refusal.key)
        await connect(cluster, reader, ipam)


async def test_a_client_made_together_with_its_endpoint_is_not_warned(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(NSM1) is not None)
        request = reader.get(NSM1)
        refusal = a_refusal(request, "EndpointNotReady", "vpn (pod vpn-0) is not Ready")
        await ipam.publish(refusal)
        await cluster.until(PODS, "client", is_("False", "EndpointNotReady"))
        await (await ipam.term).bury(refusal.key)
        await connect(cluster, reader, ipam)
        await until_event(cluster, "Connected")
    assert {reason for reason, _ in events(cluster)} == {"Connected"}


async def test_a_client_of_an_endpoint_that_cannot_be_read_is_told_what_is_wrong_there(
    cluster, nats, reader, ipam
):
    bad = an_endpoint(networkServices=["svc"], ipam={"prefixes": ["172.16.1.1/24"]})
    cluster.store.create(NETWORK_SERVICE_ENDPOINTS, bad)
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(NSM1) is not None)
        await ipam.publish(
            Refusal(
                namespace="default",
                pod="client",
                interface="nsm-1",
                uid=reader.get(NSM1).pod.uid,
                network_service="svc",
                reason="NoEndpoint",
                message="nobody offers svc; start an endpoint",
            )
        )
        pod = await cluster.until(PODS, "client", is_("False", "InvalidSpec"))
        assert "NetworkServiceEndpoint default/vpn has no effect" in message(pod)
        assert "write 172.16.1.0/24" in message(pod)


async def test_a_refusal_of_a_predecessor_is_not_shown(cluster, nats, reader, ipam):
    await ipam.publish(
        Refusal(
            namespace="default",
            pod="client",
            interface="nsm-1",
            uid="of-another",
            network_service="svc",
            reason="NoEndpoint",
            message="x",
        )
    )
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await cluster.until(PODS, "client", is_("False", "Connecting"))


async def test_a_restart_writes_and_says_nothing_again(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam)
        await until_event(cluster, "Connected")
    before = cluster.store.get(PODS, "default", "client")["metadata"]["resourceVersion"]
    cluster.store.create(PODS, a_pod("marker", asks=":"))
    async with a_watcher(cluster, nats):
        await cluster.until(PODS, "marker", is_("False", "MalformedAnnotation"))
        await until_event(cluster, "MalformedAnnotation", "marker")
    after = cluster.store.get(PODS, "default", "client")["metadata"]["resourceVersion"]
    assert after == before
    assert [each["count"] for each in events(cluster).values()] == [1]


async def test_what_others_change_on_a_pod_costs_no_write_and_no_message(
    cluster, nats, reader, ipam
):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats) as watcher:
        await connect(cluster, reader, ipam)
        sequence = await reader.sequence(NSM1)
        for number in range(20):
            labels = {"metadata": {"labels": {"n": str(number)}, "annotations": {"x": str(number)}}}
            last = cluster.store.patch(PODS, "default", "client", labels)
            ready = {"status": {"conditions": [{"type": "Ready", "status": str(number % 2 == 0)}]}}
            last = cluster.store.patch(
                PODS, "default", "client", ready, form="strategic", status=True
            )
        cluster.store.create(PODS, a_pod("marker", asks=":"))
        await cluster.until(PODS, "marker", is_("False", "MalformedAnnotation"))
        assert watcher.intent.pods["default", "client"].labels == {"n": "19"}
        assert await reader.sequence(NSM1) == sequence
        now = cluster.store.get(PODS, "default", "client")["metadata"]["resourceVersion"]
        assert now == last["metadata"]["resourceVersion"]


async def test_a_wiped_bus_makes_no_healthy_pod_unready(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam)
    await nats.wipe()
    cluster.store.create(PODS, a_pod("marker", asks=":"))
    async with a_watcher(cluster, nats):
        await cluster.until(PODS, "marker", is_("False", "MalformedAnnotation"))
        await reader.until(lambda: reader.get(NSM1) is not None and not reader.mirror.stale)
        pod = cluster.store.get(PODS, "default", "client")
        assert condition(pod) == ("True", "Connected")
        assert shown(pod)[0]["state"] == "ready"


async def test_absence_counts_once_its_writer_is_complete(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        grant = await connect(cluster, reader, ipam)
    await ipam.bus.bury(a_status(grant).key)
    async with a_watcher(cluster, nats):
        cluster.store.create(PODS, a_pod("marker", asks=":"))
        await cluster.until(PODS, "marker", is_("False", "MalformedAnnotation"))
        assert condition(cluster.store.get(PODS, "default", "client")) == ("True", "Connected")
        incarnation = ipam.bus.incarnations[STATE]
        facts = NodeFacts(node="node1", complete=True, incarnation=incarnation)
        await ipam.bus.publish(facts)
        await cluster.until(PODS, "client", is_("False", "Connecting"))
        await until_event(cluster, "Disconnected")


async def test_a_newer_revision_of_what_works_is_no_flap(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    seen = []
    cluster.store.watch(PODS, lambda _, pod: seen.append(condition(pod)))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam)
        seen.clear()
        grant = msgspec.structs.replace(a_grant(reader.get(NSM1), revision=2), mtu=1400)
        await ipam.publish(grant)
        await ipam.bus.publish(a_status(grant))
        await cluster.until(PODS, "client", lambda pod: shown(pod)[0]["mtu"] == 1400)
        assert ("False", "Connecting") not in seen


async def test_an_item_added_to_a_connected_pod_is_no_flap(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    seen = []
    cluster.store.watch(PODS, lambda _, pod: seen.append(condition(pod)))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam)
        seen.clear()
        edit(cluster, "svc/nsm-1, other/nsm-2")
        await reader.until(lambda: reader.get(NSM2) is not None)
        grant = a_grant(reader.get(NSM2))
        await ipam.publish(grant)
        await ipam.bus.publish(a_status(grant))
        await cluster.until(PODS, "client", lambda pod: len(shown(pod) or ()) == 2)
        await cluster.until(PODS, "client", lambda pod: "nsm-2" in message(pod))
    assert {*seen} == {("True", "Connected")}


async def test_an_added_item_that_stays_away_shows_after_a_moment(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam)
        edit(cluster, "svc/nsm-1, other/nsm-2")
        pod = await cluster.until(PODS, "client", is_("False", "Connecting"))
        assert [each["state"] for each in shown(pod)] == ["ready", "waiting"]


async def test_a_newer_revision_that_is_not_applied_shows_after_a_moment(
    cluster, nats, reader, ipam
):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam)
        await ipam.publish(a_grant(reader.get(NSM1), revision=2))
        pod = await cluster.until(PODS, "client", is_("False", "Connecting"))
        assert "Updating" in message(pod)


async def test_a_malformed_edit_is_told_and_its_correction_too(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam)
        edit(cluster, "svc/nsm-1, :")
        pod = await cluster.until(PODS, "client", is_("False", "MalformedAnnotation"))
        assert "column 12" in message(pod)
        assert shown(pod)[0]["state"] == "ready"
        await until_event(cluster, "MalformedAnnotation")
        edit(cluster, "svc/nsm-1")
        await cluster.until(PODS, "client", is_("True", "Connected"))


async def test_removing_the_annotation_leaves_a_pod_that_is_connected_to_nothing(
    cluster, nats, reader, ipam
):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await connect(cluster, reader, ipam)
        edit(cluster, None)
        pod = await cluster.until(PODS, "client", lambda pod: shown(pod) is None)
        assert condition(pod) == ("True", "Connected")
        await until_event(cluster, "Disconnected")


async def test_a_readiness_gate_without_an_annotation_opens(cluster, nats):
    cluster.store.create(PODS, a_pod(gated=True))
    async with a_watcher(cluster, nats):
        await cluster.until(PODS, "client", is_("True", "Connected"))


async def test_what_is_taken_away_is_told_once_and_with_the_reason(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        grant = await connect(cluster, reader, ipam)
        await ipam.complete()
        await (await ipam.term).bury(grant.key)
        await ipam.bus.bury(a_status(grant).key)
        await cluster.until(PODS, "client", is_("False", "Connecting"))  # shown at once
        await ipam.publish(
            Refusal(
                namespace="default",
                pod="client",
                interface="nsm-1",
                uid=reader.get(NSM1).pod.uid,
                network_service="svc",
                reason="NoEndpoint",
                message="nobody offers svc; start an endpoint",
            )
        )
        await until_event(cluster, "NoEndpoint")
        pod = await cluster.until(PODS, "client", is_("False", "NoEndpoint"))
        cluster.store.create(PODS, a_pod("marker", asks=":"))
        await until_event(cluster, "MalformedAnnotation", "marker")
    assert message(pod) == "nsm-1 (default/svc): nobody offers svc; start an endpoint"
    told = events(cluster)
    assert {reason for reason, _ in told} == {"Connected", "NoEndpoint"}
    assert told["NoEndpoint", "Warning"]["message"] == (
        "nsm-1 (default/svc) is disconnected: nobody offers svc; start an endpoint"
    )


async def test_an_annotation_that_finds_no_room_hides_no_condition(cluster, nats, reader, ipam):
    most = {"example/of-another": "x" * 262_050}
    seen = []
    cluster.store.watch(PODS, lambda _, pod: seen.append(condition(pod)))
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1", annotations=most))
    with capture_logs() as logs:
        async with a_watcher(cluster, nats):
            await connect(cluster, reader, ipam)
            pod = cluster.store.get(PODS, "default", "client")
            cluster.store.create(PODS, a_pod("marker", asks=":"))
            await until_event(cluster, "MalformedAnnotation", "marker")
    assert shown(pod) is None
    assert message(pod).startswith("nsm-1 (default/svc); annotation networkservicemesh.io/status ")
    assert "metadata.annotations: Too long" in message(pod)
    assert seen.count(("True", "Connected")) == 1  # written once, though tried again
    (log, *_) = [each for each in logs if each["event"] == "status cannot be written"]
    assert "grant" not in log["remedy"]


async def test_an_endpoint_pod_on_its_nodes_network_is_told_on_both(cluster, nats):
    cluster.store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    cluster.store.create(PODS, a_pod("vpn-0", labels={"app": "vpn"}, host_network=True))
    async with a_watcher(cluster, nats):
        await until_event(cluster, "HostNetwork", "vpn-0")
        await until_event(cluster, "HostNetwork", "vpn")
    assert ("HostNetwork", "Warning") in events(cluster, "vpn-0")
    (said,) = events(cluster, "vpn").values()
    assert said["involvedObject"]["kind"] == "NetworkServiceEndpoint"
    assert condition(cluster.store.get(PODS, "default", "vpn-0")) is None


async def test_versions_of_a_restored_server_are_believed_after_a_while(bus, kube):
    pod = read(model.Pod, a_pod(asks="svc/nsm-1"))
    pod = msgspec.structs.replace(
        pod, metadata=msgspec.structs.replace(pod.metadata, resource_version="7")
    )
    now = 0.0
    intent = Intent(system_namespace="nsm-system")
    reporter = Reporter(
        kube=kube,
        announcer=Announcer(Events(kube, instance="x", clock=lambda: now)),
        intent=intent,
        grants=Mirror(bus, GRANT, ["nsm.>"], on_change=lambda *_: None),
        states=Mirror(bus, STATE, ["nsm.>"], on_change=lambda *_: None),
        clock=lambda: now,
        heard=lambda _: None,
        writers=1,
    )
    memory = reporter._remember(pod, showing(pod))
    written = read(model.Pod, a_pod(annotations={STATUS_ANNOTATION: "[]"}))
    written = msgspec.structs.replace(
        written, metadata=msgspec.structs.replace(written.metadata, resource_version="1000")
    )
    reporter._wrote(memory, written)
    assert reporter._shown(pod).annotation == "[]"
    now = 31.0
    assert reporter._shown(pod).annotation is None


async def test_host_network_is_told(cluster, nats):
    cluster.store.create(PODS, a_pod(asks="svc", host_network=True))
    async with a_watcher(cluster, nats):
        await cluster.until(PODS, "client", is_("False", "HostNetwork"))
        await until_event(cluster, "HostNetwork")


async def test_a_pod_that_never_asked_is_never_written(cluster, nats):
    cluster.store.create(PODS, a_pod())
    cluster.store.create(PODS, a_pod("marker", asks=":"))
    before = cluster.store.get(PODS, "default", "client")
    async with a_watcher(cluster, nats):
        await cluster.until(PODS, "marker", is_("False", "MalformedAnnotation"))
    assert cluster.store.get(PODS, "default", "client") == before


async def test_a_bad_endpoint_is_told_once_over_restarts(cluster, nats):
    bad = an_endpoint(ipam={"prefixes": ["172.16.1.1/24"]})
    cluster.store.create(NETWORK_SERVICE_ENDPOINTS, bad)
    for _ in range(2):
        async with a_watcher(cluster, nats):
            await until_event(cluster, "InvalidSpec", "vpn")
            cluster.store.create(PODS, a_pod("marker", asks=":"))
            await until_event(cluster, "MalformedAnnotation", "marker")
        cluster.store.delete(PODS, "default", "marker", grace_seconds=0)
    (said,) = events(cluster, "vpn").values()
    assert said["involvedObject"]["kind"] == "NetworkServiceEndpoint"
    assert said["count"] == 1
    assert "spec.ipam.prefixes[0]" in said["message"]


async def test_status_waits_out_an_api_server_that_is_away(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        await reader.until(lambda: reader.get(NSM1) is not None)
        await cluster.until(PODS, "client", is_("False", "Connecting"))
        await cluster.stop()
        grant = a_grant(reader.get(NSM1))
        await ipam.publish(grant)
        await ipam.bus.publish(a_status(grant))
        await cluster.restart()
        await cluster.until(PODS, "client", is_("True", "Connected"))
        await until_event(cluster, "Connected")


async def test_other_addresses_are_told_with_the_old_ones_and_why(cluster, nats, reader, ipam):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    async with a_watcher(cluster, nats):
        grant = await connect(cluster, reader, ipam)
        moved = msgspec.structs.replace(
            grant,
            revision=2,
            client=msgspec.structs.replace(grant.client, addresses=("172.16.2.2/32",)),
            readdressed="172.16.1.0/24 is excluded by the user",
        )
        await ipam.publish(moved)
        await ipam.bus.publish(a_status(moved))
        await until_event(cluster, "Readdressed")
        # The Event may come before the status.
        pod = await cluster.until(
            PODS, "client", lambda pod: shown(pod)[0]["ips"] == ["172.16.2.2"]
        )
    assert condition(pod) == ("True", "Connected")
    said = events(cluster)["Readdressed", "Warning"]["message"]
    assert "172.16.2.2 now instead of 172.16.1.2: 172.16.1.0/24 is excluded" in said


async def test_the_lease_tells_of_annotations_without_effect_and_of_an_api_server_that_is_away(
    cluster, nats, reader
):
    until = partial(until_word, reader.bus)
    cluster.store.create(PODS, a_pod("typo", asks="svc?x"))
    async with a_watcher(cluster, nats):
        word = await until(lambda word: word.notes)
        assert word.notes[0].startswith("1 Pod with an annotation that has no effect")
        assert "default/typo" in word.notes[0]
        assert not word.troubles
        cluster.store.delete(PODS, "default", "typo", grace_seconds=0)
        await until(lambda word: not word.notes)
        await cluster.stop()
        word = await until(lambda word: word.troubles)
        assert "the API server tells nothing of /api" in word.troubles[0]
        await cluster.restart()
        await until(lambda word: not word.troubles)


async def test_the_lease_tells_what_who_runs_the_mesh_has_to_correct(
    cluster, nats, reader, monkeypatch
):
    monkeypatch.setattr(defining, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(publishing, "_REFUSED_SECONDS", 0.05)
    store, reasons = cluster.store, {"MalformedPrefix", "ForeignDefinition", "NotPublished"}
    misread = an_object("excluded-prefixes", namespace="nsm-system", data={"prefixes": "10.1/8"})
    store.create(CONFIG_MAPS, misread)
    store.create(NETWORK_SERVICES, an_object("large", spec={"allowedNamespaces": TOO_MANY}))
    definition = store.get(DEFINITIONS, "", NETWORK_SERVICES.resource)
    definition["spec"]["versions"][0]["subresources"] = {}
    store.update(DEFINITIONS, definition)
    async with a_watcher(cluster, nats):
        word = await until_word(reader.bus, lambda word: len(word.mistakes) == len(reasons))
        said = {each.reason: each.message for each in word.mistakes}
        assert said.keys() == reasons
        assert "ConfigMap nsm-system/excluded-prefixes, key prefixes: line 1" in said[MALFORMED]
        assert "1 message, such as nsm.networkservice.default.large" in said["NotPublished"]
        assert not word.troubles
        store.delete(CONFIG_MAPS, "nsm-system", "excluded-prefixes")
        store.delete(NETWORK_SERVICES, "default", "large")
        definition["spec"]["versions"][0]["subresources"] = {"status": {}}
        definition["metadata"].pop("resourceVersion", None)
        store.update(DEFINITIONS, definition)
        await until_word(reader.bus, lambda word: not word.mistakes)


def test_a_kind_that_is_not_installed_is_told_with_what_that_means():
    gone: Any = SimpleNamespace(
        resource=SimpleNamespace(title="endpoints"), trouble=lambda: NOT_INSTALLED
    )
    (trouble,) = seen_by([gone], Intent(system_namespace="nsm-system")).troubles
    assert "counts as deleted" in trouble and "stay" not in trouble


def test_what_an_api_server_says_at_length_does_not_cost_the_lease():
    silent: Any = SimpleNamespace(
        resource=SimpleNamespace(title="pods"), trouble=lambda: "a page of a proxy " * 100_000
    )
    (trouble,) = seen_by([silent], Intent(system_namespace="nsm-system")).troubles
    assert len(trouble) < 1_000
    assert "pods" in trouble
