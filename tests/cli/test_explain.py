"""`nsm explain`: each stage of a Pod, and which is the first that is wrong."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli import cluster, kube, labs, pods
from cli.explain import asking, stages, telling
from cli.explain.model import Evidence, Explanation
from cli.problems import Problem, Unheard
from cli.remedies import Place
from cli.status.survey import Told
from schemas import live
from schemas.grant import Candidate, Connection
from schemas.intent import Destination, Dns, Match, NetworkService, Request
from schemas.state import Resolver, Upstream
from schemas.subjects import StatusKey
from services._runtime.bus import Bus
from services.watcher.model import (
    Condition,
    Metadata,
    Namespace,
    NetworkServiceEndpoint,
    Pod,
    PodSpec,
    PodStatus,
)
from tests.builders import (
    a_connection,
    a_leader,
    a_pod,
    a_refusal,
    a_request,
    a_status,
    an_end_status,
    an_endpoint,
)
from tests.cli.test_main import nsm

CONDITION = "networkservicemesh.io/connected"
SERVED = Dns(servers=("172.16.1.1",), domains=("corp.example",))
ALIVE = (
    live.Alive(node="node1"),
    live.Lease(service="ipam", holder="h"),
    live.Lease(service="watcher", holder="h"),
)
DEAF = live.Lease(
    service="watcher",
    holder="h",
    word=live.LeaderReport(troubles=("the API server tells nothing of pods",)),
)
BOTH_ENDS = a_status(server=an_end_status("gateway"))
CONNECTED = (*ALIVE, a_request(), an_endpoint(), a_connection(), BOTH_ENDS)
REQUESTED = (*ALIVE, a_request(), an_endpoint())


def the_pod(annotation: str | None = "vpn/nsm-vpn", **fields: Any) -> Pod:
    """`default/client` as the API server has it, told that it is connected."""
    values: dict[str, Any] = {
        "spec": PodSpec(node_name="node1"),
        "status": PodStatus(
            phase="Running",
            conditions=(Condition(type=CONDITION, status="True", reason="Connected"),),
        ),
    }
    own = {} if annotation is None else {"networkservicemesh.io": annotation}
    metadata = Metadata(name="client", namespace="default", uid="uid-of-client", annotations=own)
    return Pod(metadata=metadata, **{**values, **fields})


def evidence(*messages: Any, **fields: Any) -> Evidence:
    values: dict[str, Any] = {
        "namespace": "default",
        "name": "client",
        "pod": the_pod(),
        "dns_nodes": frozenset({"node1"}),
    }
    told = {each.key: Told(each.key, each, 0.0) for each in messages}
    return Evidence(told=told, **{**values, **fields})


def explained(found: Evidence) -> Explanation:
    return stages.explain(found, Place(is_lab=False))


def states(found: Explanation) -> dict[str, str]:
    (item,) = found.items
    return {each.name: each.state for each in item.stages}


def test_of_a_connected_pod_every_stage_is_well():
    found = explained(evidence(*CONNECTED))
    assert found.well, found.first
    assert (found.first, found.remedy) == ("", "")
    assert states(found) == {
        "asked": "ok",
        "chosen": "ok",
        "granted": "ok",
        "plumbed": "ok",
        "resolved": "none",
    }
    assert (found.asked.state, found.told.state, found.serves.state) == ("ok", "ok", "none")


def with_dns(connection: Connection, resolver: Resolver | None) -> Evidence:
    granted = msgspec.structs.replace(connection, dns=SERVED)
    applied = an_end_status(applied=granted)
    status = a_status(client=applied, server=an_end_status("gateway"))
    more = () if resolver is None else (resolver,)
    return evidence(*REQUESTED, granted, status, *more)


def a_resolver(**fields: Any) -> Resolver:
    values: dict[str, Any] = {
        "node": "node1",
        "namespace": "default",
        "pod": "client",
        "uid": "uid-of-client",
        "state": "serving",
        "upstreams": (
            Upstream(
                name="default/vpn",
                servers=SERVED.servers,
                domains=SERVED.domains,
                interface="nsm-vpn",
                revision=1,
            ),
        ),
    }
    return Resolver(**{**values, **fields})


def the_plumber(**fields: Any) -> dict[str, Any]:
    own: dict[str, Any] = {
        "connection": a_connection().key.subject,
        "role": "client",
        "actual": None,
        "differences": [],
        "last_error": "",
        "repaired": "",
    }
    return {"node": "node1", "connections": [own | fields]}


FAILED = a_status(
    client=an_end_status(state="failed", reason="KernelError", message="no space", applied=None)
)

COVERED = a_connection(covered="172.16.1.2 came to overlap 172.16.0.0/16 (the user)")

FIRST: dict[str, tuple[Evidence, str, str]] = {
    "a malformed annotation": (
        evidence(*ALIVE, pod=the_pod("vpn?x")),
        "asked: MalformedAnnotation: annotation networkservicemesh.io, column",
        "correct it",
    ),
    "the node's network": (
        evidence(*ALIVE, pod=the_pod(spec=PodSpec(node_name="node1", host_network=True))),
        "asked: HostNetwork",
        "run it without hostNetwork",
    ),
    "a Pod without a node": (
        evidence(*ALIVE, pod=the_pod(spec=PodSpec(), status=PodStatus())),
        "asked: the Pod has no node yet",
        "describe pod client",
    ),
    "a request that is not on the bus": (
        evidence(*ALIVE),
        "nsm-vpn: asked: the watcher has not put this on the bus",
        "name=watcher",
    ),
    "a request that is not on the bus, and nobody leads": (
        evidence(live.Alive(node="node1")),
        "nsm-vpn: asked: the watcher has not put this on the bus, and nobody leads watcher",
        "name=watcher",
    ),
    "a request that changed": (
        evidence(*CONNECTED, pod=the_pod("vpn/nsm-vpn?a=b")),
        "nsm-vpn: asked: the bus asks for it as it was before",
        "name=watcher",
    ),
    "a request that is not wanted any more": (
        evidence(*CONNECTED, pod=the_pod("")),
        "nsm-vpn: asked: the annotation does not ask for it any more",
        "name=watcher",
    ),
    "no answer": (
        evidence(*REQUESTED),
        "nsm-vpn: chosen: ipam has not answered yet",
        "name=ipam",
    ),
    "no answer, and nobody leads": (
        evidence(a_request(), live.Alive(node="node1")),
        "nsm-vpn: chosen: nobody leads ipam",
        "name=ipam",
    ),
    "a refused choice": (
        evidence(*REQUESTED, a_refusal()),
        "nsm-vpn: chosen: NoEndpoint: no endpoint offers vpn",
        "create an endpoint",
    ),
    "no address": (
        evidence(*REQUESTED, a_refusal(reason="PoolExhausted", message="253 of 253 used")),
        "nsm-vpn: granted: PoolExhausted: 253 of 253 used",
        "add a prefix",
    ),
    "an address that a prefix in use covers": (
        evidence(
            *REQUESTED,
            COVERED,
            a_status(client=an_end_status(applied=COVERED), server=an_end_status("gateway")),
        ),
        "nsm-vpn: granted: PrefixCollision: it stays, for nothing else is free, although 172.16.1.2",
        "choose another prefix",
    ),
    "an address that is covered, and a node that has said nothing": (
        evidence(*REQUESTED, COVERED),
        "nsm-vpn: plumbed: Connecting: waiting for node node1",
        "spec.nodeName=node1",
    ),
    "a node that has said nothing": (
        evidence(*REQUESTED, a_connection()),
        "nsm-vpn: plumbed: Connecting: waiting for node node1",
        "spec.nodeName=node1",
    ),
    "a kernel that refused": (
        evidence(*REQUESTED, a_connection(), FAILED),
        "nsm-vpn: plumbed: KernelError: no space",
        "see the plumber's log",
    ),
    "a kernel that failed, and a plumber that is silent": (
        evidence(a_request(), an_endpoint(), a_connection(), FAILED),
        "nsm-vpn: plumbed: KernelError",
        "spec.nodeName=node1",
    ),
    "a kernel that differs": (
        evidence(*CONNECTED, plumbers=(the_plumber(differences=["nsm-vpn: to be set up"]),)),
        "nsm-vpn: plumbed: the kernel differs from the grant: nsm-vpn: to be set up",
        "repairs it",
    ),
    "no word of the dns service": (
        with_dns(a_connection(), None),
        "nsm-vpn: resolved: ResolverPending",
        "name=dns",
    ),
    "a capture that failed": (
        with_dns(
            a_connection(),
            a_resolver(state="failed", reason="DNSCaptureConflict", message="a sidecar"),
        ),
        "nsm-vpn: resolved: DNSCaptureConflict",
        'capture: "false"',
    ),
    "a dns service that is gone": (
        msgspec.structs.replace(with_dns(a_connection(), a_resolver()), dns_nodes=frozenset()),
        "nsm-vpn: resolved: the dns service of node node1 does not follow the bus",
        "name=dns",
    ),
    "a dns service that hangs": (
        msgspec.structs.replace(with_dns(a_connection(), a_resolver()), dns_unheard="node1"),
        "nsm-vpn: resolved: the dns service of node node1 holds its connection to the bus and does not",
        "name=dns",
    ),
    "a server that is dead": (
        msgspec.structs.replace(
            with_dns(a_connection(), a_resolver()),
            dns={
                "answers": {
                    "servers": [
                        {"interface": "nsm-vpn", "server": "172.16.1.1", "state": "dead"},
                        {"interface": "cluster", "server": "10.96.0.10", "state": "well"},
                    ]
                }
            },
        ),
        "nsm-vpn: resolved: DNS server 172.16.1.1 of the network service is dead",
        "port 53 in Pod default/gateway",
    ),
    "a server that has not answered yet": (
        msgspec.structs.replace(
            with_dns(a_connection(), a_resolver()),
            dns={
                "answers": {
                    "servers": [
                        {
                            "interface": "nsm-vpn",
                            "server": "172.16.1.1",
                            "state": "unheard",
                            "unanswered": 1,
                        }
                    ]
                }
            },
        ),
        "nsm-vpn: resolved: DNS server 172.16.1.1 of the network service is unheard: 1 of 1 queries",
        "port 53 in Pod default/gateway",
    ),
    "a condition that is of before": (
        evidence(
            *CONNECTED,
            pod=the_pod(
                status=PodStatus(
                    conditions=(Condition(type=CONDITION, status="False", reason="NoEndpoint"),)
                )
            ),
        ),
        "told: condition networkservicemesh.io/connected is False, NoEndpoint, and should say True",
        "name=watcher",
    ),
    "an API server of which the watcher hears nothing": (
        evidence(*CONNECTED, DEAF),
        "told: watcher: the API server tells nothing of pods",
        "kubectl get --raw /readyz",
    ),
    "a request that is not on the bus, for the watcher hears nothing": (
        evidence(*ALIVE, DEAF),
        "nsm-vpn: asked: the watcher has not put this on the bus, and watcher: the API server tells",
        "kubectl get --raw /readyz",
    ),
    "an API server that does not answer": (
        evidence(*CONNECTED, DEAF, pod=None, api_note="kubectl: timed out", is_api_away=True),
        "told: edits wait, connections stay: kubectl: timed out",
        "kubectl get --raw /readyz",
    ),
    "a watcher that is gone": (
        evidence(live.Alive(node="node1"), ALIVE[1], *CONNECTED[3:]),
        "told: nobody leads watcher: edits wait, connections stay",
        "name=watcher",
    ),
    "an endpoint Pod whose end failed": (
        evidence(
            *ALIVE,
            an_endpoint(),
            a_connection(),
            a_status(
                server=an_end_status("gateway", state="failed", reason="KernelError", message="no")
            ),
            name="gateway",
            pod=None,
        ),
        "serves: its end of default/client nsm-vpn: KernelError: no",
        "see the plumber's log",
    ),
    "an endpoint Pod that is not Ready": (
        evidence(*ALIVE, an_endpoint(ready=False), name="gateway", pod=None),
        "serves: the Pod is not Ready: it gets no new clients of vpn",
        "describe pod gateway",
    ),
    "what nobody asks for": (
        evidence(*ALIVE, a_connection(), BOTH_ENDS, pod=None),
        "nsm-vpn: granted: nobody asks for it any more",
        "name=ipam",
    ),
}


@pytest.mark.parametrize("case", FIRST)
def test_the_first_thing_that_is_wrong_is_named_with_its_remedy(case):
    found, first, remedy = FIRST[case]
    explanation = explained(found)
    assert not explanation.well
    assert explanation.first.startswith(first)
    assert remedy in explanation.remedy


@pytest.mark.parametrize("case", [*FIRST, "well"])
def test_it_is_readable_at_eighty_columns_and_ends_with_the_verdict(case, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    found = FIRST[case][0] if case in FIRST else evidence(*CONNECTED)
    telling.tell(explained(found))
    printed = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in printed) <= 80
    if case == "well":
        assert printed[-1] == "all is well"
    else:
        assert any(line.startswith("WRONG ") for line in printed)


def test_the_annotation_of_its_namespace_is_named_as_that():
    home = Namespace(
        metadata=Metadata(name="default", annotations={"networkservicemesh.io": "vpn/nsm-vpn"})
    )
    found = explained(evidence(*CONNECTED, pod=the_pod(None), home=home))
    assert found.asked.lines == ("annotation of Namespace default: vpn/nsm-vpn",)
    assert found.well


NEAR = "networkservicesmesh.io"
OTHERS = ("networking.gke.io", "servicemesh.io/inject", "networkservicemesh.io/status")


def annotated(**keys: str) -> Pod:
    found = the_pod(None, status=PodStatus(phase="Running"))
    return msgspec.structs.replace(
        found, metadata=msgspec.structs.replace(found.metadata, annotations=keys)
    )


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        (NEAR, "networkservicemesh.io"),
        ("networkservicemesh.io/networkservice", "networkservicemesh.io"),
        ("ns.networkservicemesh.io", "networkservicemesh.io"),
        ("networkservicemesh.com", "networkservicemesh.io"),
        ("dns.networkservicemesh.io/captured", "dns.networkservicemesh.io/capture"),
    ],
)
def test_an_annotation_whose_key_is_nearly_ours_is_named_where_nothing_is_asked_for(key, meant):
    found = explained(evidence(*ALIVE, pod=annotated(**{key: "vpn"})))
    said = f"nobody reads annotation {key} of the Pod; did you mean {meant}?"
    assert found.first == f"asked: {said}"
    assert found.remedy.startswith(f"rename it to {meant};")


def test_the_misspelt_annotation_of_a_namespace_is_named_as_that():
    home = Namespace(metadata=Metadata(name="default", annotations={NEAR: "vpn"}))
    found = explained(evidence(*ALIVE, pod=annotated(), home=home))
    assert f"annotation {NEAR} of Namespace default" in found.first


@pytest.mark.parametrize(
    "keys", [OTHERS, ("networkservicemesh.io", NEAR)], ids=["others", "asks for nothing on purpose"]
)
def test_other_annotations_are_nobodys_mistake(keys):
    found = explained(evidence(*ALIVE, pod=annotated(**dict.fromkeys(keys, ""))))
    assert (found.asked.state, found.asked.lines) == ("none", ("asks for no network service",))


def test_beside_what_is_asked_for_a_misspelt_annotation_is_a_line():
    both = the_pod()
    metadata = msgspec.structs.replace(
        both.metadata, annotations={**both.annotations, NEAR: "other"}
    )
    found = explained(evidence(*CONNECTED, pod=msgspec.structs.replace(both, metadata=metadata)))
    assert found.well
    assert f"nobody reads annotation {NEAR} of the Pod" in found.asked.lines[1]


def test_without_the_api_server_the_bus_alone_is_explained(capsys):
    found = explained(evidence(*CONNECTED, pod=None, api_note="there is no kubectl here"))
    assert found.well
    assert (found.asked.state, found.told.state) == ("unknown", "unknown")
    assert "there is no kubectl here" in found.asked.lines[0]
    assert states(found)["plumbed"] == "ok"
    telling.tell(found)
    assert capsys.readouterr().out.endswith("all is well, as far as the bus tells\n")


def test_an_api_server_that_only_the_watcher_hears_is_no_fault_of_the_cluster():
    """It may be the kubeconfig's; in a lab there is none between."""
    away = evidence(*CONNECTED, pod=None, api_note="kubectl: timed out", is_api_away=True)
    found = explained(away)
    assert found.well
    assert (found.told.state, found.told.lines) == (
        "unknown",
        ("condition not known: kubectl: timed out",),
    )
    assert not stages.explain(away, Place(is_lab=True)).well


