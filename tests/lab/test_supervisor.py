"""Processes come back one second after their death, unless they are held."""

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab import supervisor
from lab.layout import Layout
from lab.supervisor import ProcessStatus, Spec, Supervisor, base_environment, describe_exit

FOREVER = "import time; print('up', flush=True); time.sleep(1000)"


class Supervised:
    def __init__(self, tmp_path):
        self.layout = Layout(tmp_path)
        self.supervisor = Supervisor(self.layout)

    def status(self) -> ProcessStatus:
        (status,) = self.supervisor.statuses()
        return status

    async def starts(self, number: int) -> ProcessStatus:
        """Until it was started so often, told by its own output."""
        log = self.layout.log("p")
        async with asyncio.timeout(20):
            while not log.exists() or log.read_text().count("up") < number:
                await asyncio.sleep(0.01)
        return self.status()

    async def ended(self) -> None:
        async with asyncio.timeout(20):
            while self.status().running:
                await asyncio.sleep(0.01)


@pytest.fixture
async def supervised(tmp_path) -> AsyncIterator[Supervised]:
    world = Supervised(tmp_path)
    async with asyncio.TaskGroup() as tasks:

        async def keep() -> None:
            async with asyncio.TaskGroup() as inner:
                spec = Spec(name="p", command=(sys.executable, "-c", FOREVER))
                world.supervisor.add(spec, inner)

        kept = tasks.create_task(keep())
        yield world
        world.supervisor.kill("p", signal.SIGKILL, hold=True)
        await world.ended()
        kept.cancel()


async def test_a_killed_process_comes_back_after_a_second(supervised):
    first = await supervised.starts(1)
    began = time.monotonic()
    supervised.supervisor.kill("p", signal.SIGKILL, hold=False)
    second = await supervised.starts(2)
    assert time.monotonic() - began >= 1.0
    assert second.running and second.pid != first.pid
    assert (second.restarts, second.last_exit) == (1, "killed by SIGKILL")


async def test_a_held_process_stays_away_until_it_is_released(supervised, monkeypatch):
    monkeypatch.setattr(supervisor, "RESTART_SECONDS", 0.01)
    await supervised.starts(1)
    released = supervised.supervisor._kept["p"].released
    waiting, wait = asyncio.Event(), released.wait

    async def tell_and_wait():
        waiting.set()
        return await wait()

    monkeypatch.setattr(released, "wait", tell_and_wait)
    supervised.supervisor.kill("p", signal.SIGTERM, hold=True)
    await supervised.ended()
    await waiting.wait()  # for the release, so the pause before a restart is over
    assert not supervised.status().running and supervised.status().held
    supervised.supervisor.release("p")
    assert (await supervised.starts(2)).running


async def test_a_process_that_a_signal_stopped_is_told_as_that_until_it_goes_on(supervised):
    first = await supervised.starts(1)
    assert not first.stopped

    async def until(*, stopped: bool) -> None:
        async with asyncio.timeout(20):
            while supervised.status().stopped is not stopped:
                await asyncio.sleep(0.01)

    supervised.supervisor.kill("p", signal.SIGSTOP, hold=False)
    await until(stopped=True)
    assert supervised.status().running and supervised.status().stopped  # asking takes nothing away
    supervised.supervisor.kill("p", signal.SIGCONT, hold=False)
    await until(stopped=False)
    supervised.supervisor.kill("p", signal.SIGSTOP, hold=False)
    await until(stopped=True)
    supervised.supervisor.kill("p", signal.SIGKILL, hold=True)
    await supervised.ended()
    assert not supervised.status().stopped


async def test_an_unknown_process_is_a_key_error(supervised):
    with pytest.raises(KeyError):
        supervised.supervisor.kill("nobody", signal.SIGTERM, hold=False)


@pytest.mark.parametrize(
    ("code", "said"),
    [(0, "exit code 0"), (-9, "killed by SIGKILL"), (-40, "killed by signal 40")],
)
def test_every_end_of_a_process_can_be_told(code, said):
    assert describe_exit(code) == said


def test_our_python_is_found_last_by_what_we_start():
    assert base_environment()["PATH"].endswith(f":{Path(sys.executable).parent}")
