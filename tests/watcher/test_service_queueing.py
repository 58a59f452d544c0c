"""A queue of keys: once per key, one at a time, again if asked meanwhile, later if the world is busy."""

import asyncio

from structlog.testing import capture_logs

from services._runtime.errors import Conflict, Unavailable
from services.watcher.service import queueing
from services.watcher.service.queueing import Workqueue
from tests.runtime.helpers import running


class Work:
    def __init__(self, *failures: Exception) -> None:
        self.done: list[str] = []
        self.busy: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failures = list(failures)
        self._progress = asyncio.Event()

    async def __call__(self, key: str) -> None:
        assert key not in self.busy, "two at a time on one key"
        self.busy.add(key)
        self._progress.set()
        try:
            await self.gate.wait()
            if self.failures:
                raise self.failures.pop(0)
            self.done.append(key)
        finally:
            self.busy.discard(key)
            self._progress.set()

    async def until(self, holds):
        async with asyncio.timeout(20):
            while not holds():
                self._progress.clear()
                await self._progress.wait()


async def test_what_waits_is_done_once_however_often_it_was_asked():
    work = Work()
    queue = Workqueue("test", work, workers=2)
    queue.update(["a", "b", "a"])
    queue.update(["a"])
    async with running(queue.run()):
        await work.until(lambda: len(work.done) == 2)
    assert sorted(work.done) == ["a", "b"]


async def test_asked_while_it_is_done_it_is_done_again_and_never_twice_at_a_time():
    work = Work()
    work.gate.clear()
    queue = Workqueue("test", work, workers=4)
    async with running(queue.run()):
        queue.update(["a"])
        await work.until(lambda: work.busy == {"a"})
        queue.update(["a"])
        queue.update(["a"])
        work.gate.set()
        await work.until(lambda: len(work.done) == 2)
        assert len(queue) == 0


async def test_a_busy_world_puts_off_one_key_and_holds_up_no_other():
    work = Work(Unavailable("busy"), Conflict("old"))
    queue = Workqueue("test", work, workers=1)
    queue.update(["a", "b", "c"])
    async with running(queue.run()):
        await work.until(lambda: len(work.done) == 3)
    assert work.done[0] == "c"
    assert sorted(work.done) == ["a", "b", "c"]


async def test_who_says_how_long_to_stay_away_means_every_key():
    work = Work(Unavailable("too many requests", after=0.3))
    queue = Workqueue("test", work, workers=2)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    queue.update(["a"])
    async with running(queue.run()):
        await work.until(lambda: not work.failures)
        queue.update(["b"])
        await work.until(lambda: work.done)
        assert loop.time() - begun >= 0.3
        await work.until(lambda: len(work.done) == 2)


async def test_nobody_is_sent_away_for_longer_than_the_longest_delay(monkeypatch):
    monkeypatch.setattr(queueing, "_MOST_SECONDS", 0.2)
    work = Work(Unavailable("maintenance", after=3600))
    queue = Workqueue("test", work, workers=1)
    queue.update(["a", "b"])
    async with running(queue.run()):
        await work.until(lambda: sorted(work.done) == ["a", "b"])


async def test_of_several_times_asked_the_earliest_counts_and_once():
    work = Work()
    queue = Workqueue("test", work, workers=1)
    async with running(queue.run()):
        queue.add_later("a", 60)
        queue.add_later("a", 0.01)
        queue.add_later("a", 60)
        queue.add_later("b", 0.05)
        await work.until(lambda: "b" in work.done)
    assert work.done == ["a", "b"]


async def test_however_many_keys_fail_the_log_says_once_that_it_begins_and_once_that_it_ended():
    work = Work(*(Unavailable("busy") for _ in range(150)))
    queue = Workqueue("test", work, workers=4)
    queue.update([f"key-{at}" for at in range(100)])
    with capture_logs() as told:
        async with running(queue.run()):
            await work.until(lambda: len(work.done) == 100)
    assert [(each["log_level"], each["queue"]) for each in told] == [
        ("warning", "test"),
        ("info", "test"),
    ]
    assert told[0]["reason"] == "busy"
    assert told[1]["failures"] == 150


async def test_failing_again_is_told_again():
    work = Work(Unavailable("busy"))
    queue = Workqueue("test", work, workers=1)
    with capture_logs() as told:
        async with running(queue.run()):
            queue.update(["a"])
            await work.until(lambda: len(work.done) == 1)
            work.failures.append(Conflict("old"))
            queue.update(["b"])
            await work.until(lambda: len(work.done) == 2)
    assert [each["log_level"] for each in told] == ["warning", "info"] * 2
