"""One active writer, fenced: each rule on a real nats-server, the deaths in real processes."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lab.nats import NatsServer
from schemas.codec import Tombstone
from schemas.live import Lease as LeaseMessage
from schemas.subjects import ConnectionKey, LeaderKey, LeaseKey
from services._runtime import leading, streams
from services._runtime.bus import Bus
from services._runtime.leading import Deposed, Term, lead, write_guard
from services._runtime.lease import Lease, LeaseLost
from tests.builders import a_connection, a_leader, a_request
from tests.runtime.helpers import Leading, mirroring, running, until

ROOT = Path(__file__).parents[2]
GUARD = LeaderKey("ipam")


@asynccontextmanager
async def a_candidate(server: NatsServer, holder: str) -> AsyncIterator[Leading]:
    bus = await Bus.connect(server.url, name="ipam")
    candidate = Leading(bus, "ipam", streams.GRANT, holder)
    async with running(candidate.run()):
        yield candidate
    await bus.close()


async def leads(candidate: Leading, seconds: float = 30.0) -> Term:
    async with asyncio.timeout(seconds):
        await candidate.leads.wait()
    return candidate.terms[-1]


async def kept(bus: Bus, subject: str) -> list[tuple[int, bytes]]:
    """(original sequence, body) of every version of a subject in NSM_LOG."""
    found = []
    state = (await bus.api(f"STREAM.INFO.{streams.LOG}"))["state"]
    for sequence in range(state["first_seq"], state["last_seq"] + 1):
        answer = await bus.api(f"STREAM.MSG.GET.{streams.LOG}", {"seq": sequence})
        if streams.told_subject(answer["message"]["subject"]) == subject:
            found.append((sequence, answer["message"].get("data", "").encode()))
    return found


async def test_a_leader_writes_and_its_own_mirror_has_it_at_once(nats_server: NatsServer) -> None:
    async with a_candidate(nats_server, "a") as a:
        term = await leads(a)
        connection = a_connection()
        await term.publish(connection)
        assert a.own.items[connection.key] == connection
        await term.bury(connection.key, Tombstone(released="uid"))
        assert connection.key not in a.own.items
        assert term.incarnations == {name: a.bus.incarnations[name] for name in streams.TRUTH}


async def test_a_new_leader_decides_only_after_its_mirror_saw_everything_before_its_guard(
    bus: Bus, nats_server: NatsServer
) -> None:
    last = a_connection("last")
    await bus.publish(last)
    candidate = Leading(bus, "ipam", streams.GRANT, "a")
    async with running(lead(bus, "ipam", candidate.own, candidate.decide, holder="a")):
        async with asyncio.timeout(20):
            while await bus.read(GUARD) is None:
                await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            await leads(candidate, 1.5)
        async with running(candidate.own.run()):
            await leads(candidate)
            assert {last.key, GUARD} <= candidate.seen_at_start[0]


async def test_only_one_of_two_leads_and_the_standby_waits(nats_server: NatsServer) -> None:
    async with a_candidate(nats_server, "a") as a:
        await leads(a)
        async with a_candidate(nats_server, "b") as b:
            await b.own.synced.wait()
            with pytest.raises(TimeoutError):
                await leads(b, 6.0)
            assert a.leads.is_set()
            assert a.cancelled == 0


async def test_an_orderly_end_hands_over_at_once(nats_server: NatsServer) -> None:
    bus = await Bus.connect(nats_server.url, name="ipam")
    first = Leading(bus, "ipam", streams.GRANT, "first")
    async with running(first.run()) as (task,):
        await leads(first)
        async with a_candidate(nats_server, "second") as second:
            await second.own.synced.wait()
            task.cancel()
            await leads(second, 2.5)
    await bus.close()


async def test_a_stale_leader_is_refused_by_the_server(bus: Bus, nats_server: NatsServer) -> None:
    async with mirroring(bus, streams.GRANT) as (own, _):
        guard = a_leader(holder="old", incarnations=dict(bus.incarnations))
        old = Term(bus, guard, await write_guard(bus, guard, after=0), own)
        await old.publish(a_connection("mine"))

        newer = a_leader(holder="new", incarnations=dict(bus.incarnations))
        sequence = await write_guard(bus, newer, after=old.sequence)
        with pytest.raises(Deposed):
            await old.publish(a_connection("too-late"))
        assert await bus.read(a_connection("too-late").key) is None
        with pytest.raises(Deposed):
            await old.bury(a_connection("mine").key)
        with pytest.raises(Deposed):
            await old.declare_complete()
        assert await bus.read(GUARD) == (newer, sequence)


async def test_a_stale_leader_is_refused_also_after_a_wipe(
    bus: Bus, nats_server: NatsServer
) -> None:
    async with mirroring(bus, streams.GRANT) as (own, _):
        guard = a_leader(holder="old", incarnations=dict(bus.incarnations))
        old = Term(bus, guard, await write_guard(bus, guard, after=0), own)
        nats_server.kill()
        nats_server.wipe()
        nats_server.start()
        await bus.ensure_streams()
        with pytest.raises(Deposed):
            await old.publish(a_connection())
        assert await bus.read(a_connection().key) is None


async def test_a_guard_that_somebody_else_took_first_deposes(bus: Bus) -> None:
    await write_guard(bus, a_leader(holder="first"), after=0)
    with pytest.raises(Deposed):
        await write_guard(bus, a_leader(holder="second"), after=0)


async def test_of_two_processes_with_one_holder_name_one_is_deposed(
    bus: Bus, nats_server: NatsServer
) -> None:
    other = await Bus.connect(nats_server.url, name="other")
    try:
        results = await asyncio.gather(
            *(
                write_guard(each, a_leader(holder="host", connection=each.name), after=0)
                for each in (bus, other)
            ),
            return_exceptions=True,
        )
    finally:
        await other.close()
    assert sorted(isinstance(result, Deposed) for result in results) == [False, True]


async def test_a_leader_that_writes_nothing_notices_that_another_one_leads(
    bus: Bus, nats_server: NatsServer
) -> None:
    async with a_candidate(nats_server, "a") as a:
        term = await leads(a)
        await write_guard(bus, a_leader(holder="b", connection="b-1"), after=term.sequence)
        await until(lambda: a.cancelled == 1)


async def test_a_cancellation_in_the_moment_of_a_lost_lease_still_ends_the_leader(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_candidate(nats_server, "a") as a:
        await leads(a)

    lost = asyncio.Event()

    async def keep(*_: object) -> None:
        await lost.wait()
        raise LeaseLost("test")

    monkeypatch.setattr(leading, "_keep", keep)
    bus = await Bus.connect(nats_server.url, name="ipam")
    candidate = Leading(bus, "ipam", streams.GRANT, "b")
    async with asyncio.TaskGroup() as group:
        own = group.create_task(candidate.own.run())
        task = group.create_task(lead(bus, "ipam", candidate.own, candidate.decide, holder="b"))
        await leads(candidate)
        lost.set()
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        own.cancel()
        task.cancel()
    await bus.close()
    assert done


async def test_a_term_knows_which_nodes_were_silent_before_it_also_of_a_leader_that_died_early(
    nats_server: NatsServer,
) -> None:
    async with a_candidate(nats_server, "a") as a:
        first = await leads(a)
        assert first.silent is None
        await first.declare_silent(["node2", "node1"])
    async with a_candidate(nats_server, "b") as b:
        second = await leads(b)
        assert second.silent == ("node1", "node2")
        await second.declare_complete()
    async with a_candidate(nats_server, "c") as c:
        assert (await leads(c)).silent == ("node1", "node2")


async def test_of_a_silent_node_absence_does_not_count_until_it_is_heard(
    bus: Bus, nats_server: NatsServer
) -> None:
    async with a_candidate(nats_server, "a") as a, mirroring(bus, streams.GRANT) as (mirror, _):
        term = await leads(a)
        on_silent = a_connection().key
        elsewhere = ConnectionKey("node2", on_silent.namespace, on_silent.pod, on_silent.interface)
        await term.declare_silent(["node1"])
        await term.declare_complete()
        await until(lambda: mirror.complete(elsewhere))
        assert not mirror.complete(on_silent)

        await term.declare_silent([])
        await until(lambda: mirror.complete(on_silent))


async def test_writes_of_a_term_stay_in_their_stream(bus: Bus) -> None:
    async with mirroring(bus, streams.GRANT) as (own, _):
        guard = a_leader(incarnations=dict(bus.incarnations))
        term = Term(bus, guard, await write_guard(bus, guard, after=0), own)
        with pytest.raises(ValueError, match="NSM_GRANT"):
            await term.publish(a_request())


async def test_declaring_complete_while_writes_are_on_their_way_loses_none(
    nats_server: NatsServer,
) -> None:
    async with a_candidate(nats_server, "a") as a:
        term = await leads(a)
        before = term.sequence
        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(term.publish(a_connection(f"p{number}")))
                if number == 150:
                    group.create_task(term.declare_complete())
        assert term.sequence > before
        await term.publish(a_connection("after"))
        assert len([k for k in a.own.items if k.kind == "connection"]) == 301
        async with asyncio.timeout(20):
            await a.own.when_complete.wait()
        stored = await a.bus.read(GUARD)
        assert stored is not None
        assert stored[0].complete
        assert stored[1] == term.sequence


async def test_everything_a_leader_committed_is_in_the_log_once(nats_server: NatsServer) -> None:
    """NSM_LOG refuses guarded messages republished by the server; the leader tells it instead."""
    async with a_candidate(nats_server, "a") as a:
        term = await leads(a)
        async with asyncio.TaskGroup() as group:
            for number in range(300):
                group.create_task(term.publish(a_connection(revision=number)))
        await term.bury(a_connection().key, Tombstone(released="uid"))
        await term.declare_complete()
        await a.bus.ensure_streams()
        versions = await kept(a.bus, a_connection().key.subject)
        assert len(versions) == 301
        assert len(await kept(a.bus, GUARD.subject)) == 2


async def test_after_a_restart_of_the_server_the_same_term_goes_on(
    nats_server: NatsServer,
) -> None:
    async with a_candidate(nats_server, "a") as a:
        term = await leads(a)
        nats_server.kill()
        nats_server.start()
        await term.publish(a_connection())
        async with asyncio.timeout(30):
            while await a.bus.read(LeaseKey("ipam")) is None:
                await asyncio.sleep(0.05)
        await asyncio.sleep(5)  # longer than a lease
        assert a.leads.is_set()
        assert a.cancelled == 0


async def test_a_wiped_bus_begins_a_new_term_that_still_has_every_item(
    nats_server: NatsServer,
) -> None:
    async with a_candidate(nats_server, "a") as a:
        term = await leads(a)
        connections = [a_connection(f"p{number}") for number in range(5)]
        for connection in connections:
            await term.publish(connection)
        await term.declare_complete()
        nats_server.kill()
        nats_server.wipe()
        nats_server.start()
        await until(lambda: len(a.terms) == 2, 10)
        assert a.cancelled == 1
        assert a.terms[1].incarnations != term.incarnations
        assert {c.key for c in connections} <= a.seen_at_start[1]
        assert {c.key for c in connections} <= a.own.stale
        with pytest.raises(Deposed):
            await term.publish(connections[0])

        for connection in connections[1:]:
            await a.terms[1].publish(connection)
        await a.terms[1].declare_complete()
        await until(lambda: connections[0].key not in a.own.items)
        assert not a.own.stale


async def test_a_lease_that_cannot_be_renewed_ends_the_term(nats_server: NatsServer) -> None:
    async with a_candidate(nats_server, "a") as a:
        term = await leads(a)
        nats_server.pause()
        try:
            await until(lambda: a.cancelled == 1, 8)
            with pytest.raises(Deposed):
                await term.publish(a_connection())
        finally:
            nats_server.resume()
        await until(lambda: len(a.terms) == 2, 10)


async def test_the_same_holder_takes_its_own_lease_back_at_once(
    bus: Bus, nats_server: NatsServer
) -> None:
    await bus.publish(LeaseMessage(service="ipam", holder="a"), ttl=60)
    async with a_candidate(nats_server, "a") as a:
        await leads(a, 2.0)


async def test_a_lease_that_the_bus_forgot_is_taken_again(bus: Bus) -> None:
    lease = Lease(bus, "ipam", "a", seconds=20)
    await lease.acquire()
    await bus.api(f"STREAM.DELETE.{streams.LIVE}")
    await bus.ensure_streams()
    await lease.renew()
    assert json.loads(await lease_of(bus))["holder"] == "a"


async def test_a_lease_taken_by_somebody_else_is_lost(bus: Bus) -> None:
    lease = Lease(bus, "ipam", "a", seconds=4)
    await lease.acquire()
    await bus.publish(LeaseMessage(service="ipam", holder="b"), ttl=60)
    with pytest.raises(LeaseLost):
        await lease.renew()


@asynccontextmanager
async def a_process(server: NatsServer, holder: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.runtime.candidate",
        server.url,
        holder,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def says(
    process: asyncio.subprocess.Process, seconds: float, word: bytes = b"leading"
) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(seconds):
        while word not in (line := await process.stdout.readline()):
            assert line, "the candidate ended"


async def test_a_standby_takes_over_after_kill_9(
    nats_server: NatsServer,
) -> None:
    async with a_process(nats_server, "first") as first:
        await says(first, 20)
        async with a_process(nats_server, "second") as second:
            await asyncio.sleep(1.5)
            first.kill()
            await says(second, 60)


async def test_a_stopped_leader_that_wakes_up_writes_nothing(
    bus: Bus, nats_server: NatsServer
) -> None:
    async with (
        a_process(nats_server, "first") as first,
        mirroring(bus, streams.GRANT) as (mirror, changes),
    ):
        await says(first, 20)
        async with a_process(nats_server, "second") as second:
            os.kill(first.pid, signal.SIGSTOP)
            await says(second, 15)
            await until(lambda: mirror.items[GUARD].holder == "second")
            start = len(changes.all)
            os.kill(first.pid, signal.SIGCONT)
            await says(first, 15, b"deposed")
            await until(lambda: len(changes.all) > start + 100)  # the second one writes on
            late = [
                key.pod
                for key, _ in changes.all[start:]
                if key.kind == "connection" and key.pod.startswith("first")
            ]
            assert late == []
            assert mirror.items[GUARD].holder == "second"
            assert json.loads(await lease_of(bus))["holder"] == "second"


async def lease_of(bus: Bus) -> bytes:
    stored = await bus.peek(LeaseKey("ipam"))
    assert stored is not None
    return stored.data
