"""A node is told a Pod's addresses a while after they came to be known, if it still looks for the Pod then."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from schemas.subjects import RequestKey
from services.ipam.service import seeking
from services.ipam.service.agenda import Agenda
from services.ipam.service.seeking import Seeking

KEY = RequestKey("default", "client", "nsm-1")


@pytest.fixture
async def waiting(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Seeking, Agenda]]:
    monkeypatch.setattr(seeking, "PATIENCE_SECONDS", 0.02)
    agenda = Agenda()
    made = Seeking(agenda)
    yield made, agenda
    made.close()


async def test_a_request_is_due_again_when_its_time_is_over_and_only_once(
    waiting: tuple[Seeking, Agenda],
) -> None:
    made, agenda = waiting
    made.wait(KEY)
    made.wait(KEY)
    assert not made.is_over(KEY)
    async with asyncio.timeout(30):
        await agenda.wake.wait()

    assert agenda.take() == KEY
    assert not agenda
    assert made.is_over(KEY)
    assert not made.is_over(KEY)


async def test_nothing_is_due_after_the_end_of_a_term(waiting: tuple[Seeking, Agenda]) -> None:
    made, agenda = waiting
    made.wait(KEY)
    made.close()
    other = RequestKey("default", "other", "nsm-1")
    later = Seeking(agenda)
    later.wait(other)  # a timer that was set after it fires after it
    async with asyncio.timeout(30):
        await agenda.wake.wait()

    assert agenda.take() == other
    assert not agenda


async def test_a_request_that_goes_leaves_nothing_behind(waiting: tuple[Seeking, Agenda]) -> None:
    made, agenda = waiting
    gone = [RequestKey("default", f"client-{number}", "nsm-1") for number in range(10)]
    for key in gone:
        made.wait(key)
        made.forget(key)
    made.wait(KEY)
    async with asyncio.timeout(30):
        await agenda.wake.wait()
    assert agenda.take() == KEY
    assert not agenda

    made.forget(KEY)
    assert not made.is_over(KEY), "another Pod of that name starts anew"