def test_of_a_silent_plumber_the_last_word_counts_and_is_named_as_that():
    found = explained(evidence(a_request(), an_endpoint(), a_connection(), BOTH_ENDS))
    (item,) = found.items
    plumbed = item.stages[3]
    assert any("no heartbeat of its plumber" in line for line in plumbed.lines)
    assert plumbed.state == "wrong"  # as a dns service that is gone
    assert found.first.startswith("nsm-vpn: plumbed: no heartbeat of the plumber of node1")


def test_in_a_lab_what_is_dead_is_started():
    silent = evidence(a_request(), an_endpoint(), a_connection(), BOTH_ENDS)
    gone = msgspec.structs.replace(with_dns(a_connection(), a_resolver()), dns_nodes=frozenset())
    remedies = [stages.explain(found, Place(is_lab=True)).remedy for found in (silent, gone)]
    assert [each.partition(";")[0] for each in remedies] == [
        "nsm lab start plumber/node1",
        "nsm lab start dns/node1",
    ]


def test_an_endpoint_without_an_address_was_chosen_and_grants_nothing():
    full = Candidate(endpoint="vpn (pod gateway)", reason="has none of 62 addresses left")
    refused = a_refusal(reason="PrefixCollision", message="so", candidates=(full,))
    found = explained(evidence(*REQUESTED, refused))
    (item,) = found.items
    told = {each.name: (each.state, each.lines) for each in item.stages[1:]}
    assert told == {
        "chosen": ("ok", ("could be vpn (pod gateway)",)),
        "granted": ("wrong", ("vpn (pod gateway): has none of 62 addresses left",)),
    }
    assert found.remedy.startswith("choose another prefix")


