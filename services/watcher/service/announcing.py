"""Events are said in the background: nobody waits for them, and too many are dropped rather than piled up.

An object that said too much lately is kept back; of what it had to say then, the last word is told as soon
as it may speak again.
"""

import asyncio

import msgspec
import structlog

from services._runtime.backoff import backoff
from services._runtime.errors import Conflict, Unavailable
from services.watcher.adapters import Denied, Events, Missing
from services.watcher.core.news import Announcement
from services.watcher.model import ObjectRef

log = structlog.get_logger()

_WORKERS = 4
_PENDING = 5_000
_ATTEMPTS = 14  # about two minutes
_FIRST_SECONDS, _MOST_SECONDS = 0.1, 15.0
_LEAST_KEPT_SECONDS = 0.05


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    number: int  # workers overtake each other: which one is newer
    about: ObjectRef
    what: Announcement
    again: bool


class Announcer:
    """`say` at any time; `run` writes while we lead."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._queue: asyncio.Queue[_Said] | None = None
        self._number = 0
        self._kept: dict[str, tuple[_Said, asyncio.TimerHandle]] = {}  # by UID
        self._logged: dict[str, None] = {}  # UIDs

    def say(self, about: ObjectRef, what: Announcement, *, again: bool = True) -> bool:
        """Tell people, unless too many wait; whether it was taken. Not `again`: only if it was not told before."""
        self._number += 1
        return self._put(_Said(number=self._number, about=about, what=what, again=again))

    def _put(self, said: _Said) -> bool:
        if self._queue is None:
            return False
        try:
            self._queue.put_nowait(said)
        except asyncio.QueueFull:
            log.warning(
                "event dropped, too many wait", about=said.about.name, told=said.what.reason
            )
            return False
        return True

    async def run(self) -> None:
        """Write Events for the length of a term."""
        queue = self._queue = asyncio.Queue(_PENDING)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_WORKERS):
                    group.create_task(self._worker(queue))
        finally:
            self._queue = None
            for _, timer in self._kept.values():
                timer.cancel()
            self._kept.clear()

    async def _worker(self, queue: asyncio.Queue[_Said]) -> None:
        while True:
            await self._write(await queue.get())

    async def _write(self, said: _Said) -> None:
        about, what = said.about, said.what
        reason = ""
        delays = backoff(_FIRST_SECONDS, _MOST_SECONDS)
        for _, seconds in zip(range(_ATTEMPTS), delays, strict=False):
            try:
                written = await self._events.announce(
                    about,
                    kind=what.type,
                    reason=what.reason,
                    message=what.message,
                    again=said.again,
                )
            except (Unavailable, Conflict) as exc:
                reason = str(exc)
                await asyncio.sleep(seconds)
            except Missing as exc:
                _nobody_listens(said, str(exc))
                return
            except Denied as exc:
                if exc.namespace_is_going:
                    _nobody_listens(said, str(exc))
                    return
                reason = f"{exc}; {exc.remedy}"
                break
            else:
                if written:
                    self._forget_older(said)
                else:
                    self._keep(said)
                return
        log.warning("event not written", about=about.name, told=what.reason, reason=reason)

    def _keep(self, said: _Said) -> None:
        uid = said.about.uid
        kept, timer = self._kept.pop(uid, (said, None))
        if timer is not None:
            timer.cancel()
        newest = max(kept, said, key=lambda each: each.number)
        self._log_kept(newest)
        seconds = max(self._events.kept_back_seconds(said.about), _LEAST_KEPT_SECONDS)
        timer = asyncio.get_running_loop().call_later(seconds, self._due, uid)
        self._kept[uid] = (newest, timer)

    def _log_kept(self, said: _Said) -> None:
        """Once per object: one that is kept back now will be again."""
        about = said.about
        told = log.debug if about.uid in self._logged else log.info
        told("event kept back", about=about.name, namespace=about.namespace, told=said.what.reason)
        self._logged[about.uid] = None
        while len(self._logged) > _PENDING:
            del self._logged[next(iter(self._logged))]

    def _due(self, uid: str) -> None:
        said, _ = self._kept.pop(uid)
        self._put(said)

    def _forget_older(self, said: _Said) -> None:
        """A later word was told: the one kept back is not the last any more."""
        found = self._kept.get(said.about.uid)
        if found is not None and found[0].number < said.number:
            found[1].cancel()
            del self._kept[said.about.uid]


def _nobody_listens(said: _Said, reason: str) -> None:
    # Its namespace is going or gone, and the object with it.
    log.debug("event not needed", about=said.about.name, told=said.what.reason, reason=reason)
