"""A bus, a CNI's results and a plumber: what the service's tests play on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.nats import NatsServer
from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.intent import Leader
from schemas.state import Status
from schemas.subjects import StatusKey
from services._runtime.bus import Bus
from services._runtime.mirror import Mirror
from services._runtime.streams import STATE
from services.plumber.service import Plumber
from services.plumber.settings import Settings
from tests.plumber.grants import NODE

STATUS = StatusKey(NODE, "default", "client", "nsm0")


class World:
    """A bus, the results of a CNI, and the test in the part of ipam and the watcher."""

    def __init__(self, directory: Path, nats: NatsServer, bus: Bus) -> None:
        self.nats = nats
        self.bus = bus
        self.results = directory / "results"
        self.settings = Settings(
            node=NODE, cni_results=str(self.results), runtime_dir=str(directory / "run")
        )
        self.told: list[tuple[Any, Any]] = []
        self.state = Mirror(bus, STATE, ["nsm.>"], on_change=self._note)

    def _note(self, key: Any, message: Any) -> None:
        self.told.append((key, message))

    async def lead(self, *, complete: bool) -> None:
        incarnations = await self.bus.ensure_streams()
        await self.bus.publish(
            Leader(service="ipam", holder="test", incarnations=incarnations, complete=complete)
        )

    async def grant(self, grant: Connection) -> None:
        await self.bus.publish(grant)

    async def release(self, grant: Connection) -> None:
        await self.bus.bury(
            grant.key, Tombstone(released=grant.client.pod.uid, revision=grant.revision)
        )

    async def until(self, condition: Callable[[], Any], *, seconds: float = 30) -> Any:
        """The condition's value once it holds; the test fails after some seconds."""
        try:
            async with asyncio.timeout(seconds):
                while not (value := condition()):
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pytest.fail(f"never came true; told so far: {self.told[-3:]}")
        return value

    async def until_read(self, key: Any) -> Any:
        """What the subject of `key` holds, as soon as it holds something."""
        async with asyncio.timeout(10):
            while (found := await self.bus.read(key)) is None:
                await asyncio.sleep(0.005)
        return found[0]

    def status(self, key: StatusKey = STATUS) -> Status | None:
        found = self.state.items.get(key)
        return found if isinstance(found, Status) else None

    async def client_is(self, state: str, reason: str = "", *, revision: int = 0) -> Status:
        def holds() -> Status | None:
            status = self.status()
            if status is None or status.client is None or status.revision < revision:
                return None
            matches = (status.client.state, status.client.reason) == (state, reason)
            return status if matches else None

        found: Status = await self.until(holds)
        return found

    async def buried(self, uid: str, revision: int = 1) -> None:
        await self.until(
            lambda: any(
                key == STATUS
                and isinstance(said, Tombstone)
                and (said.released, said.revision) == (uid, revision)
                for key, said in self.told
            )
        )

    @asynccontextmanager
    async def plumber(self, *, sweep_seconds: float = 0.3) -> AsyncIterator[Plumber]:
        """A plumber until the end of the block; then it is gone as after a crash, but for its threads."""
        bus = await Bus.connect(self.nats.url, name=f"plumber-{NODE}")
        plumber = Plumber(bus, self.settings, sweep_seconds=sweep_seconds)
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(plumber.run())
                try:
                    yield plumber
                finally:
                    task.cancel()
        finally:
            await bus.close()
