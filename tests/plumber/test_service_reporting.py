import asyncio
import contextlib
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from schemas.codec import Tombstone
from schemas.state import NodeFacts, SeenPrefixes
from schemas.subjects import NodeKey, SeenKey
from services._runtime.errors import Refused, Unavailable
from services.plumber import core
from services.plumber.model import Pair, Waiting
from services.plumber.service import reporting
from services.plumber.service.reporting import Reporter
from tests.plumber.grants import NODE, a_grant

GRANT = a_grant()


def a_status(revision: int = 1) -> Any:
    grant = a_grant(revision=revision)
    return core.status(grant, node=NODE, pair=Pair(), waiting=Waiting())


class FakeBus:
    """Notes what is told; away as long as `away` is set."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, Any]] = []
        self.away = False
        self.refused: Any = None  # a key it will not have
        self.meanwhile: Callable[[], None] | None = None  # done once, while it takes a message

    async def publish(self, message: Any) -> int:
        if message.key == self.refused:
            raise Refused("too large")
        return self._take(message.key, message)

    async def bury(self, key: Any, tombstone: Tombstone = Tombstone()) -> int:  # noqa: B008
        return self._take(key, tombstone)

    def _take(self, key: Any, message: Any) -> int:
        if self.away:
            raise Unavailable("away")
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        self.told.append((key, message))
        return len(self.told)

    def take(self) -> list[Any]:
        told, self.told = [message for _, message in self.told], []
        return told


@asynccontextmanager
async def running(reporter: Reporter):
    async with asyncio.TaskGroup() as group:
        task = group.create_task(reporter.run())
        yield
        task.cancel()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_the_same_is_told_once() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    async with running(reporter):
        reporter.say(a_status())
        await turns()
        reporter.say(a_status())
        await turns()

    assert bus.take() == [a_status()]


async def test_an_end_is_told_before_what_comes_after_it() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    gone = Tombstone(released="uid-old", revision=1)
    reporter.say(a_status(1))
    reporter.bury(a_status().key, gone)
    reporter.say(a_status(2))
    async with running(reporter):
        await turns()

    buried, said = bus.take()
    assert msgspec.structs.replace(buried, at="") == gone
    assert buried.at
    assert said == a_status(2)


async def test_the_newest_is_told_once_the_bus_is_back(monkeypatch) -> None:
    monkeypatch.setattr(reporting, "_RETRY_SECONDS", 0)
    bus = FakeBus()
    bus.away = True
    reporter = Reporter(bus)
    async with running(reporter):
        reporter.say(a_status(1))
        await turns()
        reporter.say(a_status(2))
        await turns()
        bus.away = False
        await turns()

    assert bus.take() == [a_status(2)]


async def test_a_node_is_complete_only_after_its_statuses_and_in_a_known_stream() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    async with running(reporter):
        reporter.describe(NodeFacts(node=NODE), SeenPrefixes(node=NODE))
        await turns()
        reporter.complete()
        await turns()
        assert not any(message.complete for key, message in bus.told if key == NodeKey(NODE))

        reporter.say(a_status())
        reporter.enter("2026-01-01")
        await turns()

    told = bus.take()
    assert told.index(a_status()) < len(told) - 1
    assert told[-1] == NodeFacts(node=NODE, complete=True, incarnation="2026-01-01")


async def test_complete_said_while_others_are_told_covers_those_said_before_it() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    late = msgspec.structs.replace(a_status(), pod="late")

    def meanwhile() -> None:
        reporter.say(late)
        reporter.complete()

    bus.meanwhile = meanwhile
    async with running(reporter):
        reporter.enter("one")
        reporter.describe(NodeFacts(node=NODE), SeenPrefixes(node=NODE))
        reporter.say(a_status())
        await turns()

    told = bus.take()
    first_complete = next(n for n, each in enumerate(told) if getattr(each, "complete", False))
    assert told.index(late) < first_complete


async def test_a_new_stream_is_told_everything() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    async with running(reporter):
        reporter.describe(NodeFacts(node=NODE), SeenPrefixes(node=NODE))
        reporter.say(a_status())
        reporter.complete()
        reporter.enter("one")
        await turns()
        bus.take()

        reporter.enter("one")
        await turns()
        assert bus.take() == []

        reporter.enter("two")
        await turns()

    assert [key for key, _ in bus.told] == [a_status().key, SeenKey(NODE), NodeKey(NODE)]
    assert bus.take()[-1].incarnation == "two"


async def test_who_is_asked_again_tells_everything_again_once() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    async with running(reporter):
        reporter.describe(NodeFacts(node=NODE), SeenPrefixes(node=NODE))
        reporter.say(a_status())
        reporter.complete()
        reporter.enter("one", asked="12:00")
        await turns()
        first = bus.take()

        for asked in ("12:00", ""):
            reporter.enter("one", asked=asked)
            await turns()
            assert bus.take() == []

        reporter.enter("one", asked="13:00")
        await turns()

    assert bus.take() == first
    assert first[-1].complete


async def test_ends_are_told_once_and_not_kept(monkeypatch) -> None:
    monkeypatch.setattr(reporting, "_REMEMBERED", 3)
    bus = FakeBus()
    reporter = Reporter(bus)
    keys = [msgspec.structs.replace(a_status().key, pod=f"pod{n}") for n in range(10)]
    async with running(reporter):
        for key in keys:
            reporter.bury(key, Tombstone(released="uid", revision=1))
        await turns()
        assert len(bus.take()) == 10
        reporter.bury(keys[-1], Tombstone(released="uid", revision=1))
        await turns()

    assert bus.take() == []
    assert reporter._sent == {}
    assert len(reporter._buried) == 3


async def test_of_many_ends_the_newest_is_told_once_the_bus_is_back(monkeypatch) -> None:
    monkeypatch.setattr(reporting, "_RETRY_SECONDS", 0)
    bus = FakeBus()
    bus.away = True
    reporter = Reporter(bus)
    async with running(reporter):
        for revision in (1, 2, 1):
            reporter.bury(a_status().key, Tombstone(released="uid", revision=revision))
            await turns()
        bus.away = False
        await turns()

    assert [tombstone.revision for tombstone in bus.take()] == [2]


async def test_an_end_is_told_again_after_another_word() -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    gone = Tombstone(released="uid", revision=1)
    async with running(reporter):
        for _ in range(2):
            reporter.bury(a_status().key, gone)
            await turns()
            reporter.say(a_status(1))
            await turns()

    kinds = [isinstance(message, Tombstone) for message in bus.take()]
    assert kinds == [True, False, True, False]


async def test_what_the_bus_will_not_have_holds_up_only_the_word_complete() -> None:
    bus = FakeBus()
    bus.refused = a_status().key
    reporter = Reporter(bus)
    other = msgspec.structs.replace(a_status(), pod="other")
    async with running(reporter):
        reporter.describe(NodeFacts(node=NODE), SeenPrefixes(node=NODE))
        reporter.say(a_status())
        reporter.say(other)
        reporter.complete()
        reporter.enter("one")
        await turns()
        told = bus.take()
        assert other in told
        assert not told[-1].complete

        bus.refused = None
        reporter.say(a_status(2))
        await turns()

    assert bus.take()[-1].complete


async def test_one_change_costs_nothing_for_the_thousands_that_did_not_change(monkeypatch) -> None:
    bus = FakeBus()
    reporter = Reporter(bus)
    statuses = [
        core.status(a_grant(client=f"client{n}"), node=NODE, pair=Pair(), waiting=Waiting())
        for n in range(100)
    ]
    encoded: list[Any] = []

    def encode(message: Any) -> bytes:
        encoded.append(message)
        return msgspec.json.encode(message)

    async with running(reporter):
        for status in statuses:
            reporter.say(status)
        await turns()
        assert len(bus.take()) == 100

        monkeypatch.setattr("schemas.codec.encode", encode)
        changed = msgspec.structs.replace(statuses[7], revision=2)
        reporter.say(changed)
        await turns()

    assert bus.take() == [changed]
    assert encoded == [changed]


async def test_what_the_bus_did_not_take_is_told_later_and_in_order() -> None:
    bus = FakeBus()
    bus.away = True
    reporter = Reporter(bus)
    said = [
        core.status(a_grant(client=f"client{n}"), node=NODE, pair=Pair(), waiting=Waiting())
        for n in range(3)
    ]
    for status in said:
        reporter.say(status)
    for _ in range(2):
        with contextlib.suppress(Unavailable):
            await reporter._tell()
    bus.away = False
    await reporter._tell()

    assert bus.take() == said
