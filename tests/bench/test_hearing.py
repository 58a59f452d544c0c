"""A benchmark that misses a message blames the product for it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.aio.msg import Msg

from bench.hearing import CutError, Hear, committed, heard
from lab.nats import NatsServer
from schemas.state import SeenPrefixes
from services._runtime.bus import Bus

_SECOND = datetime(2026, 11, 23, 23, 49, 28, tzinfo=UTC)


def _stamped(stamp: str) -> Msg:
    return Msg(Client(), headers={"Nats-Time-Stamp": stamp})


@given(nanoseconds=st.integers(0, 10**9 - 1))
def test_every_time_that_the_server_writes_is_read(nanoseconds: int) -> None:
    """As Go writes it: without the zeros at its end, and without the point where nothing follows."""
    fraction = f".{nanoseconds:09}".rstrip("0").rstrip(".")

    found = committed(_stamped(f"2026-11-23T23:49:28{fraction}Z"))

    expected = _SECOND + timedelta(microseconds=nanoseconds // 1000)
    assert found == expected.timestamp()


@pytest.mark.parametrize("fraction", ["", ".5", ".86737", ".867371", ".8673712", ".867371234"])
def test_a_time_of_any_length_is_read(fraction: str) -> None:
    expected = _SECOND.timestamp() + float(f"0{fraction or '.0'}")
    assert committed(_stamped(f"2026-11-23T23:49:28{fraction}Z")) == pytest.approx(expected)


async def test_what_is_committed_is_heard_in_order(nats_server: NatsServer, bus: Bus) -> None:
    subjects: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        subjects.put_nowait(message.subject)

    async with asyncio.timeout(30), heard(nats_server.url, hear, name="nsm-bench"):
        for node in ("node1", "node2"):
            await bus.publish(SeenPrefixes(node=node))
        assert [await subjects.get(), await subjects.get()] == [
            "log.nsm.seen.node1",
            "log.nsm.seen.node2",
        ]


async def test_a_message_that_cannot_be_read_ends_the_benchmark(
    nats_server: NatsServer, bus: Bus
) -> None:
    async def hear(_message: Msg) -> None:
        raise ValueError("no time")

    with pytest.raises(ExceptionGroup) as caught:
        await _measure(nats_server, bus, hear)
    assert caught.group_contains(ValueError, match="no time")


async def test_a_cut_connection_ends_the_benchmark(nats_server: NatsServer, bus: Bus) -> None:
    """Nobody repeats what was committed meanwhile."""

    async def hear(_message: Msg) -> None:
        nats_server.kill()

    with pytest.raises(ExceptionGroup) as caught:
        await _measure(nats_server, bus, hear)
    assert caught.group_contains(CutError)


async def _measure(server: NatsServer, bus: Bus, hear: Hear) -> None:
    """Until something ends it."""
    async with asyncio.timeout(30), heard(server.url, hear, name="nsm-bench"):
        await bus.publish(SeenPrefixes(node="node1"))
        await asyncio.Event().wait()