def test_who_fell_out_of_the_choice_and_who_would_do_is_told():
    old = an_endpoint("old", "gateway-old", labels={"version": "1"})
    found = explained(
        evidence(
            *CONNECTED[:-3],
            a_request(labels={"version": "2"}),
            an_endpoint(labels={"version": "2"}),
            an_endpoint("vpn", "second", labels={"version": "2"}),
            old,
            a_connection(),
            BOTH_ENDS,
            pod=the_pod("vpn/nsm-vpn?version=2"),
        )
    )
    (item,) = found.items
    lines = "\n".join(item.stages[1].lines)
    assert "endpoint default/vpn, its Pod gateway on node node1" in lines
    assert "because it is one with version=2, and it is on the client's node" in lines
    assert "would do, too: vpn (pod second, version=2) on node node1" in lines
    assert "fell out: old (pod gateway-old, version=1) does not match version=2" in lines


def test_the_interfaces_stand_in_the_order_of_the_annotation():
    two = [msgspec.structs.replace(a_request(), interface=each) for each in ("a0", "z0", "m0")]
    found = explained(evidence(*ALIVE, *two, pod=the_pod("vpn/z0,vpn/a0")))
    assert [each.interface for each in found.items] == ["z0", "a0", "m0"]


@pytest.mark.parametrize("name", ["client", "gateway"])
def test_that_the_endpoints_newer_spec_is_refused_is_told_to_both_ends(name):
    offered = msgspec.structs.replace(an_endpoint(), refused="ipam.prefixes[0]: no")
    asked = a_request() if name == "client" else a_request("other")
    messages = (*ALIVE, asked, offered, a_connection(), BOTH_ENDS)
    found = explained(evidence(*messages, name=name, pod=the_pod() if name == "client" else None))
    stage = found.items[0].stages[1] if name == "client" else found.serves
    assert "its newer spec is refused, the older one holds: ipam.prefixes[0]: no" in stage.lines
    assert stage.state == "ok"


