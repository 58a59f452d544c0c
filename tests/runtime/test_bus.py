"""What publish, bury, read and the streams promise, on a real nats-server."""

import asyncio
import json
from typing import Any

import nats
import pytest
from nats.aio.msg import Msg

from lab.nats import NatsServer
from schemas.codec import Tombstone, encode
from schemas.live import Alive
from schemas.subjects import BadSubject, ConnectionKey, LeaderKey
from services._runtime import streams, wire
from services._runtime.bus import Bus, WrongSequence
from services._runtime.client import Client
from services._runtime.errors import Refused
from services._runtime.lease import expecting
from services._runtime.wire import Lost
from tests.builders import a_connection, a_leader, a_request, a_status
from tests.runtime.helpers import Proxy, running, until


async def log_of(bus: Bus, subject: str) -> list[bytes]:
    """Every version of a subject that NSM_LOG kept, oldest first."""
    found: list[bytes] = []
    state = (await bus.api(f"STREAM.INFO.{streams.LOG}"))["state"]
    for sequence in range(state["first_seq"], state["last_seq"] + 1):
        message = await bus._wire.request(
            f"$JS.API.DIRECT.GET.{streams.LOG}", json.dumps({"seq": sequence}).encode()
        )
        headers = message.headers or {}
        if streams.told_subject(headers.get("Nats-Subject", "")) == subject:
            found.append(message.data)
    return found


async def test_what_is_published_can_be_read(bus: Bus) -> None:
    connection = a_connection()
    sequence = await bus.publish(connection)
    assert await bus.read(connection.key) == (connection, sequence)
    assert await bus.read(a_connection("other").key) is None

    tombstone = Tombstone(released="uid", revision=3)
    buried = await bus.bury(connection.key, tombstone)
    assert await bus.read(connection.key) == (tombstone, buried)


async def test_owners_of_a_replicated_stream_read_from_its_leader(bus: Bus) -> None:
    connection = a_connection()
    sequence = await bus.publish(connection)
    bus.replicas = 3  # the way of reading, not the stream
    assert await bus.read(connection.key) == (connection, sequence)
    assert await bus.read(a_connection("other").key) is None


async def test_a_wildcard_never_reaches_the_server_which_would_store_it(
    bus: Bus, nats_server: NatsServer
) -> None:
    for token in ("*", ">", "a.*", "", "a b"):
        with pytest.raises(BadSubject):
            await bus.bury(ConnectionKey("node1", "default", token, "nsm0"))

    raw = await nats.connect(nats_server.url)
    ack = json.loads((await raw.request("nsm.connection.*", b"x")).data)
    assert ack["stream"] == streams.GRANT, "the server checks subjects now: simplify"
    await raw.close()


async def test_a_tombstone_removes_itself(bus: Bus) -> None:
    message = Alive(node="node1")
    await bus.publish(message, ttl=1)
    assert await bus.read(message.key) is not None
    async with asyncio.timeout(20):
        while await bus.read(message.key) is not None:
            await asyncio.sleep(0.1)


async def test_a_publish_while_the_server_is_down_is_stored_once(
    bus: Bus, nats_server: NatsServer
) -> None:
    nats_server.kill()
    connection = a_connection()
    async with running(bus.publish(connection)) as (publishing,):
        await until(lambda: not bus._wire._up.is_set())
        await asyncio.sleep(0.3)
        assert not publishing.done()
        nats_server.start()
        async with asyncio.timeout(20):
            sequence = await publishing
    assert await bus.read(connection.key) == (connection, sequence)
    assert await log_of(bus, connection.key.subject) == [encode(connection)]


async def test_a_publish_whose_answer_is_late_is_stored_once(
    bus: Bus, nats_server: NatsServer
) -> None:
    """The stopped server has the bytes already: it stores them when it goes on, after we gave up on them."""
    connection = a_connection()
    nats_server.pause()
    async with running(bus.publish(connection)) as (publishing,):
        await asyncio.sleep(2.0)
        assert not publishing.done()
        nats_server.resume()
        async with asyncio.timeout(30):
            sequence = await publishing
    assert await bus.read(connection.key) == (connection, sequence)
    assert await log_of(bus, connection.key.subject) == [encode(connection)]


