import asyncio
from contextlib import asynccontextmanager

from services.plumber.service.lanes import Lanes


class Work:
    """Notes what begins and ends; ends when it is let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.running: set[str] = set()
        self.most = 0
        self.go = asyncio.Event()

    async def __call__(self, key: str) -> None:
        assert key not in self.running, "the same key twice at a time"
        self.begun.append(key)
        self.running.add(key)
        self.most = max(self.most, len(self.running))
        await self.go.wait()
        self.running.discard(key)


@asynccontextmanager
async def running(lanes: Lanes[str]):
    async with asyncio.TaskGroup() as group:
        task = group.create_task(lanes.run())
        yield
        task.cancel()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_different_keys_run_in_parallel_but_bounded() -> None:
    work = Work()
    lanes = Lanes(work, width=2)
    async with running(lanes):
        for key in "abc":
            lanes.add(key)
        await turns()
        assert work.running == {"a", "b"}

        work.go.set()
        await lanes.worked({"a", "b", "c"})

    assert work.begun == ["a", "b", "c"]
    assert work.most == 2


async def test_a_waiting_key_runs_once() -> None:
    work = Work()
    work.go.set()
    lanes = Lanes(work, width=2)
    for _ in range(3):
        lanes.add("a")
    async with running(lanes):
        await lanes.worked({"a"})

    assert work.begun == ["a"]


async def test_a_key_at_work_runs_once_more_afterwards() -> None:
    work = Work()
    lanes = Lanes(work, width=2)
    async with running(lanes):
        lanes.add("a")
        await turns()
        lanes.add("a")
        lanes.add("a")
        await turns()
        assert work.begun == ["a"]

        work.go.set()
        await lanes.worked({"a"})

    assert work.begun == ["a", "a"]