def the_endpoint(**spec: Any) -> NetworkServiceEndpoint:
    written = {"networkServices": ["vpn"], "podSelector": {"matchLabels": {"app": "x"}}, **spec}
    metadata = Metadata(name="vpn", namespace="default", uid="u", generation=1)
    return NetworkServiceEndpoint(metadata=metadata, spec=written)


def test_an_endpoint_that_cannot_be_read_is_why_nobody_serves_as_the_pod_is_told():
    told = Condition(type=CONDITION, status="False", reason="InvalidSpec")
    found = explained(
        evidence(
            *ALIVE,
            a_request(),
            a_refusal(),
            pod=the_pod(status=PodStatus(conditions=(told,))),
            endpoints=(the_endpoint(ipam={"prefixes": ["172.21.0.1/24"]}),),
        )
    )
    assert found.first.startswith("nsm-vpn: chosen: InvalidSpec: network service vpn: ")
    assert "ipam.prefixes[0]" in found.first
    assert "write 172.21.0.0/24" in found.first
    assert found.remedy == "correct the field that is named"
    assert found.told.state == "ok"


@pytest.mark.parametrize("is_told", [False, True])
def test_an_endpoint_that_is_refused_is_what_is_wrong_with_its_pod(is_told: bool):
    bad = the_endpoint(ipam={"prefixes": ["172.21.0.1/24"]})
    condition = {"type": "Accepted", "status": "False", "reason": "BadEndpoint", "message": "no"}
    if is_told:
        bad = msgspec.structs.replace(bad, status={"conditions": [condition]})
    elsewhere = msgspec.structs.replace(
        bad, metadata=msgspec.structs.replace(bad.metadata, namespace="far")
    )
    metadata = Metadata(name="gateway", namespace="default", uid="u", labels={"app": "x"})
    gateway = msgspec.structs.replace(
        the_pod(), metadata=metadata, status=PodStatus(phase="Running")
    )
    found = explained(evidence(*ALIVE, name="gateway", pod=gateway, endpoints=(elsewhere, bad)))
    expected = "BadEndpoint: no" if is_told else "InvalidSpec: "
    assert found.first.startswith(f"serves: endpoint default/vpn: {expected}")
    assert found.remedy
    other = msgspec.structs.replace(
        gateway, metadata=msgspec.structs.replace(gateway.metadata, labels={"app": "y"})
    )
    found = explained(evidence(*ALIVE, name="gateway", pod=other, endpoints=(bad,)))
    assert found.well


