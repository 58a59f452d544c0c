"""The small parts of the shell: how much is read per wake-up, and what of that reaches whom."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.dns.core.tally import Tally
from services.dns.service.answering.bursts import MOST, Burst
from services.dns.service.answering.departures import Departures
from services.dns.service.answering.figures import Figures
from services.dns.service.answering.readers import Readers
from tests.dns.simulation import Simulation
from tests.dns.upstreams import a_profile, a_query, cluster


def test_a_burst_grows_while_more_is_there_and_shrinks_to_one():
    burst = Burst()
    sizes = []
    for turn in range(8):
        burst.filled(1 + turn / 10_000)
        sizes.append(burst.turns)
    assert sizes == [1, 2, 4, 8, 16, MOST, MOST, MOST]
    for _ in range(7):
        burst.shrink()
        sizes.append(burst.turns)
    assert sizes[8:] == [16, 8, 4, 2, 1, 1, 1]


@pytest.mark.parametrize("error", [BlockingIOError, ConnectionRefusedError])
def test_what_came_before_an_error_is_kept(error):
    burst, coming = Burst(), [b"a", b"b"]
    burst.turns = 8
    kept: list[bytes] = []

    def receive(_: int) -> bytes:
        if not coming:
            raise error
        return coming.pop(0)

    ended_by = burst.read(receive, 512, 1.0, kept)
    assert kept == [b"a", b"b"]
    assert (type(ended_by), burst.turns) == (
        (type(None), 4) if error is BlockingIOError else (error, 8)
    )


def test_at_a_modest_rate_nothing_is_read_in_vain():
    burst = Burst()
    for turn in range(100):
        burst.filled(1 + turn / 100)

    assert burst.turns == 1


async def test_readers_call_who_can_be_read_and_never_who_was_removed():
    departures = Departures(Tally())
    readers, called = Readers(asyncio.get_running_loop(), departures), list[int]()
    pairs = [socket.socketpair(type=socket.SOCK_DGRAM) for _ in range(3)]
    came = asyncio.Event()

    def on_readable(index: int) -> None:
        pairs[index][0].recv(10)
        called.append(index)
        readers.remove(pairs[1][0].fileno())
        readers.remove(pairs[1][0].fileno())
        came.set()

    for index, (ours, _) in enumerate(pairs):
        readers.add(ours.fileno(), lambda _, index=index: on_readable(index))  # type: ignore[misc]
    for index in (0, 2, 1):
        pairs[index][1].send(b"x")
        if index != 1:
            came.clear()
            await came.wait()
    await asyncio.sleep(0.01)
    readers.close()
    for pair in pairs:
        for sock in pair:
            sock.close()

    assert called == [0, 2]


@pytest.fixture
def departures() -> Iterator[tuple[Departures, Tally, socket.socket, socket.socket]]:
    """With a socket to send from, and a client's."""
    tally = Tally()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.bind(("127.0.0.1", 0))
        client.setblocking(False)
        yield Departures(tally), tally, ours, client


def received(client: socket.socket) -> list[bytes]:
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            found.append(client.recv(100))
    return found


def test_replies_leave_at_once_but_while_packets_are_read_they_leave_together(departures):
    departing, _, ours, client = departures
    send = departing.sender(ours)

    send(b"first", client.getsockname())
    assert received(client) == [b"first"]
    departing.hold()
    send(b"second", client.getsockname())
    send(b"third", client.getsockname())
    assert received(client) == []
    departing.release()
    assert received(client) == [b"second", b"third"]
    departing.release()
    assert received(client) == []


def test_no_more_replies_are_held_than_a_few(departures):
    departing, _, ours, client = departures
    send = departing.sender(ours)
    departing.hold()
    for _ in range(100):
        send(b"x", client.getsockname())

    assert 50 <= len(received(client)) < 100


def test_a_reply_that_cannot_leave_is_counted_and_costs_no_other(departures):
    departing, tally, ours, client = departures
    closed = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    departing.hold()
    departing.sender(closed)(b"lost", client.getsockname())
    departing.sender(ours)(b"kept", client.getsockname())
    closed.close()
    departing.release()

    assert received(client) == [b"kept"]
    assert tally.trouble == {"reply could not be sent": 1}


async def test_what_a_reader_raises_keeps_no_reply_back(departures):
    departing, _, ours, client = departures
    loop, faults = asyncio.get_running_loop(), list[Any]()
    raised = asyncio.Event()

    def on_fault(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        faults.append(context)
        raised.set()

    loop.set_exception_handler(on_fault)
    readers, (reading, other) = Readers(loop, departing), socket.socketpair()
    send = departing.sender(ours)

    def on_readable(_: float) -> None:
        reading.recv(10)
        send(b"reply", client.getsockname())
        raise ValueError("of one Pod")

    readers.add(reading.fileno(), on_readable)
    other.send(b"x")
    await raised.wait()
    readers.close()
    reading.close()
    other.close()

    assert received(client) == [b"reply"]
    assert "of one Pod" in str(faults[0]["exception"])


def test_the_figures_are_those_of_the_tally():
    simulation = Simulation(
        a_profile(cluster("10.0.0.1")), lambda sent: sent.answer(0.01, _denied(sent.packet))
    )
    registry = CollectorRegistry()
    Figures(registry, simulation.tally, lambda: iter(simulation.resolver.plans.servers))
    simulation.ask(a_query("a.example"))
    simulation.ask(b"\0" * 5)
    simulation.run(1)

    def figure(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, labels)

    assert figure("nsm_dns_queries_total", transport="udp", outcome="nxdomain") == 1
    assert figure("nsm_dns_queries_total", transport="tcp", outcome="cached") == 0
    assert figure("nsm_dns_answers_total", upstream="cluster", rank="nxdomain") == 1
    assert figure("nsm_dns_trouble_total", what="not a query we ask on") == 1
    assert figure("nsm_dns_seconds_count") == 1
    assert figure("nsm_dns_seconds_bucket", le="0.005") == 0
    assert figure("nsm_dns_seconds_bucket", le="0.025") == 1
    assert figure("nsm_dns_upstreams", upstream="cluster", state="well") == 1
    assert figure("nsm_dns_upstreams", upstream="cluster", state="dead") == 0


def _denied(packet: bytes) -> bytes:
    return packet[:2] + b"\x81\x83" + packet[4:]
