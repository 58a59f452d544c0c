"""`nsm status`: what it sees on a real bus, and what it makes of a sight."""

import asyncio
import io
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from cli import labs, offering, persons
from cli.remedies import Place
from cli.status import command, judging, survey, telling
from cli.status.model import Status
from cli.status.survey import Copy, Follower, Sight, Stream, Told
from schemas import live
from schemas.intent import Dns, PodRef, Request
from schemas.state import Resolver
from services._runtime import streams
from services._runtime.bus import Bus
from services.watcher.core import specs
from tests.builders import (
    a_connection,
    a_leader,
    a_pod,
    a_pool,
    a_prefix_in_use,
    a_refusal,
    a_request,
    a_status,
    an_end_status,
    an_endpoint,
    node_facts,
)
from tests.cli.test_explain import the_endpoint
from tests.cli.test_main import nsm
from tests.runtime.callout import GuardedNats, Tokens, answering
from tests.runtime.helpers import Leading, mirroring, running

NOW = 1_000_000.0


def told(message: Any, *, age: float = 100.0) -> Told:
    return Told(message.key, message, NOW - age)


def of_pod(request: Request, pod: PodRef) -> Request:
    return msgspec.structs.replace(request, pod=pod)


def a_follower(role: str, node: str = "", **fields: Any) -> Follower:
    values: dict[str, Any] = {
        "process": f"{role}-{node}-00000000",
        "role": role,
        "node": node,
        "stream": streams.GRANT,
        "since": NOW - 50,
        "bound": True,
        "version": "1.0",
    }
    return Follower(**{**values, **fields})


def a_stream(name: str = streams.GRANT, **fields: Any) -> Stream:
    values: dict[str, Any] = {
        "name": name,
        "messages": 3,
        "bytes": 300,
        "max_bytes": 1000,
        "copies": (Copy(server="n1", leads=True),),
        "max_consumers": 100,
    }
    return Stream(**{**values, **fields})


def a_lease(**said: Any) -> live.Lease:
    """The watcher's, with what it says beside it."""
    return live.Lease(service="watcher", holder="holder-1", word=live.LeaderReport(**said))


FOLLOWERS = (
    *(a_follower(name) for name in ("watcher", "ipam")),
    *(a_follower(role, "node1") for role in ("plumber", "dns")),
)
HEALTHY = {
    "watcher leads": (told(a_leader("watcher", complete=True)),),
    "ipam leads": (told(a_leader("ipam", complete=True, since="1970-01-12T13:00:00+00:00")),),
    "leases": tuple(
        told(live.Lease(service=name, holder="holder-1"), age=0.5) for name in ("watcher", "ipam")
    ),
    "node": (
        told(a_prefix_in_use(source="node", name="node1")),
        told(node_facts("node1", mtu=1500)),
    ),
    "alive": (told(live.Alive(node="node1"), age=1.0),),
    "request": (told(a_request()),),
    "grant": (told(a_connection()),),
    "status": (told(a_status(server=a_status().client)),),
    "pool": (told(a_pool()),),
}


def a_sight(*, without: tuple[str, ...] = (), more: tuple[Told, ...] = (), **fields: Any) -> Sight:
    values: dict[str, Any] = {
        "url": "nats://nats:4222",
        "server": "n1 2.15.1",
        "role": "viewer",
        "login_seconds": 0.01,
        "now": NOW,
        "streams": (a_stream(),),
        "followers": FOLLOWERS,
    }
    values |= fields
    kept = (each for name, part in HEALTHY.items() if name not in without for each in part)
    by_key = {each.key: each for each in (*kept, *more)}
    return Sight(told=tuple(by_key.values()), **values)


def judged(sight: Sight) -> Status:
    return judging.judge(sight, Place(is_lab=False))