def test_an_endpoint_whose_selector_matches_no_pod_is_named():
    found = explained(evidence(*ALIVE, a_request(), a_refusal(), endpoints=(the_endpoint(),)))
    assert found.first.startswith(
        "nsm-vpn: chosen: NoEndpoint: network service vpn: NetworkServiceEndpoint default/vpn is there, but its pod"
    )
    assert found.first.endswith("in a network of its own)")
    assert found.remedy.startswith("correct its podSelector, or a Pod's labels, or start a Pod: ")
    assert "create" not in found.remedy
    other = the_endpoint(networkServices=["other"])
    found = explained(evidence(*ALIVE, a_request(), a_refusal(), endpoints=(other,)))
    assert "create an endpoint" in found.remedy


def test_an_endpoint_whose_pod_the_bus_has_is_not_said_to_have_none():
    # ipam is dead, or behind: its refusal is older than the Pod.
    found = explained(evidence(*REQUESTED, a_refusal(), endpoints=(the_endpoint(),)))
    assert found.first == "nsm-vpn: chosen: NoEndpoint: no endpoint offers vpn: start one"


def test_a_rule_that_chose_is_named():
    rules = NetworkService(
        namespace="default", name="vpn", matches=(Match(routes=(Destination(),)),)
    )
    found = explained(evidence(*CONNECTED, rules))
    (item,) = found.items
    assert "a match of NetworkService default/vpn leads there" in item.stages[1].lines[1]


