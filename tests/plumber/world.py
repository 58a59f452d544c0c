"""A bus, a CNI's results and a plumber: what the service's tests play on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from lab.nats import NatsServer
from schemas.codec import Tombstone
from schemas.state import Status
from schemas.subjects import StatusKey
from services._runtime.bus import Bus
from services.plumber.service import Plumber
from services.plumber.settings import Settings
from tests.node.world import NodeWorld
from tests.plumber.grants import NODE

STATUS = StatusKey(NODE, "default", "client", "nsm0")


class World(NodeWorld):
    """And plumbers."""

    def __init__(self, directory: Path, nats: NatsServer, bus: Bus) -> None:
        super().__init__(directory, nats, bus)
        self.settings = Settings(
            node=NODE, cni_results=str(self.results), runtime_dir=str(directory / "run")
        )

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