def test_of_a_healthy_system_nothing_is_wrong():
    status = judged(a_sight())
    assert status.well, status.wrong
    assert status.counts is not None
    assert (status.counts.requests, status.counts.connected) == (1, 1)
    (_, ipam) = status.services
    assert (ipam.leader, ipam.replicas, ipam.complete) == ("holder-1", 1, True)
    assert ipam.leads_since is not None
    assert ipam.leads_since < NOW
    (node,) = status.nodes
    assert (node.plumber, node.dns, node.clients, node.endpoints) == ("alive", "alive", 1, 1)


def without_role(role: str) -> tuple[Follower, ...]:
    return tuple(each for each in FOLLOWERS if each.role != role)


OLD = told(a_request("other"), age=60)
DNS = a_connection(dns=Dns(servers=("172.16.1.1",)))

COVERED = a_connection(covered="172.16.1.2 came to overlap 172.16.0.0/16 (the user)")

END = an_end_status(applied=COVERED)


ILLS: dict[str, tuple[Sight, str, str]] = {
    "nobody leads and is there": (
        a_sight(
            more=(told(live.Lease(service="ipam", holder=""), age=9),),
            without=("leases",),
            followers=without_role("ipam"),
        ),
        "nobody leads ipam, and no process of ipam is there",
        "app.kubernetes.io/name=ipam",
    ),
    "nobody leads though one is there": (
        a_sight(without=("leases",)),
        "nobody leads ipam, though 1 of ipam are there",
        "logs -l app.kubernetes.io/name=ipam",
    ),
    "the leader has not told all": (
        a_sight(more=(told(a_leader("ipam")),)),
        "ipam has not written all it knows yet",
        "name=ipam",
    ),
    "a node is awaited since the bus was lost": (
        a_sight(more=(told(a_leader("ipam", complete=True, silent=("node7",))),)),
        "node7 has not told what it still has",
        "delete its Node object",
    ),
    "another one has the lease": (
        a_sight(more=(told(live.Lease(service="ipam", holder="holder-2")),)),
        "holder-2 holds the lease of ipam and does not lead yet",
        "name=ipam",
    ),
    "a plumber is silent": (
        a_sight(without=("alive",)),
        "no heartbeat of the plumber on node1",
        "spec.nodeName=node1",
    ),
    "a plumber is dead": (
        a_sight(without=("alive",), followers=without_role("plumber")),
        "no heartbeat of the plumber on node1: links there go on",
        "spec.nodeName=node1",
    ),
    "a plumber hangs": (
        a_sight(without=("alive",)),
        "no heartbeat of the plumber on node1, though the bus holds its connection (it hangs,",
        "spec.nodeName=node1",
    ),
    "a node that is needed has no plumber": (
        a_sight(
            more=(
                told(a_prefix_in_use(source="node", name="node2")),
                told(of_pod(a_request(), a_pod("far", node="node2")), age=1),
            )
        ),
        "no plumber has ever spoken on node2",
        "name=plumber",
    ),
    "dns is gone where it is needed": (
        a_sight(more=(told(DNS),), followers=without_role("dns")),
        "no dns service follows the bus on node1",
        "name=dns",
    ),
    "ipam does not answer": (a_sight(more=(OLD,)), "1 request without an answer", "name=ipam"),
    "a request is refused for want of what the mesh has to give": (
        a_sight(more=(OLD, told(a_refusal("other", reason="NodeSilent")))),
        "1 request refused, NodeSilent: default/other nsm-vpn",
        "nsm explain default/other",
    ),
    "an endpoint's node is not Ready, although its plumber beats": (
        a_sight(more=(OLD, told(a_refusal("other", reason="EndpointNodeNotReady")))),
        "1 request refused, EndpointNodeNotReady: default/other nsm-vpn",
        "kubectl describe node",
    ),
    "a connection collides with what a node still has": (
        a_sight(more=(OLD, told(a_refusal("other", reason="NotReleased")))),
        "1 request refused, NotReleased: default/other nsm-vpn",
        "see the plumber there",
    ),
    "a leader sees what nobody else does": (
        a_sight(more=(told(a_lease(troubles=("the API server tells nothing of pods",))),)),
        "watcher: the API server tells nothing of pods",
        "kubectl get --raw /readyz",
    ),
    "an exclusion cannot be understood": (
        a_sight(
            more=(
                told(a_lease(mistakes=(live.Mistake(reason="MalformedPrefix", message="line 1"),))),
            )
        ),
        "MalformedPrefix: line 1",
        "correct the lines",
    ),
    "a node does not wire": (
        a_sight(without=("status",)),
        "1 request waiting, Connecting: default/client nsm-vpn",
        "nsm explain default/client",
    ),
    "dns is not served": (
        a_sight(
            more=(
                told(DNS),
                told(
                    Resolver(
                        node="node1",
                        namespace="default",
                        pod="client",
                        uid="uid-of-client",
                        state="failed",
                        reason="DNSCaptureFailed",
                        message="the kernel said no",
                    )
                ),
            )
        ),
        "1 request failed, DNSCaptureFailed",
        "see the dns service's log",
    ),
    "versions differ": (
        a_sight(followers=(*FOLLOWERS, a_follower("dns", "node2", version="1.1"))),
        "4 of 1.0, 1 of 1.1",
        "upgrade",
    ),
    "a stream is missing": (
        a_sight(streams=(Stream(name=streams.GRANT, problem="stream not found", missing=True),)),
        "no stream NSM_GRANT",
        "name=ipam",
    ),
    "a stream does not answer": (
        a_sight(streams=(Stream(name=streams.GRANT, problem="no answer"),)),
        "stream NSM_GRANT does not answer: no answer",
        "more than half",
    ),
    "a copy is offline": (
        a_sight(
            streams=(
                a_stream(
                    replicas=3,
                    copies=(
                        Copy(server="n1", leads=True),
                        Copy(server="n2"),
                        Copy(server="n3", offline=True, current=False),
                    ),
                ),
            )
        ),
        "NATS server n3 is offline or behind with NSM_GRANT",
        "name=nats",
    ),
    "a stream has no leader": (
        a_sight(streams=(a_stream(replicas=3, copies=(Copy(server="n2"),)),)),
        "stream NSM_GRANT has no leader",
        "more than half",
    ),
    "a stream is nearly full": (
        a_sight(streams=(a_stream(bytes=801),)),
        "holds 801 of at most 1000 bytes",
        "raise max_bytes",
    ),
    "consumers are nearly used up": (
        a_sight(streams=(a_stream(consumers=81),)),
        "has 81 of at most 100 consumers",
        "raise max_consumers",
    ),
    "readers are behind": (
        a_sight(followers=(*FOLLOWERS, a_follower("ipam", pending=1001))),
        "1001 messages wait",
        "look again",
    ),
    "what is no message": (
        a_sight(malformed=("nsm.request.x: not JSON",)),
        "holds what is no message: nsm.request.x",
        "writes it anew",
    ),
}