def test_the_other_end_is_told_from_its_own_node():
    granted = msgspec.structs.replace(
        a_connection(),
        server=msgspec.structs.replace(a_connection().server, pod=a_pod("gateway", node="node2")),
        mechanism="vxlan",
        vni=7,
    )
    there = msgspec.structs.replace(
        a_status(),
        node="node2",
        client=None,
        server=an_end_status("gateway", state="pending", reason="PeerNotReady", message="wait"),
    )
    assert there.key == StatusKey("node2", "default", "client", "nsm-vpn")
    found = explained(evidence(*REQUESTED, granted, a_status(), there, live.Alive(node="node2")))
    (item,) = found.items
    assert "172.16.1.2 to 172.16.1.1, vxlan, VNI 7" in item.stages[2].lines[0]
    assert "other end: node node2 said pending, PeerNotReady: wait" in item.stages[3].lines


def test_a_request_of_an_earlier_pod_of_that_name_is_not_its_own():
    earlier: Request = msgspec.structs.replace(a_request(), pod=a_pod(uid="earlier"))
    found = explained(evidence(*ALIVE, earlier))
    assert found.first.startswith("nsm-vpn: asked: the bus asks for it as it was before")


# ---- on a real bus


async def test_only_what_is_about_the_pod_is_read(bus: Bus, nats_server: Any):
    for message in (a_leader(), a_request(), a_request("other"), an_endpoint(), a_connection()):
        await bus.publish(message)
    await bus.publish(a_connection("other"))
    await bus.publish(a_status("other"))
    told, malformed, nodes = await asking._read(nats_server.url, "default", "client")
    subjects = sorted(key.subject for key in told)
    assert subjects == sorted(
        each.key.subject for each in (a_leader(), a_request(), an_endpoint(), a_connection())
    )
    assert (malformed, nodes) == ((), frozenset())
    # Of an endpoint Pod everything on its node may be about it.
    told, *_ = await asking._read(nats_server.url, "default", "gateway")
    assert {a_connection().key, a_connection("other").key} <= told.keys()


