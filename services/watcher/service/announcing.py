"""Events are said in the background: nobody waits for them, and too many are dropped rather than piled up."""

import asyncio

import structlog

from services._runtime.backoff import backoff
from services._runtime.errors import Conflict, Unavailable
from services.watcher.adapters import Denied, Events, Missing
from services.watcher.core.report import Announcement
from services.watcher.model import ObjectRef

log = structlog.get_logger()

_WORKERS = 4
_PENDING = 5_000
_ATTEMPTS = 14  # about two minutes

_Said = tuple[ObjectRef, Announcement, bool]


class Announcer:
    """`say` at any time; `run` writes while we lead."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._queue: asyncio.Queue[_Said] | None = None

    def say(self, about: ObjectRef, what: Announcement, *, again: bool = True) -> None:
        """Tell people. Not `again`: only if it was not told before."""
        if self._queue is None:
            return
        try:
            self._queue.put_nowait((about, what, again))
        except asyncio.QueueFull:
            log.warning("event dropped, too many wait", about=about.name, reason=what.reason)

    async def run(self) -> None:
        """Write Events for the length of a term."""
        queue = self._queue = asyncio.Queue(_PENDING)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_WORKERS):
                    group.create_task(self._worker(queue))
        finally:
            self._queue = None

    async def _worker(self, queue: asyncio.Queue[_Said]) -> None:
        while True:
            await self._write(*await queue.get())

    async def _write(self, about: ObjectRef, what: Announcement, again: bool) -> None:
        reason = ""
        for _, seconds in zip(range(_ATTEMPTS), backoff(0.1, 15.0), strict=False):
            try:
                said = await self._events.announce(
                    about, kind=what.type, reason=what.reason, message=what.message, again=again
                )
            except (Unavailable, Conflict) as exc:
                reason = str(exc)
                await asyncio.sleep(seconds)
                continue
            except (Missing, Denied) as exc:  # its namespace is going
                reason = str(exc)
                break
            if not said:
                log.debug("event kept back", about=about.name, reason=what.reason)
            return
        log.warning("event not written", about=about.name, told=what.reason, reason=reason)