@pytest.mark.parametrize("ill", ILLS)
def test_what_is_wrong_is_told_with_what_to_do(ill):
    sight, what, remedy = ILLS[ill]
    status = judged(sight)
    assert not status.well
    found = [each for each in status.wrong if what in each.what]
    assert found, status.wrong
    assert remedy in found[0].remedy


FINE: dict[str, Sight] = {
    "a request of this moment": a_sight(more=(told(a_request("other"), age=1.0),)),
    "a grant of this moment": a_sight(
        without=("status", "grant"), more=(told(a_connection(), age=1.0),)
    ),
    "a node without Pods of ours and without a plumber": a_sight(
        more=(told(a_prefix_in_use(source="node", name="windows")),)
    ),
    "facts of a node that Kubernetes does not have any more": a_sight(
        more=(told(node_facts("gone")),)
    ),
    "a full log": a_sight(streams=(a_stream(streams.LOG, bytes=1000, drops_old=True),)),
    "nobody tells us who follows": a_sight(followers=None),
    "a mesh without dns services": a_sight(followers=without_role("dns")),
    "what a process that ended still follows": a_sight(
        followers=(*FOLLOWERS, a_follower("dns", "node2", bound=False, version="0.9"))
    ),
}


@pytest.mark.parametrize("case", FINE)
def test_what_passes_or_harms_nobody_is_not_wrong(case):
    assert judged(FINE[case]).wrong == ()


