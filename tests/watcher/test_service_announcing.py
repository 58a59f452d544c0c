"""Events in the background: what cannot be written ends quietly or is told, and the last word is always said."""

import asyncio
from typing import cast

import pytest
from structlog.testing import capture_logs

from services._runtime.errors import Unavailable
from services.watcher.adapters import Denied, Events, Kube, Missing
from services.watcher.core.news import WARNING, Announcement
from services.watcher.model import ObjectRef
from services.watcher.service import announcing
from services.watcher.service.announcing import Announcer
from tests.runtime.helpers import running
from tests.watcher.test_adapters_writing import a_going_namespace

POD = ObjectRef(api_version="v1", kind="Pod", namespace="default", name="client", uid="one")


def news(message="x", reason="NoEndpoint"):
    return Announcement(type=WARNING, reason=reason, message=message)


class Scripted:
    """Events that fail as told and then are written; a budget that is spent by hand."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.written: list[str] = []
        self.spent = False
        self.asked = 0
        self.progress = asyncio.Event()

    async def announce(self, about, *, kind, reason, message, again=True):
        self.asked += 1
        self.progress.set()
        if self.failures:
            raise self.failures.pop(0)
        if self.spent:
            return False
        self.written.append(message)
        return True

    def kept_back_seconds(self, about):
        return 0.02

    async def until(self, holds):
        async with asyncio.timeout(20):
            while not holds():
                self.progress.clear()
                await self.progress.wait()


async def said_after(scripted, *, logs):
    """Whether an announcer still works after what happened to it, and what it logged."""
    announcer = Announcer(cast("Events", scripted))
    async with running(announcer.run()):
        await asyncio.sleep(0)
        announcer.say(POD, news("first"))
        await scripted.until(lambda: not scripted.failures)
        announcer.say(POD, news("second"))
        await scripted.until(lambda: "second" in scripted.written)
        async with asyncio.timeout(20):
            while not logs:  # a log is no event
                await asyncio.sleep(0.005)
    return [(each["log_level"], each["event"], each.get("told")) for each in logs]


@pytest.mark.parametrize(
    ("failure", "level"),
    [
        (Missing("404"), "debug"),
        (Denied("403", status=403, namespace_is_going=True), "debug"),
        (Denied("403", status=403), "warning"),
        (Denied("422", status=422), "warning"),
    ],
    ids=["gone", "namespace going", "no right", "invalid"],
)
async def test_an_event_that_is_refused_ends_nothing(failure, level):
    with capture_logs() as logs:
        told = await said_after(Scripted(failure), logs=logs)
    assert [(each[0], each[2]) for each in told] == [(level, "NoEndpoint")]


async def test_an_event_that_nobody_takes_for_minutes_ends_nothing(monkeypatch):
    monkeypatch.setattr(announcing, "_FIRST_SECONDS", 0.001)
    monkeypatch.setattr(announcing, "_MOST_SECONDS", 0.001)
    scripted = Scripted(*[Unavailable("away")] * announcing._ATTEMPTS)
    with capture_logs() as logs:
        told = await said_after(scripted, logs=logs)
    assert told == [("warning", "event not written", "NoEndpoint")]
    assert scripted.written == ["second"]


async def test_a_refusal_names_what_to_do_about_it():
    with capture_logs() as logs:
        await said_after(Scripted(Denied("POST: 403", status=403)), logs=logs)
    assert logs[0]["reason"] == "POST: 403; grant the watcher the right to do this"


async def test_news_of_a_namespace_that_is_going_are_not_needed(cluster, kube: Kube):
    pod = a_going_namespace(cluster)
    about = ObjectRef(
        api_version="v1",
        kind="Pod",
        namespace="going",
        name="client",
        uid=pod["metadata"]["uid"],
    )
    seen = asyncio.Event()

    class Told(Events):
        async def announce(self, *args, **more):
            try:
                return await super().announce(*args, **more)
            finally:
                seen.set()

    announcer = Announcer(Told(kube, instance="test", clock=lambda: 0.0))
    with capture_logs() as logs:
        async with running(announcer.run()):
            await asyncio.sleep(0)
            announcer.say(about, news())
            async with asyncio.timeout(20):
                await seen.wait()
    assert {each["log_level"] for each in logs} <= {"debug"}


async def test_who_says_something_learns_whether_it_was_taken(monkeypatch):
    monkeypatch.setattr(announcing, "_PENDING", 1)
    announcer = Announcer(cast("Events", Scripted()))
    assert not announcer.say(POD, news())  # nobody leads
    async with running(announcer.run()):
        await asyncio.sleep(0)
        assert announcer.say(POD, news())
        assert not announcer.say(POD, news())


async def test_the_last_word_of_an_object_that_was_kept_back_is_told():
    scripted = Scripted()
    scripted.spent = True
    announcer = Announcer(cast("Events", scripted))
    async with running(announcer.run()):
        await asyncio.sleep(0)
        for at in range(20):
            announcer.say(POD, news(f"news {at}"))
        await scripted.until(lambda: scripted.asked >= 21)  # once more than said: the last again
        scripted.spent = False
        await scripted.until(lambda: bool(scripted.written))
    assert scripted.written == ["news 19"]


async def test_what_was_kept_back_is_not_told_after_a_later_word():
    scripted = Scripted()
    scripted.spent = True
    announcer = Announcer(cast("Events", scripted))
    async with running(announcer.run()):
        await asyncio.sleep(0)
        announcer.say(POD, news("old"))
        await scripted.until(lambda: scripted.asked == 1)
        scripted.spent = False
        announcer.say(POD, news("new"))
        await scripted.until(lambda: scripted.written == ["new"])
        await asyncio.sleep(0)
        assert announcer._kept == {}


async def test_an_object_that_is_kept_back_is_logged_once():
    scripted = Scripted()
    scripted.spent = True
    announcer = Announcer(cast("Events", scripted))
    with capture_logs() as logs:
        async with running(announcer.run()):
            await asyncio.sleep(0)
            for at in range(3):
                announcer.say(POD, news(f"news {at}"))
            await scripted.until(lambda: scripted.asked >= 4)
    (told,) = [each for each in logs if each["log_level"] == "info"]
    assert (told["event"], told["about"], told["told"]) == (
        "event kept back",
        "client",
        "NoEndpoint",
    )
