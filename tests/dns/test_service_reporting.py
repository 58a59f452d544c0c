"""What is said of resolvers: once, newest last, and again to a new stream."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from schemas.codec import Tombstone
from schemas.state import Resolver
from services._runtime.errors import Refused, Unavailable
from services.dns.service import reporting
from services.dns.service.reporting import Reporter


class FakeBus:
    def __init__(self) -> None:
        self.away = False
        self.loses_answers = False
        self.refused: Any = None
        self.told: list[Any] = []

    async def publish(self, message: Any) -> int:
        return self._store(message.key, message)

    async def bury(self, key: Any, tombstone: Tombstone) -> int:
        return self._store(key, tombstone)

    def _store(self, key: Any, message: Any) -> int:
        if self.away:
            raise Unavailable("the test says so")
        if key == self.refused:
            raise Refused("too large")
        self.told.append(message)
        if self.loses_answers:
            raise Unavailable("stored, but who knows")
        return len(self.told)

    def take(self) -> list[Any]:
        told, self.told = self.told, []
        return told


@asynccontextmanager
async def running(reporter: Reporter) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(reporter.run())
        yield
        task.cancel()


@asynccontextmanager
async def told_to_one() -> AsyncIterator[tuple[FakeBus, Reporter]]:
    """A reporter that has told stream `one` of a resolver."""
    bus = FakeBus()
    reporter = Reporter(bus)
    reporter.enter("one")
    async with running(reporter):
        reporter.say(a_resolver())
        await turns()
        assert bus.take() == [a_resolver()]
        yield bus, reporter


async def turns() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0)


def a_resolver(**fields: Any) -> Resolver:
    base = Resolver(node="node1", namespace="default", pod="client", uid="uid", state="serving")
    return msgspec.structs.replace(base, **fields)


KEY = a_resolver().key


async def test_the_same_word_is_said_once() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    async with running(reporter):
        for _ in range(3):
            reporter.say(a_resolver())
            await turns()
        assert bus.take() == [a_resolver()]

        reporter.say(a_resolver(mode="timed"))
        await turns()
    assert bus.take() == [a_resolver(mode="timed")]


async def test_what_was_said_before_a_restart_is_not_repeated() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    reporter.found({KEY: a_resolver()})
    async with running(reporter):
        reporter.say(a_resolver())
        await turns()
        assert bus.take() == []

        reporter.bury(KEY, "uid")
        await turns()
    assert bus.take() == [Tombstone(released="uid")]


async def test_an_end_is_told_once_and_only_of_what_the_bus_knows() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    async with running(reporter):
        reporter.bury(KEY, "uid")
        await turns()
        assert bus.take() == []

        reporter.say(a_resolver())
        await turns()
        for _ in range(2):
            reporter.bury(KEY, "uid")
            await turns()
        assert bus.take() == [a_resolver(), Tombstone(released="uid")]

        reporter.say(a_resolver())
        await turns()
    assert bus.take() == [a_resolver()]


async def test_only_the_newest_is_said_once_the_bus_is_back(monkeypatch) -> None:
    monkeypatch.setattr(reporting, "_RETRY_SECONDS", 0)
    bus = FakeBus()
    bus.away = True
    reporter = Reporter(bus)
    async with running(reporter):
        reporter.say(a_resolver(state="pending"))
        await turns()
        reporter.bury(KEY, "uid")
        reporter.say(a_resolver(state="serving"))
        await turns()
        bus.away = False
        await turns()
    assert bus.take() == [a_resolver(state="serving")]


@pytest.mark.parametrize("asked_first", [True, False], ids=["asked, ended", "ended, asked"])
async def test_an_end_before_the_word_is_repeated_is_told_all_the_same(
    *, asked_first: bool
) -> None:
    """Asked anew in the same stream, what was told before may stand there: nobody else takes it away."""
    async with told_to_one() as (bus, reporter):
        if asked_first:
            reporter.enter("one", asked="again")
        reporter.bury(KEY, "uid")
        reporter.enter("one", asked="again")
        await turns()
    assert bus.take() == [Tombstone(released="uid")]


async def test_of_a_pod_that_ended_a_new_stream_is_told_nothing() -> None:
    async with told_to_one() as (bus, reporter):
        reporter.enter("two")
        reporter.bury(KEY, "uid")
        await turns()
    assert bus.take() == []


async def test_a_new_stream_is_told_everything_and_the_same_one_nothing() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    async with running(reporter):
        reporter.enter("one")
        reporter.say(a_resolver())
        await turns()
        reporter.enter("one")
        reporter.enter("")
        await turns()
        assert bus.take() == [a_resolver()]

        reporter.enter("two")
        await turns()
        assert bus.take() == [a_resolver()]

        reporter.enter("two", asked="12:00")
        reporter.enter("two")
        await turns()
    assert bus.take() == [a_resolver()]


async def test_what_the_bus_will_not_have_holds_up_nobody_else() -> None:
    bus = FakeBus()
    bus.refused = KEY
    reporter = Reporter(bus)
    other = a_resolver(pod="other")
    async with running(reporter):
        reporter.say(a_resolver())
        reporter.say(other)
        await turns()
        assert bus.take() == [other]

        bus.refused = None
        reporter.say(a_resolver(mode="owned"))
        await turns()
    assert bus.take() == [a_resolver(mode="owned")]


async def test_the_end_of_what_was_stored_without_an_answer_is_told(monkeypatch) -> None:
    monkeypatch.setattr(reporting, "_RETRY_SECONDS", 0.01)
    bus = FakeBus()
    bus.loses_answers = True
    reporter = Reporter(bus)
    async with running(reporter):
        reporter.say(a_resolver())
        await turns()
        bus.loses_answers = False
        reporter.bury(KEY, "uid")
        await until(lambda: len(bus.told) == 2)
    assert bus.take() == [a_resolver(), Tombstone(released="uid")]


async def test_the_old_word_is_said_again_over_one_that_was_stored_without_an_answer(
    monkeypatch,
) -> None:
    monkeypatch.setattr(reporting, "_RETRY_SECONDS", 0.01)
    bus = FakeBus()
    reporter = Reporter(bus)
    async with running(reporter):
        reporter.say(a_resolver())
        await turns()
        bus.loses_answers = True
        reporter.say(a_resolver(state="pending"))
        await turns()
        bus.loses_answers = False
        reporter.say(a_resolver())
        await until(lambda: len(bus.told) == 3)
    assert bus.take() == [a_resolver(), a_resolver(state="pending"), a_resolver()]
