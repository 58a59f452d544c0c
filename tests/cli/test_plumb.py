"""`nsm plumb explain` asks real health ports, and prints what plumbers answer."""

import asyncio
import json
from collections.abc import Mapping

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from cli import plumb
from cli.output import OutputFormat
from cli.problems import Problem
from services._runtime.health import Health
from services.plumber import core
from services.plumber.model import (
    Blocked,
    Found,
    Lookup,
    Pair,
    Place,
    Route,
    Rule,
    Traffic,
    Waiting,
)
from services.plumber.service.explaining import Answer, Explained
from tests.plumber.grants import V4, a_grant

PLACE = Place(uid="uid-client", netns="/run/netns/c", cookie=11)
SERVER = Place(uid="uid-server", netns="/run/netns/s", cookie=22)
WIRING = core.wiring(a_grant(), PLACE, SERVER)
FOUND = Found(
    place=PLACE,
    interface="nsm0",
    index=100,
    peer_index=200,
    revision=1,
    mac="02:00:00:00:01:01",
    mtu=1300,
    up=False,
    addresses=frozenset({V4[0]}),
    traffic=Traffic(100, 50, 2, 1),
)


def explained(**fields: object) -> Explained:
    values = {
        "connection": a_grant().key.subject,
        "role": "client",
        "network_service": "default/vpn",
        "revision": 1,
        "state": "ready",
        "reason": "",
        "message": "",
        "desired": WIRING,
        "actual": Pair(client=FOUND),
        **fields,
    }
    return Explained(**values)  # type: ignore[arg-type]


def an_answer(*connections: Explained) -> Answer:
    return Answer(
        node="node1",
        pod="default/client",
        networks={"uid-client": "/run/netns/c (cookie 11), by a CNI result"},
        connections=connections,
    )


class Plumber:
    """Answers for one Pod."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer

    async def __call__(self, question: Mapping[str, str]) -> Answer:
        if question.get("pod") != self.answer.pod:
            raise LookupError("no such Pod")
        return self.answer


async def run(
    answer: Answer, pod: str, monkeypatch: pytest.MonkeyPatch, output: OutputFormat
) -> None:
    health = Health(CollectorRegistry())
    health.answer("/explain", Plumber(answer))
    await health.start("127.0.0.1:0")
    monkeypatch.setenv("NSM_HEALTH_ADDRESS", f"127.0.0.1:{health.port}")
    try:
        await asyncio.to_thread(plumb.explain, pod, "default", output)
    finally:
        await health.stop()


async def test_desired_actual_and_the_difference_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    each = explained(
        differences=("nsm0: to be set up", "nsm0: MTU 1300, to be 1400"),
        last_error="no such device (tried again in 0.2 s)",
        repaired="2026-01-01T00:00:00.000+00:00 nsm0: it was down",
    )
    await run(an_answer(each), "client", monkeypatch, OutputFormat.TABLE)
    told = capsys.readouterr().out

    assert "pod default/client on node1" in told
    assert "by a CNI result; uid uid-client" in told
    assert "as client of default/vpn" in told
    assert "desired     nsm0, 02:00:00:00:01:01, 172.16.1.2/32, route 10.20.0.0/16 via" in told
    assert "MTU 1300, index 100, DOWN" in told
    assert "2 packets (100 bytes) received, 1 (50 bytes) sent" in told
    assert "difference  nsm0: to be set up\n" in told
    assert "            nsm0: MTU 1300, to be 1400\n" in told
    assert "last error  no such device" in told
    assert "repaired    2026-01-01" in told


async def test_why_nothing_can_stand_now_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = Blocked(state="pending", reason="PeerNotReady", message="not found yet")
    waiting = Waiting(client=blocked, server=blocked)
    each = explained(desired=waiting, actual=None, state="pending", reason="PeerNotReady")
    await run(an_answer(each), "client", monkeypatch, OutputFormat.TABLE)
    told = capsys.readouterr().out

    assert "state       pending: PeerNotReady" in told
    assert "desired     nothing now: PeerNotReady: not found yet" in told
    assert "actual      no such interface of ours" in told
    assert "difference  none" in told


async def test_what_a_table_leaves_alone_is_not_told_as_a_route(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefixes = [f"10.{n}.0.0/16" for n in range(10, 22)]
    routes = {Route(destination="0.0.0.0/0", gateway="172.16.1.1")}
    routes |= {Route(destination=each, yields=True) for each in prefixes}
    table = Lookup(rule=Rule(family=4, priority=20002, table=1), routes=frozenset(routes))
    actual = msgspec.structs.replace(FOUND, lookups=frozenset({table}))
    each = explained(actual=Pair(client=actual))
    await run(an_answer(each), "pod/client", monkeypatch, OutputFormat.TABLE)
    told = capsys.readouterr().out

    own = f"stays on the Pod's own interface: {', '.join(prefixes[:8])} and 4 more"
    assert f"[route 0.0.0.0/0 via 172.16.1.1; {own}]" in told


async def test_programs_get_everything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    await run(an_answer(explained()), "client", monkeypatch, OutputFormat.JSON)

    [answer] = json.loads(capsys.readouterr().out)
    assert answer["connections"][0]["actual"]["client"]["mtu"] == 1300


async def test_a_pod_without_connections_is_a_problem_of_the_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(
        Problem, match="has no connection here; why: nsm ipam explain default/stranger"
    ):
        await run(an_answer(explained()), "default/stranger", monkeypatch, OutputFormat.TABLE)


def test_an_ipv6_address_gets_its_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSM_HEALTH_ADDRESS", "fd00::5:9641")
    assert [each.address for each in plumb.plumbers()] == ["[fd00::5]:9641"]


async def test_a_plumber_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSM_HEALTH_ADDRESS", "127.0.0.1:1")
    with pytest.raises(Problem, match=r"the plumber at 127\.0\.0\.1:1 does not answer"):
        plumb.explain("client", "default", OutputFormat.TABLE)


async def test_a_silent_plumber_keeps_none_of_the_others_from_answering(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    health = Health(CollectorRegistry())
    health.answer("/explain", Plumber(an_answer(explained())))
    await health.start("127.0.0.1:0")
    others = [plumb.Plumber("127.0.0.1:1", "node2"), plumb.Plumber(f"127.0.0.1:{health.port}")]
    monkeypatch.setattr(plumb, "plumbers", lambda: others)
    try:
        await asyncio.to_thread(plumb.explain, "client", "default", OutputFormat.TABLE)
    finally:
        await health.stop()

    told = capsys.readouterr()
    assert "pod default/client on node1" in told.out
    assert "not asked: the plumber of node2 does not answer" in told.err
