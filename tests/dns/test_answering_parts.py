"""The small parts of the shell: how much is read per wake-up, and what of that reaches whom."""

import asyncio
import socket

from prometheus_client import CollectorRegistry

from services.dns.service.answering.bursts import MOST, Burst
from services.dns.service.answering.figures import Figures
from services.dns.service.answering.readers import Readers
from tests.dns.simulation import Simulation
from tests.dns.upstreams import a_profile, a_query, cluster


def test_a_burst_grows_while_more_is_there_and_shrinks_to_one():
    burst = Burst()
    sizes = []
    for turn in range(8):
        burst.filled(1 + turn / 10_000)
        sizes.append(len(burst.turns))
    assert sizes == [1, 2, 4, 8, 16, MOST, MOST, MOST]
    for _ in range(7):
        burst.shrink()
        sizes.append(len(burst.turns))
    assert sizes[8:] == [16, 8, 4, 2, 1, 1, 1]


def test_at_a_modest_rate_nothing_is_read_in_vain():
    burst = Burst()
    for turn in range(100):
        burst.filled(1 + turn / 100)

    assert len(burst.turns) == 1


async def test_readers_call_who_can_be_read_and_never_who_was_removed():
    readers, called = Readers(asyncio.get_running_loop()), list[int]()
    pairs = [socket.socketpair(type=socket.SOCK_DGRAM) for _ in range(3)]
    came = asyncio.Event()

    def on_readable(index: int) -> None:
        pairs[index][0].recv(10)
        called.append(index)
        readers.remove(pairs[1][0].fileno())
        readers.remove(pairs[1][0].fileno())
        came.set()

    for index, (ours, _) in enumerate(pairs):
        readers.add(ours.fileno(), lambda index=index: on_readable(index))  # type: ignore[misc]
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
