"""What this node says of its resolvers: on change only, and until the bus has it.

The newest word on each Pod counts; one that was overtaken while the bus was away is never said.
"""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import structlog

from schemas import codec
from schemas.codec import Tombstone
from schemas.state import Resolver
from schemas.subjects import ResolverKey
from services._runtime.errors import Unavailable

log = structlog.get_logger()

_RETRY_SECONDS = 0.5
_PERHAPS = b""  # a word that is stored or not: nothing equals it, and it is worth burying


class Publisher(Protocol):
    """The part of the bus that a reporter needs."""

    async def publish(self, message: Any) -> int: ...
    async def bury(self, key: Any, tombstone: Tombstone) -> int: ...


class Reporter:
    """Everything to say; `run` is the task that says it."""

    def __init__(self, bus: Publisher) -> None:
        self._bus = bus
        self._newest: dict[ResolverKey, Resolver | Tombstone] = {}
        self._untold: dict[ResolverKey, None] = {}
        self._told: dict[ResolverKey, bytes] = {}
        self._incarnation = ""
        self._asked = ""
        self._wake = asyncio.Event()

    def found(self, said: Mapping[Any, Any]) -> None:
        """What the bus holds of us from before: it needs no repetition."""
        for key, message in said.items():
            if isinstance(message, Resolver):
                self._told.setdefault(key, codec.encode(message))

    def say(self, resolver: Resolver) -> None:
        if self._newest.get(resolver.key) != resolver:
            self._newest[resolver.key] = resolver
            self._mark(resolver.key)

    def newest(self, key: ResolverKey) -> Resolver | None:
        """What is to be said of a Pod now."""
        found = self._newest.get(key)
        return found if isinstance(found, Resolver) else None

    def bury(self, key: ResolverKey, uid: str) -> None:
        """The Pod is none of ours any more. Of what the bus does not know there is nothing to say."""
        newest = self._newest.get(key)
        if isinstance(newest, Resolver) or (newest is None and key in self._told):
            self._newest[key] = Tombstone(released=uid)
            self._mark(key)

    def enter(self, incarnation: str, *, asked: str = "") -> None:
        """The stream is this one: what was told to another, or before it was asked anew, is to be told again."""
        asked = asked or self._asked  # an ipam of before knows nothing of it
        if not incarnation or (incarnation, asked) == (self._incarnation, self._asked):
            return
        if self._incarnation:
            # Asked anew, what was told may stand there all the same: it is still to be buried.
            is_same = incarnation == self._incarnation
            self._told = dict.fromkeys(self._told, _PERHAPS) if is_same else {}
            for key in self._newest:
                self._mark(key)
        self._incarnation, self._asked = incarnation, asked

    async def run(self) -> None:
        """For ever."""
        reachable = True
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._untold:
                key = next(iter(self._untold))
                try:
                    await self._tell(key)
                except Unavailable as exc:
                    if reachable:
                        log.warning("bus does not take our state", reason=str(exc))
                    reachable = False
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                if not reachable:
                    log.info("bus takes our state again")
                reachable = True

    def _mark(self, key: ResolverKey) -> None:
        self._untold[key] = None
        self._wake.set()

    async def _tell(self, key: ResolverKey) -> None:
        message = self._newest.get(key)
        try:
            if isinstance(message, Resolver):
                data = codec.encode(message)
                if self._told.get(key) != data:
                    self._told[key] = _PERHAPS
                    await self._bus.publish(message)
                    self._told[key] = data
            elif message is not None:
                if key in self._told:
                    await self._bus.bury(key, message)
                    self._told.pop(key, None)  # another stream meanwhile: gone already
                if self._newest.get(key) is message:
                    del self._newest[key]
        except Unavailable:
            raise
        except Exception:
            # too large, say: one Pod's trouble; tried again when something else is to be said of it
            log.exception("bus will not have this state", subject=key.subject)
            if self._newest.get(key) is message and not isinstance(message, Resolver):
                self._newest.pop(key, None)
        if self._newest.get(key, message) is message:
            self._untold.pop(key, None)
