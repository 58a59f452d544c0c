"""The prefixes that stay on the CNI, followed only while somebody's default route leads into a connection here.

What was once known counts until something newer is: a bus that is silent or wiped takes no route away.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from schemas.grant import ClusterPrefixes, Connection
from schemas.subjects import ClusterKey, ConnectionKey
from services._runtime.bus import Bus
from services._runtime.mirror import Mirror
from services._runtime.streams import GRANT

_DEFAULTS = frozenset({"0.0.0.0/0", "::/0"})


class Cluster:
    """`prefixes`: None while nobody knows them. `on_change` is told the connections they matter to."""

    def __init__(self, bus: Bus, *, on_change: Callable[[set[ConnectionKey]], None]) -> None:
        self.prefixes: tuple[str, ...] | None = None
        self._bus = bus
        self._on_change = on_change
        self._wanting: set[ConnectionKey] = set()
        self._wanted = asyncio.Event()
        self._unwanted = asyncio.Event()

    def note(self, key: ConnectionKey, grant: Connection | None) -> None:
        """What is granted now; None: nothing."""
        if grant is not None and self.matters_to(grant):
            self._wanting.add(key)
            self._unwanted.clear()
            self._wanted.set()
            return
        self._wanting.discard(key)
        if not self._wanting:
            self._wanted.clear()
            self._unwanted.set()

    @staticmethod
    def matters_to(grant: Connection) -> bool:
        """Whether a default route leads into it."""
        return any(route.destination in _DEFAULTS for route in grant.client.routes)

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._wanted.wait()
            mirror = Mirror(self._bus, GRANT, [ClusterKey().subject], on_change=self._changed)
            async with asyncio.TaskGroup() as group:
                following = group.create_task(mirror.run())
                await self._unwanted.wait()
                following.cancel()

    def _changed(self, _key: Any, message: Any) -> None:
        if isinstance(message, ClusterPrefixes) and message.prefixes != self.prefixes:
            self.prefixes = message.prefixes
            self._on_change(set(self._wanting))
