"""What this node tells the bus: the newest of everything, until the bus has it.

Nothing waits for the bus: `say` and `bury` note what is to be told, `run` tells it, on change only, and tries
again for as long as the bus is away. In a new incarnation of the stream everything is told anew; only then
come the node's facts with `complete`.
"""

import asyncio
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
import structlog

from schemas import codec
from schemas.codec import Tombstone
from schemas.state import NodeFacts, SeenPrefixes, Status
from schemas.subjects import StatusKey
from services._runtime.errors import Unavailable

log = structlog.get_logger()

_RETRY_SECONDS = 0.5


class Publisher(Protocol):
    """The part of the bus that a reporter needs."""

    async def publish(self, message: Any) -> int: ...
    async def bury(self, key: Any, tombstone: Tombstone = ...) -> int: ...


class Reporter:
    def __init__(self, bus: Publisher) -> None:
        self._bus = bus
        self._statuses: dict[StatusKey, Status] = {}
        self._tombstones: list[tuple[StatusKey, Tombstone]] = []
        self._node: tuple[NodeFacts, SeenPrefixes] | None = None
        self._sent: dict[Any, bytes] = {}
        self._incarnation = ""
        self._complete = False
        self._wake = asyncio.Event()

    def say(self, status: Status) -> None:
        self._statuses[status.key] = status
        self._wake.set()

    def bury(self, key: StatusKey, tombstone: Tombstone, *, again: bool = False) -> None:
        """Nothing of this connection stands here any more. Told before any later status of it."""
        self._statuses.pop(key, None)
        if again or self._sent.get(key) != codec.encode(tombstone):
            self._tombstones.append((key, tombstone))
            self._wake.set()

    def describe(self, facts: NodeFacts, seen: SeenPrefixes) -> None:
        """Facts of the node; `complete` and `incarnation` are filled in here."""
        self._node = facts, seen
        self._wake.set()

    def complete(self) -> None:
        """Every status that stands was said once since the start."""
        self._complete = True
        self._wake.set()

    def enter(self, incarnation: str) -> None:
        """The stream is this one: what was told to another is to be told again."""
        if incarnation and incarnation != self._incarnation:
            self._sent.clear()
            self._incarnation = incarnation
            self._wake.set()

    async def run(self) -> None:
        """For ever."""
        reachable = True
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._tell()
            except Unavailable as exc:
                if reachable:
                    log.warning("bus does not take our state", reason=str(exc))
                reachable = False
                self._wake.set()
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if not reachable:
                log.info("bus takes our state again")
            reachable = True

    async def _tell(self) -> None:
        incarnation = self._incarnation
        while self._tombstones:
            key, tombstone = self._tombstones[0]
            # Dated, because a mirror does not report an equal tombstone twice, and each one is an answer.
            at = datetime.now(UTC).isoformat(timespec="microseconds")
            await self._bus.bury(key, msgspec.structs.replace(tombstone, at=at))
            self._tombstones.pop(0)
            self._sent[key] = codec.encode(tombstone)
        for key in list(self._statuses):
            if (status := self._statuses.get(key)) is not None:
                await self._tell_one(status)
        if self._tombstones or incarnation != self._incarnation:
            self._wake.set()
        elif self._node is not None:
            await self._tell_node(*self._node, incarnation)

    async def _tell_node(self, facts: NodeFacts, seen: SeenPrefixes, incarnation: str) -> None:
        await self._tell_one(seen)
        complete = self._complete and bool(incarnation)
        await self._tell_one(
            msgspec.structs.replace(facts, complete=complete, incarnation=incarnation)
        )

    async def _tell_one(self, message: Status | NodeFacts | SeenPrefixes) -> None:
        data = codec.encode(message)
        if self._sent.get(message.key) != data:
            await self._bus.publish(message)
            self._sent[message.key] = data
