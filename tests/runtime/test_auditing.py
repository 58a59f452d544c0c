"""What a stream lost under an unchanged incarnation is found, and written again; on a real nats-server."""

import asyncio
from typing import Any

import pytest

from lab.nats import NatsServer
from schemas.codec import Tombstone
from schemas.subjects import Key, LeaderKey
from services._runtime import auditing, streams
from services._runtime.auditing import Audit
from services._runtime.bus import Bus
from services._runtime.leading import Term, lead, write_guard
from services._runtime.mirror import Mirror
from tests.builders import a_connection, a_leader
from tests.runtime.helpers import Leading, lose, mirroring, running, until


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auditing, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(auditing, "AGAIN_SECONDS", 0.05)


def counts(mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> asyncio.Queue[bool]:
    """What each count finds from now on."""
    found: asyncio.Queue[bool] = asyncio.Queue()
    is_short = mirror.is_short

    async def counted() -> bool:
        answer = await is_short()
        found.put_nowait(answer)
        return answer

    monkeypatch.setattr(mirror, "is_short", counted)
    return found


async def test_one_message_of_many_that_is_lost_is_missed(bus: Bus) -> None:
    messages = [a_connection(f"p{number}") for number in range(50)]
    for message in messages:
        await bus.publish(message)
    async with mirroring(bus, streams.GRANT) as (mirror, changes):
        assert not await mirror.is_short()
        await lose(bus, messages[20])
        assert await mirror.is_short()
        assert messages[20].key in mirror.items
        mirror.resync("test")
        await until(lambda: messages[20].key in mirror.stale)
        assert not await mirror.is_short()  # what is known to be missing is not missed twice
        assert len(changes.all) == 50


async def test_tombstones_hide_no_loss(bus: Bus) -> None:
    before, after = a_connection("before"), a_connection("after")
    await bus.publish(before)
    await bus.bury(a_connection("long-gone").key)
    async with mirroring(bus, streams.GRANT) as (mirror, _):
        await bus.publish(after)
        await bus.bury(after.key, Tombstone(released="u"))
        assert not await mirror.is_short()
        await lose(bus, before)
        assert await mirror.is_short()


async def test_a_tombstone_of_our_own_that_ended_is_not_missed(bus: Bus) -> None:
    async with mirroring(bus, streams.GRANT) as (own, _):
        guard = a_leader(incarnations=dict(bus.incarnations))
        term = Term(bus, guard, await write_guard(bus, guard, after=0), own)
        await term.publish(a_connection())
        await term.bury(a_connection().key)
        place = await bus.place(streams.GRANT)
        await own.reached(place.last_sequence)
        assert place.messages == 2
        assert own._census.least(last=place.last_sequence, now=place.at) == 2
        assert own._census.least(last=place.last_sequence, now=place.at + 3600) == 1


async def test_who_writes_meanwhile_makes_no_stream_short(
    bus: Bus, nats_server: NatsServer
) -> None:
    other = await Bus.connect(nats_server.url, name="writer")
    done = asyncio.Event()

    async def write(first: int) -> None:
        for number in range(150):
            message = a_connection(f"p{(first + number) % 40}", revision=number)
            await (other.bury(message.key) if number % 3 == 0 else other.publish(message))

    async def write_all() -> None:
        async with asyncio.TaskGroup() as group:
            for first in range(8):
                group.create_task(write(first * 5))
        done.set()

    async with mirroring(bus, streams.GRANT) as (mirror, _), running(write_all()):
        while not done.is_set():
            assert not await mirror.is_short()
        await lose(bus, a_connection("p1"))
        assert await mirror.is_short()
    await other.close()


async def test_two_checks_in_a_row_count_and_a_loss_that_stays_is_told_ever_more_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    answers = iter([False, True, False, True, True, True, True, False, True, True])

    class Stream:
        stream = "NSM_GRANT"

        async def is_short(self) -> bool:
            return next(answers)

        def renew(self) -> None: ...

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    audit = Audit(Stream())  # type: ignore[arg-type]
    found = []
    for _ in range(3):
        await audit.until_short()
        found.append(audit.found)
    assert found == [1, 2, 1]
    assert slept == [30, 30, 5, 30, 5, 60, 5, 120, 30, 5]


async def test_a_leader_reads_what_is_left_and_drops_nothing_of_what_it_wrote(
    nats_server: NatsServer, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await Bus.connect(nats_server.url, name="ipam")
    candidate = Leading(bus, "ipam", streams.GRANT, "a")
    kept, lost = a_connection("kept"), a_connection("lost")
    async with running(candidate.run()):
        async with asyncio.timeout(30):
            await candidate.leads.wait()
        await candidate.terms[0].publish(kept)
        await candidate.terms[0].publish(lost)
        await candidate.terms[0].declare_complete()
        await lose(bus, lost)
        await until(lambda: len(candidate.terms) == 2, 20)
        own = candidate.own
        assert own.stale == {lost.key}
        assert own.items[lost.key] == lost
        assert {kept.key, lost.key} <= candidate.seen_at_start[1]
        await candidate.terms[1].publish(lost)
        await candidate.terms[1].declare_complete()
        assert not await own.is_short()
        assert (await bus.read(lost.key) or [None])[0] == lost
        counted = counts(candidate.own, monkeypatch)
        for _ in range(5):  # once it is there again nothing happens any more
            assert not await counted.get()
        assert len(candidate.terms) == 2
    await bus.close()


async def test_a_snapshot_whose_time_has_come_waits_for_the_count(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what is lost is absent by the word of a leader that does not know of it."""
    monkeypatch.setattr(auditing, "CHECK_SECONDS", 3.0)  # several ticks of a mirror
    bus = await Bus.connect(nats_server.url, name="ipam")
    candidate = Leading(bus, "ipam", streams.GRANT, "a")
    lost = a_connection("lost")
    async with running(candidate.run()):
        async with asyncio.timeout(30):
            await candidate.leads.wait()
        await candidate.terms[0].publish(lost)
        await candidate.terms[0].declare_complete()
        await lose(bus, lost)
        candidate.own._full_at = 0.0
        await until(lambda: len(candidate.terms) == 2, 30)
        assert candidate.own.stale == {lost.key}
    await bus.close()


async def test_who_takes_over_knows_what_was_lost_before(nats_server: NatsServer) -> None:
    first, second = [await Bus.connect(nats_server.url, name="ipam") for _ in range(2)]
    leader = Leading(first, "ipam", streams.GRANT, "a")
    standby = Leading(second, "ipam", streams.GRANT, "b")
    lost = a_connection("lost")
    async with running(standby.own.run()):
        async with running(leader.run()):
            async with asyncio.timeout(30):
                await leader.leads.wait()
            await leader.terms[0].publish(lost)
            await leader.terms[0].declare_complete()
            await until(lambda: lost.key in standby.own.items)
            await lose(first, lost)
        async with running(lead(second, "ipam", standby.own, standby.decide, holder="b")):
            async with asyncio.timeout(30):
                await standby.leads.wait()
            assert standby.own.stale == {lost.key}
    await first.close()
    await second.close()


async def test_a_guard_that_is_lost_ends_the_term_of_an_idle_leader(
    nats_server: NatsServer, often: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = await Bus.connect(nats_server.url, name="ipam")
    candidate = Leading(bus, "ipam", streams.GRANT, "a")
    store, ended = bus.store, asyncio.Event()

    async def mortal(key: Key, body: bytes, **options: Any) -> int:
        """The guard ends by itself until the test has seen it end: written over it would only depose."""
        if isinstance(key, LeaderKey) and not ended.is_set():
            options["ttl"] = 1
        return await store(key, body, **options)

    monkeypatch.setattr(bus, "store", mortal)
    other = a_connection("other")
    async with running(candidate.run()):
        async with asyncio.timeout(30):
            await candidate.leads.wait()
        ended.set()
        sequence = candidate.terms[0].sequence
        await bus.publish(other)
        await until(lambda: len(candidate.terms) == 2, 20)  # and nobody wrote anything
        found = await bus.read(LeaderKey("ipam"))
        assert found is not None
        assert found[1] > sequence
        assert other.key in candidate.own.items
        assert not await candidate.own.is_short()
    await bus.close()


async def test_what_nodes_were_asked_is_known_to_the_next_leader(nats_server: NatsServer) -> None:
    bus = await Bus.connect(nats_server.url, name="ipam")
    for holder in ("a", "b"):
        candidate = Leading(bus, "ipam", streams.GRANT, holder)
        async with running(candidate.run()):
            async with asyncio.timeout(30):
                await candidate.leads.wait()
            if holder == "a":
                await candidate.terms[0].ask_again()
            found = await bus.read(LeaderKey("ipam"))
            assert found is not None
            asked = found[0].asked_again
            assert asked
            if holder == "a":
                first = asked
    assert asked == first
    await bus.close()