def test_specs_are_read_once_a_look_however_many_are_refused(monkeypatch):
    reads = []

    def counting(endpoint):
        reads.append(endpoint.ref)
        return specs.read_endpoint(endpoint)

    monkeypatch.setattr(
        offering, "specs", SimpleNamespace(names_in=specs.names_in, read_endpoint=counting)
    )
    names = ("other", "third", "fourth")
    refused = tuple(
        told(each) for name in names for each in (of_pod(a_request(), a_pod(name)), a_refusal(name))
    )
    found = judged(a_sight(more=refused, endpoints=(the_endpoint(),)))
    assert found.counts is not None
    assert found.counts.refused == {"NoEndpoint": len(names)}
    assert reads == [("default", "vpn")]
    judged(a_sight(endpoints=(the_endpoint(),)))
    assert len(reads) == 1  # nobody asks


NOTED: dict[str, tuple[Sight, str, str]] = {
    "a typing error in a name": (
        a_sight(more=(OLD, told(a_refusal("other")))),
        "1 request refused, NoEndpoint: default/other nsm-vpn",
        "nsm explain default/other",
    ),
    "an endpoint that cannot be read": (
        a_sight(more=(OLD, told(a_refusal("other"))), endpoints=(the_endpoint(labels="x"),)),
        "1 request refused, InvalidSpec: default/other nsm-vpn",
        "correct the field that is named",
    ),
    "an edit of an endpoint that is refused": (
        a_sight(
            more=tuple(
                told(an_endpoint(pod=name, refused="spec.routes[0]: 10.0.0.1 is no prefix"))
                for name in ("gateway-1", "gateway-2")
            )
        ),
        "endpoint default/vpn: its newer spec is refused, the older one holds: spec.routes[0]",
        "describe networkserviceendpoint vpn",
    ),
    "a prefix that the cluster uses": (
        a_sight(more=(OLD, told(a_refusal("other", reason="PrefixCollision")))),
        "1 request refused, PrefixCollision: default/other nsm-vpn",
        "choose another prefix",
    ),
    "a connection that a prefix in use covers, and nothing can replace": (
        a_sight(
            more=(told(COVERED), told(a_status(client=END, server=END))),
        ),
        "default/client nsm-vpn, although 172.16.1.2 came to overlap 172.16.0.0/16",
        "nsm explain default/client",
    ),
    "an annotation that has no effect": (
        a_sight(more=(told(a_lease(notes=("3 Pods with an annotation, such as a/b",))),)),
        "3 Pods with an annotation, such as a/b",
        "its condition",
    ),
}


def test_of_many_refused_edits_some_are_named():
    refused = (told(an_endpoint(f"endpoint-{n}", refused="no")) for n in range(5))
    found = [each.what for each in judged(a_sight(more=tuple(refused))).noted]
    assert [each.split(":")[0] for each in found] == [
        *(f"endpoint default/endpoint-{n}" for n in range(3)),
        "2 endpoints more of which a newer spec is refused",
    ]