async def test_a_pod_of_another_namespace_is_named_where_none_is_here(
    bus: Bus, nats_server: Any, tmp_path
):
    await bus.publish(msgspec.structs.replace(a_request(), pod=a_pod(namespace="team-a")))
    words = ("explain", "client", "--url", nats_server.url, "--kubeconfig", "/nowhere")
    done = await asyncio.to_thread(nsm, *words, lab=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "default/client" in done.stderr
    assert "of that name: team-a/client" in done.stderr


async def test_the_command_answers_in_json_with_its_exit_code(bus: Bus, nats_server: Any, tmp_path):
    await bus.publish(a_request())
    words = ("explain", "client", "-o", "json", "--url", nats_server.url, "--kubeconfig", "/none")
    done = await asyncio.to_thread(nsm, *words, lab=str(tmp_path))
    assert done.returncode == 1
    found = msgspec.convert(json.loads(done.stdout), Explanation)
    assert found.first == "nsm-vpn: chosen: nobody leads ipam: no request is answered"


LOCALHOST = (
    "The connection to the server localhost:8080 was refused - did you specify the right host?"
)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'error: You must be logged in to the server (Unauthorized)' >&2; exit 1", "Unauth"),
        ("echo 'connection refused' >&2; exit 1", "connection refused"),
        ("exit 3", "exit code 3"),
        (f"echo '{LOCALHOST}' >&2; exit 1", "localhost:8080"),
    ],
)
def test_why_the_cluster_does_not_tell_is_told(tmp_path, monkeypatch, script, said):
    caught = kubectl_fails(tmp_path, monkeypatch, script)
    assert said in str(caught)
    assert not isinstance(caught, Unheard)


@pytest.mark.parametrize(
    "said",
    [
        "Error from server (ServiceUnavailable): the server is currently unable to handle it",
        "Error from server (InternalError): an error on the server",
        "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host?",
        "Unable to connect to the server: net/http: request canceled (Client.Timeout exceeded)",
        "error: the server doesn't answer: context deadline exceeded",
    ],
)
def test_an_api_server_that_is_away_is_told_from_a_wish_that_is_refused(
    tmp_path, monkeypatch, said
):
    script = f'echo "{said}" >&2; exit 1'
    assert isinstance(kubectl_fails(tmp_path, monkeypatch, script), Unheard)


