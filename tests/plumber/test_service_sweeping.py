"""Some connections at a time, everyone's turn, and everyone soon after a loss."""

import asyncio

import pytest

from schemas.subjects import ConnectionKey
from services.plumber.service import sweeping
from services.plumber.service.sweeping import Sweep

KEYS = [ConnectionKey("node1", "default", f"pod{n}", "nsm0") for n in range(25)]


class Rounds:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> None:
        monkeypatch.setattr(sweeping, "_AT_ONCE", 10)
        monkeypatch.setattr(sweeping, "_HURRIED_SECONDS", 0.001)
        self.rounds: list[list[ConnectionKey]] = []
        self.keys = KEYS
        self.born: dict[int, ConnectionKey] = {}  # by number of the sweep
        self.sweep = Sweep(seconds, keys=lambda: self.keys, before=self._begin, look=self._look)

    async def _begin(self) -> None:
        self.rounds.append([])
        if (born := self.born.get(len(self.rounds))) is not None:
            self.keys = [*self.keys, born]

    def _look(self, key: ConnectionKey) -> None:
        self.rounds[-1].append(key)

    async def run_until(self, rounds: int) -> None:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            task = group.create_task(self.sweep.run())
            while len(self.rounds) < rounds:
                await asyncio.sleep(0)
            task.cancel()


async def test_every_connection_gets_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = Rounds(monkeypatch, seconds=0.001)
    await rounds.run_until(7)

    assert [len(each) for each in rounds.rounds[:6]] == [10, 10, 5, 10, 10, 5]
    assert rounds.rounds[0] + rounds.rounds[1] + rounds.rounds[2] == KEYS


async def test_what_came_since_the_last_sweep_waits_for_the_next_but_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A burst is not looked at a second time while it is on."""
    rounds = Rounds(monkeypatch, seconds=0.001)
    rounds.keys, rounds.born = KEYS[:5], {2: KEYS[5]}
    await rounds.run_until(4)

    assert rounds.rounds[:3] == [KEYS[:5], KEYS[:5], KEYS[:6]]


async def test_after_a_loss_all_are_looked_at_without_waiting_for_the_sweep(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = Rounds(monkeypatch, seconds=3600)
    rounds.sweep.hurry()
    await rounds.run_until(3)

    assert [key for each in rounds.rounds for key in each] == KEYS