@pytest.mark.parametrize("case", NOTED)
def test_what_users_have_to_mend_is_told_and_is_no_fault_of_the_mesh(case, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    sight, what, remedy = NOTED[case]
    status = judged(sight)
    assert status.well, status.wrong
    (noted,) = status.noted
    assert what in noted.what
    assert remedy in noted.remedy
    telling.tell(status)
    printed = capsys.readouterr().out.splitlines()
    assert "FOR USERS TO MEND: 1" in printed
    assert printed[-1] == "all is well"
    assert max(len(line) for line in printed) <= 80


def test_a_request_of_an_earlier_pod_of_that_name_is_not_connected_by_its_grant():
    again = of_pod(a_request(), a_pod(uid="another"))
    status = judged(a_sight(more=(told(again),)))
    assert status.counts is not None
    assert (status.counts.connected, status.counts.waiting) == (0, {"Connecting": 1})


@pytest.mark.parametrize("ill", [*ILLS, "none"])
def test_it_is_readable_at_eighty_columns(ill, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    sight = ILLS[ill][0] if ill in ILLS else a_sight()
    telling.tell(judged(sight))
    printed = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in printed) <= 80
    assert printed[-1] == "all is well" if ill == "none" else "WRONG" in "\n".join(printed)


def test_of_many_nodes_only_those_are_shown_that_are_not_well(capsys):
    nodes = tuple(
        told(message, age=1.0)
        for n in range(100)
        for message in (
            a_prefix_in_use(source="node", name=f"n{n}"),
            node_facts(f"n{n}"),
            *((live.Alive(node=f"n{n}"),) if n != 42 else ()),
        )
    )
    followers = (*FOLLOWERS, *(a_follower("dns", f"n{n}") for n in range(100)))
    telling.tell(judged(a_sight(more=nodes, followers=followers)))
    out = capsys.readouterr().out
    assert "100 of 101 nodes are well" in out
    assert ["n42", "SILENT"] in [line.split()[:2] for line in out.splitlines()]
    assert "n41 " not in out


# ---- on a real bus


async def look(server: Any) -> Sight:
    return await survey.look(server.url, server.url)


@pytest.mark.parametrize("role", ["viewer", "admin"])
async def test_who_follows_is_seen_with_its_version_by_people(tmp_path, role, monkeypatch):
    tokens = Tokens(tmp_path)
    with GuardedNats(tmp_path / "guarded") as server:
        async with answering(server, tokens):
            ipam = await Bus.connect(server.url, name="ipam", access=tokens.write("ipam"))
            await ipam.ensure_streams()
            node = await Bus.connect(server.url, name="dns-node1", access=tokens.write("dns"))
            await ipam.publish(a_connection())
            pattern = a_connection().key.all("node1")
            async with (
                mirroring(ipam, streams.GRANT),
                mirroring(node, streams.GRANT, [pattern]),
            ):
                monkeypatch.setenv("NSM_TOKEN_FILE", tokens.write(role).token_file)
                sight = await look(server)
            await node.close()
            await ipam.close()
    assert sight.role == role
    assert sight.followers is not None
    assert {(each.role, each.node, each.bound) for each in sight.followers} == {
        ("ipam", "", True),
        ("dns", "node1", True),
    }
    assert all(each.version for each in sight.followers)
    assert [each.message for each in sight.told] == [a_connection()]
    assert abs(sight.now - time.time()) < 60
    assert {each.name for each in sight.streams if each.problem} == set()


async def test_who_died_is_not_there_any_more_though_the_server_remembers_its_consumers(
    bus: Bus, nats_server: Any
):
    node = await Bus.connect(nats_server.url, name="dns-node1")
    async with mirroring(node, streams.GRANT):
        before = (await look(nats_server)).followers
        await node._wire._client.close()  # as a killed process leaves it: without a word
        after = (await look(nats_server)).followers
    assert before is not None
    assert after is not None
    assert [each.bound for each in before] == [True]
    assert [each.bound for each in after] == [False]


async def test_a_bus_without_streams_is_told_as_that(nats_server: Any):
    status = judged(await look(nats_server))
    assert "no stream NSM_INTENT, NSM_GRANT, NSM_STATE, NSM_LIVE, NSM_LOG" in status.wrong[0].what


async def test_since_when_somebody_leads_is_on_the_bus(bus: Bus, nats_server: Any):
    began = time.time()
    leading = Leading(bus, "ipam", streams.GRANT, "one")
    async with running(leading.run()):
        async with asyncio.timeout(30):
            await leading.leads.wait()
        status = judged(await look(nats_server))
    (_, ipam) = status.services
    assert ipam.leads_since is not None
    assert began - 2 < ipam.leads_since < time.time() + 1
    assert ipam.heartbeat_age is not None


async def run(server: str, *words: str, lab: Any) -> tuple[int, str, str]:
    done = await asyncio.to_thread(nsm, "status", *words, "--url", server, lab=str(lab))
    return done.returncode, done.stdout, done.stderr


async def test_a_bus_that_is_down_is_a_status_too(tmp_path, unused_tcp_port):
    url = f"nats://127.0.0.1:{unused_tcp_port}"
    code, out, err = await run(url, lab=tmp_path)
    assert (code, err) == (1, "")
    assert out.startswith("WRONG: 1\n1. nothing can be read: NATS at nats://127.0.0.1")
    code, out, err = await run(url, "-o", "json", lab=tmp_path)
    assert (code, err) == (1, "")
    found = msgspec.convert(json.loads(out), Status)
    assert not found.well
    assert found.counts is None


def test_a_token_may_come_by_standard_input(tmp_path, monkeypatch):
    token = Tokens(tmp_path).write("viewer")
    text = Path(token.token_file).read_text()
    monkeypatch.setenv("NSM_TOKEN_FILE", "-")
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    persons._standard_input.cache_clear()
    try:
        first, second = (persons.person("nats://x", "nsm-cli") for _ in range(2))
        assert first.token() == second.token() == text.strip()
        assert first.access.role == "viewer"
    finally:
        persons._standard_input.cache_clear()


def a_process(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "running": True, "held": False, **fields}


def test_what_the_lab_knows_to_be_down_is_told_with_what_brings_it_back(monkeypatch):
    off = {"running": False, "held": True, "node_stopped": True}
    processes = [
        a_process("watcher"),
        a_process("ipam", stopped=True),
        a_process("auth", running=False, held=True),
        a_process("dns/node1", stopped=True),
        a_process("dns/node2", **off),
        a_process("plumber/node2", **off),
    ]
    monkeypatch.setattr(labs, "ask", lambda *_: processes)
    place, found = command._of_lab()
    assert [(each.what.split(":")[0], each.remedy) for each in found] == [
        (
            "node node2 of the lab is stopped, with its Pods and services",
            "nsm lab node start node2",
        ),
        ("process ipam of the lab is stopped by a signal", "nsm lab kill ipam --signal CONT"),
        ("process auth of the lab does not run", "nsm lab start auth"),
        (
            "process dns/node1 of the lab is stopped by a signal",
            "nsm lab kill dns/node1 --signal CONT",
        ),
    ]
    # And so it is where others stumble over the same.
    assert place.start("plumber", "node2") == "nsm lab node start node2"
    assert place.see("ipam") == "nsm lab kill ipam --signal CONT"
    assert place.start("dns", "node1") == "nsm lab kill dns/node1 --signal CONT"
    assert place.start("plumber", "node1").startswith("nsm lab start plumber/node1")


@pytest.mark.parametrize(
    ("running", "said"),
    [
        ((True, False, False), ["no quorum: 1 of 3 NATS servers runs"]),
        ((True, True, False), []),
        ((True, True, True), []),
    ],
)
def test_without_most_nats_servers_of_a_lab_that_comes_first(monkeypatch, running, said):
    servers = [
        {"name": f"nats/{number}", "running": each, "held": True}
        for number, each in enumerate(running, 1)
    ]
    monkeypatch.setattr(labs, "ask", lambda *_: servers)
    _, found = command._of_lab()
    assert [each.what for each in found if "quorum" in each.what] == said
    if said:
        assert (found[0].what, found[0].remedy) == (said[0], "nsm lab start nats/2")