async def test_a_publish_that_was_stored_without_an_answer_is_not_sent_again(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the server forgot the message ID: after a kill it knows only those it still holds."""
    attempt, answers = bus._attempt, iter([False, True])

    async def answerless(subject: str, body: bytes, headers: dict[str, str]) -> int:
        del headers["Nats-Msg-Id"]
        sequence = await attempt(subject, body, headers)
        if not next(answers):
            raise Lost("no answer")
        return sequence

    monkeypatch.setattr(bus, "_attempt", answerless)
    sequence = await bus.publish(a_connection())
    assert await bus.read(a_connection().key) == (a_connection(), sequence)
    assert len(await log_of(bus, a_connection().key.subject)) == 1


async def test_a_request_ends_when_the_connection_breaks_not_when_it_times_out(
    bus: Bus, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "REQUEST_SECONDS", 60.0)
    proxy = Proxy(nats_server.port)
    await proxy.start()
    cut = await Bus.connect(proxy.url, name="plumber-node1")
    nats_server.pause()
    async with running(cut.publish(a_connection())) as (publishing,):
        await asyncio.sleep(0.1)
        proxy.cut()
        nats_server.resume()
        async with asyncio.timeout(20):
            await publishing
    assert len(await log_of(bus, a_connection().key.subject)) == 1
    await cut.close()
    await proxy.stop()


async def test_acked_writes_survive_the_kill_of_the_server(
    bus: Bus, nats_server: NatsServer
) -> None:
    acked: list[str] = []

    async def write(lane: int) -> None:
        for number in range(10_000):
            await bus.publish(a_request(f"p{lane}-{number}"))
            acked.append(f"p{lane}-{number}")

    async with running(*(write(lane) for lane in range(8))):
        await until(lambda: len(acked) > 500)
        nats_server.kill()
        before = len(acked)
        nats_server.start()
        await until(lambda: len(acked) > before + 500, 20)
        names = list(acked)
    for name in names:
        assert await bus.read(a_request(name).key) is not None


async def test_publishes_of_one_subject_keep_their_order(bus: Bus) -> None:
    versions = [a_connection(revision=number) for number in range(50)]
    async with asyncio.TaskGroup() as group:
        for version in versions:
            group.create_task(bus.publish(version))
    assert await log_of(bus, versions[0].key.subject) == [encode(v) for v in versions]
    assert not bus._turns


async def test_an_expectation_that_does_not_hold_is_a_conflict(bus: Bus) -> None:
    leader = a_leader()
    sequence = await bus.store(leader.key, encode(leader), expect=lambda: expecting(0))
    with pytest.raises(WrongSequence):
        await bus.store(leader.key, encode(leader), expect=lambda: expecting(0))
    with pytest.raises(WrongSequence):
        await bus.store(
            a_connection().key,
            b"x",
            expect=lambda: expecting(sequence + 1, leader.key.subject),
        )


async def test_streams_are_ensured_by_many_at_once_and_corrected(
    bus: Bus, nats_server: NatsServer
) -> None:
    others = [await Bus.connect(nats_server.url, name="owner") for _ in range(4)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(other.ensure_streams()) for other in others]
    assert all(task.result() == bus.incarnations for task in tasks)

    config = next(c for c in streams.configs(1) if c["name"] == streams.GRANT)
    await bus.api(f"STREAM.UPDATE.{streams.GRANT}", {**config, "max_bytes": 1 << 20})
    assert await bus.ensure_streams() == bus.incarnations
    info = await bus.api(f"STREAM.INFO.{streams.GRANT}")
    assert info["config"]["max_bytes"] == config["max_bytes"]
    for other in others:
        await other.close()


async def test_no_stream_ends_with_its_server(bus: Bus, nats_server: NatsServer) -> None:
    before = dict(bus.incarnations)
    nats_server.kill()
    nats_server.start()
    assert await bus.ensure_streams() == before


@pytest.mark.parametrize("stream", [*streams.TRUTH, streams.LIVE, streams.LOG])
async def test_rollup_purge_and_delete_are_refused(bus: Bus, stream: str) -> None:
    subject = {
        streams.INTENT: a_request().key.subject,
        streams.GRANT: a_connection().key.subject,
        streams.STATE: a_status().key.subject,
        streams.LIVE: Alive(node="node1").key.subject,
        streams.LOG: "log.nsm.any",
    }[stream]
    await bus._wire.request(subject, b"{}")
    for scope in ("all", "sub"):
        answer = await bus._wire.request(subject, b"{}", {"Nats-Rollup": scope})
        assert json.loads(answer.data)["error"]["err_code"] == 10111
    with pytest.raises(Refused, match="purge not permitted"):
        await bus.api(f"STREAM.PURGE.{stream}", {})
    with pytest.raises(Refused, match="delete not permitted"):
        await bus.api(f"STREAM.MSG.DELETE.{stream}", {"seq": 1})


async def test_settings_of_the_truth_are_the_designed_ones(bus: Bus) -> None:
    for stream in streams.TRUTH:
        config = (await bus.api(f"STREAM.INFO.{stream}"))["config"]
        assert config["storage"] == "file"
        assert config["discard"] == "new"
        assert config["max_msgs_per_subject"] == 1
        assert config["republish"] == {"src": "nsm.>", "dest": "log.nsm.>"}
        assert "subject_delete_marker_ttl" not in config


async def test_the_log_shows_what_was_committed_and_nothing_else(
    bus: Bus, nats_server: NatsServer
) -> None:
    tapped: list[tuple[str, bytes]] = []
    tap = Client()
    await tap.connect(nats_server.url)

    async def take(message: Msg) -> None:
        tapped.append((message.subject, message.data))

    await tap.subscribe("log.nsm.>", cb=take)
    await tap.flush()
    connection = a_connection()
    await bus.publish(connection)
    with pytest.raises(WrongSequence):
        await bus.store(connection.key, b"attempt", expect=lambda: expecting(99))
    tombstone = Tombstone(released="uid", at="2026-01-01T00:00:00Z")
    await bus.bury(connection.key, tombstone)
    await bus.bury(a_status().key)

    subject = connection.key.subject
    await until(lambda: len(tapped) == 3)
    assert tapped == [
        (f"log.{subject}", encode(connection)),
        (f"log.{subject}", encode(tombstone)),
        (f"log.{a_status().key.subject}", b""),
    ]
    assert await log_of(bus, subject) == [encode(connection), encode(tombstone)]
    assert await log_of(bus, a_status().key.subject) == [b""]
    await tap.close()


async def test_permission_errors_are_counted(nats_server: NatsServer) -> None:
    bus = await Bus.connect(nats_server.url, name="plumber-node1")
    error: Any = nats.errors.Error("nats: permissions violation for publish to x")
    await bus._wire._on_error(error)
    assert bus.metrics.registry.get_sample_value("nsm_permission_errors_total") == 1
    await bus.close()


async def test_node_names_with_dots_make_valid_names(nats_server: NatsServer) -> None:
    bus = await Bus.connect(nats_server.url, name="plumber-node1.example.com")
    assert bus.name.startswith("plumber-node1_example_com-")
    await bus.close()


def test_every_key_has_a_stream() -> None:
    assert streams.stream_of(a_connection().key) == streams.GRANT
    assert streams.stream_of(LeaderKey("watcher")) == streams.INTENT
    with pytest.raises(KeyError, match="leads no stream"):
        streams.stream_of(LeaderKey("plumber"))


async def test_a_message_that_the_bus_can_never_take_is_refused_at_once(bus: Bus) -> None:
    labels = {"x": "y" * (2 << 20)}

    with pytest.raises(Refused, match="larger than the bus takes"):
        await bus.publish(a_request(labels=labels))
