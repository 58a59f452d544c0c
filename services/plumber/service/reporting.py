"""What this node tells the bus: the newest of everything, until the bus has it.

Nothing waits for the bus: `say` and `bury` note what is to be told, `run` tells it, on change only, and tries
again for as long as the bus is away. In a new incarnation of the stream everything is told anew; only then
come the node's facts with `complete`. A tombstone is an answer, not a state: it is told once and forgotten.
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
_REMEMBERED = 1000  # tombstones that are not told twice
_NOTHING = Tombstone()


class Publisher(Protocol):
    """The part of the bus that a reporter needs."""

    async def publish(self, message: Any) -> int: ...
    async def bury(self, key: Any, tombstone: Tombstone = ...) -> int: ...


class Reporter:
    """Everything this node has to say; `run` is the task that says it."""

    def __init__(self, bus: Publisher) -> None:
        self._bus = bus
        self._statuses: dict[StatusKey, Status] = {}
        self._fresh: dict[Any, None] = {}  # those to be told: a node has thousands that were
        self._tombstones: dict[StatusKey, Tombstone] = {}  # to be told
        self._buried: dict[StatusKey, Tombstone] = {}  # told lately, in that order
        self._node: tuple[NodeFacts, SeenPrefixes] | None = None
        self._sent: dict[Any, bytes] = {}
        self._untold: set[Any] = set()  # what the bus will not have as it is
        self._incarnation = ""
        self._asked = ""
        self._complete = False
        self._wake = asyncio.Event()

    def say(self, status: Status) -> None:
        self._statuses[status.key] = status
        self._fresh[status.key] = None
        self._wake.set()

    def said(self, key: StatusKey) -> Status | None:
        """What is said of it, told or not yet."""
        return self._statuses.get(key)

    def bury(self, key: StatusKey, tombstone: Tombstone, *, again: bool = False) -> None:
        """Nothing of this connection stands here any more. Told before any later status of it."""
        self._statuses.pop(key, None)
        if self._tombstones.get(key, _NOTHING).revision > tombstone.revision:
            return
        if again or self._buried.get(key) != tombstone:
            self._tombstones[key] = tombstone
            self._wake.set()

    def describe(self, facts: NodeFacts, seen: SeenPrefixes) -> None:
        """Facts of the node; `complete` and `incarnation` are filled in here."""
        self._node = facts, seen
        self._wake.set()

    def complete(self) -> None:
        """Every status that stands was said once since the start."""
        self._complete = True
        self._wake.set()

    def enter(self, incarnation: str, *, asked: str = "") -> None:
        """The stream is this one: what was told to another, or before it was asked anew, is to be told again."""
        asked = asked or self._asked  # an ipam of before knows nothing of it
        if incarnation and (incarnation, asked) != (self._incarnation, self._asked):
            self._sent.clear()
            self._asked = asked
            self._fresh = dict.fromkeys(self._statuses)
            self._buried.clear()
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
        # Taken before the statuses: what is said while these are told is told in the next round.
        incarnation, complete = self._incarnation, self._complete
        while self._tombstones:
            key, tombstone = next(iter(self._tombstones.items()))
            # Dated, because a mirror does not report an equal tombstone twice, and each one is an answer.
            at = datetime.now(UTC).isoformat(timespec="microseconds")
            await self._bus.bury(key, msgspec.structs.replace(tombstone, at=at))
            self._note_buried(key, tombstone)
        await self._tell_statuses()
        if self._tombstones or incarnation != self._incarnation:
            self._wake.set()
        elif self._node is not None:
            told = complete and bool(incarnation) and not self._untold
            await self._tell_node(*self._node, incarnation=incarnation, complete=told)

    async def _tell_statuses(self) -> None:
        """Those said since the last time, and those that the bus would not have then."""
        telling, self._fresh = self._fresh | dict.fromkeys(self._untold), {}
        try:
            while telling:
                key = next(iter(telling))
                if (status := self._statuses.get(key)) is not None:
                    await self._tell_one(status)
                del telling[key]
        finally:
            self._fresh = telling | self._fresh  # the bus is away: again, all of them

    def _note_buried(self, key: StatusKey, tombstone: Tombstone) -> None:
        if self._tombstones[key] is tombstone:  # no other one meanwhile
            del self._tombstones[key]
        self._sent.pop(key, None)
        self._untold.discard(key)
        self._buried.pop(key, None)
        self._buried[key] = tombstone
        if len(self._buried) > _REMEMBERED:
            del self._buried[next(iter(self._buried))]

    async def _tell_node(
        self, facts: NodeFacts, seen: SeenPrefixes, *, incarnation: str, complete: bool
    ) -> None:
        await self._tell_one(seen)
        await self._tell_one(
            msgspec.structs.replace(facts, complete=complete, incarnation=incarnation)
        )

    async def _tell_one(self, message: Status | NodeFacts | SeenPrefixes) -> None:
        data = codec.encode(message)
        if self._sent.get(message.key) == data:
            return
        if isinstance(message, Status):
            self._buried.pop(message.key, None)  # before: an end meanwhile is to be told
        try:
            await self._bus.publish(message)
        except Unavailable:
            raise
        except Exception:
            # too large, say: one connection's trouble; tried again whenever something else is told
            if message.key not in self._untold:
                log.exception("bus will not have this state", subject=message.key.subject)
            self._untold.add(message.key)
            return
        self._untold.discard(message.key)
        self._sent[message.key] = data
