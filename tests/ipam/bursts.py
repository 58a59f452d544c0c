"""Two replicas of ipam as real processes, a plumber that answers everything, and a checker of what is granted.

The checker reads what was committed, in its order, and nothing of ipam's own: an address has one owner from its
grant until the node's confirmation that it is gone.
"""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.intent import Leader
from schemas.subjects import ConnectionKey
from tests.ipam.world import World, status_key, status_of

ROOT = Path.cwd()

Address = tuple[str, str, str]  # namespace and name of the pool, address


class Checker:
    """Finds every address that has two owners at one time."""

    def __init__(self) -> None:
        self.conflicts: list[str] = []
        self.granted: dict[ConnectionKey, Connection] = {}
        self.by_burst: Counter[str] = Counter()  # granted, by the name of a Pod without its number
        self._owners: dict[Address, ConnectionKey] = {}
        self._held: dict[ConnectionKey, dict[Address, int]] = {}  # with the revision that holds it

    def note(self, key: Any, message: Any) -> None:
        """One committed message of NSM_GRANT."""
        if not isinstance(key, ConnectionKey):
            return
        before = self.granted.pop(key, None)
        self.by_burst[burst_of(key)] -= before is not None
        if isinstance(message, Tombstone):
            return
        self.granted[key] = message
        self.by_burst[burst_of(key)] += 1
        pool = message.endpoint_namespace, message.endpoint
        for text in message.client.addresses:
            address = (*pool, text)
            owner = self._owners.setdefault(address, key)
            if owner != key:
                self.conflicts.append(f"{text} of {owner.subject} is given to {key.subject} too")
            self._held.setdefault(key, {})[address] = message.revision

    def has(self, burst: str, number: int) -> bool:
        """Whether so many of a burst are granted."""
        return self.by_burst[burst] >= number

    def confirmed(self, key: ConnectionKey, revision: int) -> None:
        """The node says that of this connection nothing up to this revision stands."""
        held = self._held.get(key, {})
        for address in [a for a, granted in held.items() if granted <= revision]:
            del held[address]
            if self._owners.get(address) == key:
                del self._owners[address]


def burst_of(key: ConnectionKey) -> str:
    return key.pod.rpartition("-")[0]


class Plumber:
    """Applies every grant and confirms every release, in the order they come."""

    def __init__(self, world: World, checker: Checker) -> None:
        self._world = world
        self._checker = checker
        self._queue: asyncio.Queue[tuple[ConnectionKey, Any]] = asyncio.Queue()

    def note(self, key: Any, message: Any) -> None:
        if isinstance(key, ConnectionKey):
            self._queue.put_nowait((key, message))

    async def run(self) -> None:
        while True:
            async with asyncio.TaskGroup() as tasks:
                work = [await self._queue.get()]
                while not self._queue.empty() and len(work) < 200:
                    work.append(self._queue.get_nowait())
                for key, message in dict(work).items():  # the newest word on each
                    tasks.create_task(self._answer(key, message))

    async def _answer(self, key: ConnectionKey, message: Any) -> None:
        if isinstance(message, Connection):
            await self._world.bus.publish(status_of(message))
        else:
            self._checker.confirmed(key, message.revision)  # before ipam can know
            word = Tombstone(released=message.released, revision=message.revision)
            await self._world.bus.bury(status_key(key), word)


@asynccontextmanager
async def answering(world: World) -> AsyncIterator[Checker]:
    """A checker that sees every commit, and a plumber that answers."""
    checker = Checker()
    plumber = Plumber(world, checker)

    def note(key: Any, message: Any) -> None:
        checker.note(key, message)
        plumber.note(key, message)

    world.on_grant = note
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(plumber.run())
        yield checker
        task.cancel()


class Replicas:
    """Processes of `python -m services.ipam`, by the name of their holder."""

    def __init__(self, url: str, folder: Path, *, replicas: int = 1) -> None:
        self._folder = folder
        self._environment = {
            **os.environ,
            "NSM_NATS_URL": url,
            "NSM_NATS_REPLICAS": str(replicas),
            "NSM_LOG_FORMAT": "json",
        }
        self._processes: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, holder: str) -> None:
        with self.log(holder).open("ab") as log:
            self._processes[holder] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.ipam",
                env={**self._environment, "NSM_HOLDER": holder},
                cwd=ROOT,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def log(self, holder: str) -> Path:
        return self._folder / f"{holder}.log"

    async def kill(self, holder: str) -> None:
        process = self._processes.pop(holder)
        process.kill()
        await process.wait()

    def pause(self, holder: str) -> None:
        self._processes[holder].send_signal(signal.SIGSTOP)

    def resume(self, holder: str) -> None:
        self._processes[holder].send_signal(signal.SIGCONT)

    async def stop(self) -> None:
        for holder in list(self._processes):
            await self.kill(holder)


@asynccontextmanager
async def two_replicas(
    world: World, url: str, folder: Path, *, replicas: int = 1
) -> AsyncIterator[Replicas]:
    """`ipam-0` leads, `ipam-1` stands by."""
    ipams = Replicas(url, folder, replicas=replicas)
    try:
        await ipams.start("ipam-0")
        await world.until(lambda: (leader := world.leader()) and leader.holder == "ipam-0", 30)
        await ipams.start("ipam-1")
        await says(ipams, "ipam-1", "standing by")
        yield ipams
    finally:
        await ipams.stop()


async def says(ipams: Replicas, holder: str, text: str, *, seconds: float = 30) -> None:
    """A replica's log has this text."""
    async with asyncio.timeout(seconds):
        while text not in ipams.log(holder).read_text():
            await asyncio.sleep(0.02)


async def taken_over(world: World, before: Leader) -> str:
    """Who leads after `before`: another process, maybe of the same name."""

    def other() -> str:
        leader = world.leader()
        return leader.holder if leader.connection != before.connection else ""

    return str(await world.until(other, 30))
