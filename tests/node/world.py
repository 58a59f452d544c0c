"""What tests of a node's services play on: a bus, the results of a CNI, and the test in the part of ipam."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from lab.nats import NatsServer
from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.intent import Leader
from services._runtime.bus import Bus
from services._runtime.mirror import Mirror
from services._runtime.streams import STATE


class NodeWorld:
    """Follows what the node says: `state` now, `told` in its order."""

    def __init__(self, directory: Path, nats: NatsServer, bus: Bus) -> None:
        self.nats = nats
        self.bus = bus
        self.results = directory / "results"
        self.told: list[tuple[Any, Any]] = []
        self.state = Mirror(bus, STATE, ["nsm.>"], on_change=self._note)

    @classmethod
    @asynccontextmanager
    async def made(cls, directory: Path) -> AsyncIterator[Self]:
        """With a bus of its own, for the length of the block."""
        with NatsServer(directory / "nats") as nats:
            bus = await Bus.connect(nats.url, name="test")
            found = cls(directory, nats, bus)
            await found.lead(complete=False)
            await found.lead(complete=True)
            try:
                async with asyncio.TaskGroup() as group:
                    following = group.create_task(found.state.run())
                    yield found
                    following.cancel()
            finally:
                await bus.close()

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
        async with asyncio.timeout(30):
            while (found := await self.bus.read(key)) is None:
                await asyncio.sleep(0.005)
        return found[0]
