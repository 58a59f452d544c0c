import asyncio

import pytest

from schemas.subjects import ConnectionKey
from services.plumber.service import retries
from services.plumber.service.retries import Retries

A, B = (ConnectionKey("node1", "default", name, "nsm0") for name in "ab")


@pytest.fixture
def again(monkeypatch):
    monkeypatch.setattr(retries, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(retries, "MOST_SECONDS", 0.02)
    return asyncio.Queue()


async def test_what_failed_is_looked_at_again_ever_later(again) -> None:
    made = Retries(again.put_nowait)
    delays = []
    for _ in range(3):
        made.failed(A, {"u"}, "why")
        delays.append(made._failures[A].delay_seconds)
        assert await again.get() == A

    assert delays == [0.01, 0.02, 0.02]


async def test_what_is_settled_is_left_alone(again) -> None:
    made = Retries(again.put_nowait)
    made.failed(A, {"u"}, "why")
    made.failed(B, {"u"}, "why")
    made.settled(A)

    assert await again.get() == B
    assert again.empty()


async def test_a_change_in_the_same_pod_is_a_reason_to_look_at_once(again, monkeypatch) -> None:
    monkeypatch.setattr(retries, "FIRST_SECONDS", 3600)
    made = Retries(again.put_nowait)
    made.failed(A, {"client-a", "server"}, "why")
    made.failed(B, {"client-b"}, "why")

    made.stir(A, {"client-a", "client-b", "server"})
    assert again.get_nowait() == B
    made.stir(B, {"elsewhere"})
    assert again.empty()
    made.stir(B, {"server"})
    assert again.get_nowait() == A
    made.close()


async def test_a_reason_is_news_once(again) -> None:
    made = Retries(again.put_nowait)

    assert [made.failed(A, (), why) for why in ("x", "x", "y")] == [True, False, True]
    made.close()
