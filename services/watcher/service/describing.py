"""What became of our own objects, written back onto them: counts, addresses, conditions.

Runs only while we lead, beside the publishing of intent and never in its way. An object is written only
when its status would read differently, and at most once a second however much happens.
"""

import asyncio
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from schemas.grant import Connection, Pool
from schemas.state import Status
from schemas.subjects import (
    ConnectionKey,
    EndpointKey,
    Key,
    LeaderKey,
    NodeKey,
    PoolKey,
    StatusKey,
)
from services._runtime.mirror import Mirror
from services.watcher.adapters import Denied, Kube, Missing, objects
from services.watcher.core import describing
from services.watcher.core.intent import Intent
from services.watcher.core.tally import Counts, Tally
from services.watcher.model import NetworkServiceEndpoint, OurObject, Subject
from services.watcher.service.completing import at_every_completion
from services.watcher.service.queueing import Workqueue

log = structlog.get_logger()

_WORKERS = 2  # all of them may change at once, and nobody waits for this
_BATCH = 500
_PAUSE_SECONDS = 1.0
_DENIED_SECONDS = 60.0
_GONE_SECONDS = 5.0  # by then the watch has told that an object is gone
_RECHECK_SECONDS = 10.0  # that a node's silence has become its word is not told by any message
_LAG_SECONDS = 30.0  # versions of a server whose past is another one never catch up


class _Memory(msgspec.Struct):
    """What we know of an object beyond itself: the watch may lag behind what we wrote."""

    uid: str
    not_before: float = 0.0
    written: OurObject | None = None
    missed: bool = False  # the server did not find it, or nothing to write a status to