@pytest.mark.parametrize(
    "why",
    [
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        "dial tcp: lookup gone.example on 10.0.0.1:53: no such host",
        "getting credentials: exec: executable aws not found",
    ],
)
def test_a_kubeconfig_that_leads_nowhere_is_told_from_an_api_server_that_is_away(
    tmp_path, monkeypatch, why
):
    script = f"echo 'Unable to connect to the server: {why}' >&2; exit 1"
    caught = kubectl_fails(tmp_path, monkeypatch, script)
    assert why in str(caught)
    assert not isinstance(caught, Unheard)


def kubectl_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Problem:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\n{script}\n")
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(Problem) as caught:
        cluster._kubectl(["pod", "x"], "")
    return caught.value


def test_where_there_is_no_kubectl_that_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match="no kubectl"):
        cluster._kubectl(["pod", "x"], "")


def test_a_dead_server_that_the_endpoint_names_leads_to_its_spec():
    granted = msgspec.structs.replace(a_connection(), dns=Dns(servers=("10.99.0.1",)))
    dead = {"interface": "nsm-vpn", "server": "10.99.0.1", "state": "dead"}
    found = evidence(*CONNECTED[:-2], granted, BOTH_ENDS, dns={"answers": {"servers": [dead]}})
    upstream = Upstream(
        name="default/vpn", servers=("10.99.0.1",), interface="nsm-vpn", revision=granted.revision
    )
    resolver = a_resolver(upstreams=(upstream,))
    told = {**found.told, resolver.key: Told(resolver.key, resolver, 0.0)}
    explanation = explained(msgspec.structs.replace(found, told=told))
    assert "DNS server 10.99.0.1 of the network service is dead" in explanation.first
    assert explanation.remedy.startswith("correct spec.dns.servers of the NetworkServiceEndpoint")


@pytest.mark.parametrize("look", ["explain", "pods"])
def test_an_api_server_that_hangs_is_named_and_not_waited_for(monkeypatch, look):
    class Hanging:
        async def find(self, *_: object) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(kube, "run", lambda action: asyncio.run(action(Hanging())))
    monkeypatch.setattr(labs, "running", lambda: None)
    monkeypatch.setattr(cluster, "_API_SECONDS", 0.01)
    monkeypatch.setattr(pods, "_API_SECONDS", 0.01)
    if look == "pods":
        assert pods.found_in_lab("default", "client") is None
        return
    pod, home, note, is_away = asking._from_api("default", "client", is_lab=True, kubeconfig="")
    assert (pod, home, is_away) == (None, None, True)
    assert "the API server does not answer" in note


def test_of_a_silent_node_either_word_of_the_watcher_may_be_due():
    """How long it has been silent is measured by the watcher alone."""
    request = a_request()
    pod = msgspec.structs.replace(request.pod, node_ready=False)
    silent = (
        *(live.Lease(service=name, holder="h") for name in ("ipam", "watcher")),
        msgspec.structs.replace(request, pod=pod),
        an_endpoint(),
        a_connection(),
        BOTH_ENDS,
    )
    unknown = Condition(type=CONDITION, status="Unknown", reason="NodeLost")
    found = explained(
        evidence(*silent, pod=the_pod(status=PodStatus(phase="Running", conditions=(unknown,))))
    )
    assert found.told.state == "ok"
    assert found.told.lines == (f"condition {CONDITION} is Unknown, NodeLost",)
    assert not found.well  # its plumber is silent
    early = explained(evidence(*silent))
    assert early.told.state == "ok"
    assert early.told.lines == (f"condition {CONDITION} is True, Connected",)
    back = explained(
        evidence(
            live.Alive(node="node1"),
            *silent,
            pod=the_pod(status=PodStatus(phase="Running", conditions=(unknown,))),
        )
    )
    assert back.told.problem.startswith(
        f"condition {CONDITION} is Unknown, NodeLost, and should say True, Connected"
    )
