"""The table of semantics on the wire: pairs in both orders and triples, real packets, one resolver for all."""

import asyncio
import contextlib
import itertools
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import pytest

from services.dns.core.ranking import Rank, rank_of
from tests.dns.behaviours import BEHAVIOURS, BUDGET, LAST, LATE, reply_of, right_answer
from tests.dns.test_answering import A, B, C, a_pod
from tests.dns.test_core import read
from tests.dns.upstreams import a_profile, a_query, ask, cluster, service, serving

_DELAYS = (0.02, 0.12, 0.22)
_APART = 0.004  # all at once would only keep this process busy with itself
_SLACK = 0.35
_LAG = 0.05  # of the loop: times of a machine that stumbles so much tell nothing
_LAST_LAG = (
    LAST - LATE - max(_DELAYS)
)  # with that a late answer may come after the end of all waiting
_ORDERS = list(itertools.permutations(range(3)))
_ALL_ORDERS = bool(os.environ.get("NSM_SOAK"))
NAMES = [behaviour.name for behaviour in BEHAVIOURS]


class Mistimed(NamedTuple):
    """What was wrong, and how much the machine must have stumbled for that, all in all."""

    what: str
    lag: float


class Row(NamedTuple):
    """What each server does, and whose answer is the first, the second, the third."""

    does: tuple[str, ...]
    places: tuple[int, ...]

    @property
    def label(self) -> str:
        """All of it in the name that is asked for: `positive-silent-01.example`."""
        return "-".join((*self.does, "".join(map(str, self.places))))

    @classmethod
    def of(cls, label: str) -> "Row":
        *does, places = label.split("-")
        return cls(tuple(does), tuple(map(int, places)))

    def servers(self) -> list[tuple[str, float]]:
        return [(name, _DELAYS[place]) for name, place in zip(self.does, self.places, strict=True)]


def pairs_with(first: str) -> list[Row]:
    """All, in both orders."""
    return [Row((first, second), places) for second in NAMES for places in ((0, 1), (1, 0))]


def triples_with(first: str) -> list[Row]:
    """All; of their six orders one, which differs with who is first, in a soak every one."""
    others = itertools.combinations_with_replacement(NAMES, 2)
    return [
        Row((first, *rest), places)
        for number, rest in enumerate(others, NAMES.index(first))
        for places in (_ORDERS if _ALL_ORDERS else [_ORDERS[number % len(_ORDERS)]])
    ]


@pytest.mark.parametrize("first", NAMES)
async def test_every_pair_in_both_orders(first: str) -> None:
    await unless_too_busy(lambda: check_all(pairs_with(first), (A, B)))


@pytest.mark.parametrize("first", NAMES)
async def test_every_triple(first: str) -> None:
    await unless_too_busy(lambda: check_all(triples_with(first), (A, B, C)))


async def test_a_wrong_rank_is_no_matter_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = right_answer

    def wrong(servers: Sequence[tuple[str, float]]) -> tuple[Rank, float]:
        _, seconds = honest(servers)
        time.sleep(2 * _LAG)  # as a busy machine does
        return Rank.NOTHING, seconds

    monkeypatch.setattr(f"{__name__}.right_answer", wrong)
    with pytest.raises((ExceptionGroup, pytest.skip.Exception)) as caught:
        await unless_too_busy(lambda: check_all([Row(("positive", "silent"), (0, 1))], (A, B)))
    assert caught.type is ExceptionGroup
    assert caught.group_contains(AssertionError)


async def unless_too_busy(checked: Callable[[], Awaitable[list[Mistimed]]]) -> None:
    """Try again when what was mistimed may come of a machine that stumbled; a wrong answer is wrong at once."""
    for _ in range(3):
        lags = [0.0]
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(watch(lags))
            mistimed = await checked()
            watching.cancel()
        if not mistimed:
            return
        stumbled = sum(lag for lag in lags if lag >= _LAG)
        assert not [each for each in mistimed if each.lag > stumbled]
    pytest.skip("this machine is too busy to tell times")


async def watch(lags: list[float]) -> None:
    """How late the loop is."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + 0.01
        await asyncio.sleep(0.01)
        lags.append(loop.time() - due)


async def check_all(rows: Sequence[Row], addresses: Sequence[str]) -> list[Mistimed]:
    """What was answered too early or too late; every answer is the right one."""
    async with contextlib.AsyncExitStack() as stack:
        stray = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        pod = await stack.enter_async_context(a_pod())
        for me, address in enumerate(addresses):
            server: dict[str, Any] = {}
            act = script(me, server, stray)
            server["is"] = await stack.enter_async_context(serving(address, pod.upstream_port, act))
        others = [service(f"s{n}", address) for n, address in enumerate(addresses[1:])]
        pod.open(a_profile(cluster(addresses[0]), *others))
        async with asyncio.TaskGroup() as tasks:
            checks = []
            for row in rows:
                checks.append(tasks.create_task(check(pod.port, row)))
                await asyncio.sleep(_APART)
    return [mistimed for each in checks if (mistimed := each.result())]


def script(me: int, server: dict[str, Any], stray: socket.socket) -> Any:
    """What one of the servers does, as the name says."""
    asked: dict[str, int] = {}

    def act(query: Any, transport: str) -> Any:
        label = str(query.q.qname).partition(".")[0]
        if "-" not in label:  # a probe
            return bytes(query.reply().pack())
        name, delay = Row.of(label).servers()[me]
        again = asked[label] = asked.get(label, -1) + 1
        newest = server["is"].seen[-1]
        packet = reply_of(name, newest.raw)
        if not packet or again != (name == "lossy"):
            return None
        if name == "wrongport":
            asyncio.get_running_loop().call_later(delay, stray.sendto, packet, newest.client)
            return None
        return delay + (LATE if name == "late" else 0), packet

    return act


async def check(port: int, row: Row) -> Mistimed | None:
    """Whether the right answer came at the wrong time, or only after the end of all waiting."""
    loop = asyncio.get_running_loop()
    packet = a_query(f"{row.label}.example", number=0x4711)
    began = loop.time()
    reply = await ask(port, packet)
    took = loop.time() - began
    rank, seconds = right_answer(row.servers())

    assert reply[:2] == packet[:2]
    assert reply[12:].startswith(packet[12:])
    found = rank_of(reply, read(packet))
    if found is not (Rank.SERVFAIL if rank is Rank.NOTHING else rank):
        limit = LAST if took >= LAST else BUDGET
        assert seconds < limit <= took, (row, found)
        return Mistimed(f"{row.label}: {found.name} after {took:.3f} s", limit - seconds)
    if seconds - 0.02 < took < seconds + _SLACK:
        return None
    return Mistimed(f"{row.label}: after {took:.3f} s instead of {seconds:.3f} s", _LAG)