class Describer:
    """`note_*` what changed, at any time; `run` writes while we lead."""

    def __init__(
        self,
        *,
        kube: Kube,
        intent: Intent,
        grants: Mirror,
        states: Mirror,
        clock: Callable[[], float],
    ) -> None:
        self._kube = kube
        self._intent = intent
        self._grants = grants
        self._states = states
        self._clock = clock
        self._tally = Tally()
        self._memory: dict[Subject, _Memory] = {}
        self._queue: Workqueue[Subject] | None = None

    def note(self, subjects: Iterable[Subject]) -> None:
        """These may have to say something else."""
        if self._queue is not None:
            self._queue.update(subjects)

    def note_intent(self, keys: Iterable[Key]) -> None:
        """What must stand under these keys may be another message now."""
        if self._queue is None:
            return  # all is counted when our term begins
        for key in keys:
            if isinstance(key, EndpointKey):
                self.note(self._tally.put_offer(key, self._intent.message(key)))

    def note_key(self, key: Key) -> None:
        """A grant, a status or a pool changed, or somebody has told everything now."""
        if self._queue is None:
            return
        match key:
            case ConnectionKey():
                self.note(self._count(key))
            case StatusKey():
                place = (key.namespace, key.pod, key.interface)
                self.note(self._count(ConnectionKey(key.node, *place)))
            case PoolKey():
                self.note([(NetworkServiceEndpoint, (key.namespace, key.endpoint))])
            case NodeKey() | LeaderKey():
                self.note(self._tally.silent())

    def _count(self, key: ConnectionKey) -> frozenset[Subject]:
        granted = self._grants.items.get(key)
        return self._tally.put_connection(
            key, granted if isinstance(granted, Connection) else None, self._status(key)
        )

    def _status(self, key: ConnectionKey) -> Status | None:
        found = self._states.items.get(_status_key(key))
        return found if isinstance(found, Status) else None

    async def run(self) -> None:
        """Describe for the length of a term."""
        await self._grants.synced.wait()
        await self._states.synced.wait()
        self._memory.clear()
        self._queue = Workqueue("object status", self._work, workers=_WORKERS)
        try:
            await self._count_all()
            self._note_all()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queue.run())
                group.create_task(at_every_completion(self._grants, self._note_all))
        finally:
            self._queue = None

    async def _count_all(self) -> None:
        """Of 100,000 connections it takes a second, in which others have work, too."""
        self._tally = Tally()
        for number, key in enumerate([*self._intent.desired, *self._grants.items]):
            if isinstance(key, EndpointKey):
                self._tally.put_offer(key, self._intent.message(key))
            elif isinstance(key, ConnectionKey):
                self._count(key)
            if number % _BATCH == 0:
                await asyncio.sleep(0)

    def _note_all(self) -> None:
        self.note(list(self._intent.objects))

    async def _work(self, subject: Subject) -> None:
        found = self._intent.objects.get(subject)
        if found is None or found.metadata.deletion_timestamp is not None:
            self._memory.pop(subject, None)
            return
        memory = self._memory.get(subject)
        if memory is None or memory.uid != found.uid:
            memory = self._memory[subject] = _Memory(uid=found.uid)
        wait = memory.not_before - self._clock()
        if wait > 0:
            self._later(subject, wait)
            return
        try:
            await self._describe(subject, found, memory)
        except Missing as exc:
            self._missed(subject, memory, str(exc))
        except Denied as exc:
            log.warning(
                "object status cannot be written",
                kind=subject[0].__name__,
                object=subject[1],
                reason=str(exc),
                remedy=exc.remedy,
            )
            self._put_off(subject, memory, _DENIED_SECONDS)

    def _missed(self, subject: Subject, memory: _Memory, reason: str) -> None:
        """Gone, which the watch will tell; or its kind has no status, which the server tells in the same words."""
        seconds = _DENIED_SECONDS if memory.missed else _GONE_SECONDS
        memory.missed = True
        log.debug("object not found", kind=subject[0].__name__, object=subject[1], reason=reason)
        self._put_off(subject, memory, seconds)

    def _put_off(self, subject: Subject, memory: _Memory, seconds: float) -> None:
        memory.not_before = self._clock() + seconds
        self._later(subject, seconds)

    async def _describe(self, subject: Subject, found: OurObject, memory: _Memory) -> None:
        newest = self._newest(found, memory)
        facts = self._facts(subject)
        if not facts.heard:
            self._later(subject, _RECHECK_SECONDS)
        told = describing.describe(
            found,
            facts,
            shown=newest.shown,
            now=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        if not describing.differs(newest.shown, told):
            return
        memory.not_before = self._clock() + _PAUSE_SECONDS
        memory.written = await objects.write_status(
            self._kube, found, told, version=newest.metadata.resource_version
        )
        memory.missed = False
        log.debug("object status written", kind=subject[0].__name__, object=subject[1])

    def _newest(self, found: OurObject, memory: _Memory) -> OurObject:
        """The object as we wrote it, while the watch has not brought that yet."""
        written = memory.written
        lag = self._clock() - memory.not_before
        if written is None or found.version >= written.version or lag > _LAG_SECONDS:
            memory.written = None
            return found
        return written

    def _facts(self, subject: Subject) -> describing.Facts:
        kind, ref = subject
        counts = self._tally.of(subject)
        pool = self._grants.items.get(PoolKey(*ref)) if kind is NetworkServiceEndpoint else None
        return describing.Facts(
            problem=self._intent.spec_problem(subject),
            counts=counts,
            pool=pool if isinstance(pool, Pool) else None,
            failing=self._failing(counts),
            settled=self._grants.when_complete.is_set(),
            heard=all(
                self._states.complete(_status_key(key)) for key in counts.connections["silent"]
            ),
        )

    def _failing(self, counts: Counts) -> str:
        """One failed connection and why; the same one as long as it fails."""
        failed: Any = counts.connections["failed"]
        if not failed:
            return ""
        key = min(failed, key=lambda each: each.subject)
        status = self._status(key)
        end = status.client if status is not None else None
        why = f"{end.reason}: {end.message}" if end is not None else "gone"
        return f"{key.interface} of Pod {key.namespace}/{key.pod} ({why})"

    def _later(self, subject: Subject, seconds: float) -> None:
        if self._queue is not None:
            self._queue.add_later(subject, seconds)


def _status_key(key: ConnectionKey) -> StatusKey:
    return StatusKey(key.node, key.namespace, key.pod, key.interface)
