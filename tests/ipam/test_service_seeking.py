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
    async with asyncio.timeout(10):
        await agenda.wake.wait()

    assert agenda.take() == KEY
    assert not agenda
    assert made.is_over(KEY)
    assert not made.is_over(KEY)


async def test_nothing_is_due_after_the_end_of_a_term(waiting: tuple[Seeking, Agenda]) -> None:
    made, agenda = waiting
    made.wait(KEY)
    made.close()
    await asyncio.sleep(seeking.PATIENCE_SECONDS * 2)

    assert not agenda
