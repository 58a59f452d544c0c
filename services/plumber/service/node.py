"""What this node says of itself: that it lives, what it is, and which prefixes it is directly connected to."""

import asyncio
import os
from importlib import metadata

import structlog

from schemas.live import Alive
from schemas.state import NodeFacts, SeenPrefixes
from services._runtime.bus import Bus
from services._runtime.errors import Unavailable
from services.plumber.adapters import Kernel
from services.plumber.service.reporting import Reporter

log = structlog.get_logger()

_HEARTBEAT_SECONDS = 3
_ALIVE_SECONDS = 10
_VERSION = metadata.version("nsm-on-nats")  # asked once: an upgrade in place must not end who runs


class Node:
    """`run` is the task; `describe` again is for the sweep."""

    def __init__(self, name: str, *, bus: Bus, kernel: Kernel, reporter: Reporter) -> None:
        self._name = name
        self._bus = bus
        self._kernel = kernel
        self._reporter = reporter

    async def run(self) -> None:
        """For ever."""
        await self.describe()
        while True:
            try:
                await self._bus.publish(Alive(node=self._name), ttl=_ALIVE_SECONDS)
            except Unavailable as exc:
                log.debug("no heartbeat", reason=str(exc))
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    async def describe(self) -> None:
        try:
            node = await self._kernel.read_node()
        except OSError as exc:
            log.warning("node network not readable", reason=str(exc))
            return
        facts = NodeFacts(
            node=self._name,
            underlay_address=node.address,
            mtu=node.mtu,
            mechanisms=node.mechanisms,
            kernel=os.uname().release,
            version=_VERSION,
        )
        self._reporter.describe(facts, SeenPrefixes(node=self._name, prefixes=node.prefixes))
