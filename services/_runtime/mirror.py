"""The current truth of a part of one stream, in memory: snapshot, synced, follow, whatever happens.

Rules:
- Only a delivered message changes an item; silence never does. After a re-created stream every item that the
  new snapshot lacks is kept as `stale`.
- A stale item is dropped when its authority (see `authority`) says `complete` in this incarnation of the
  stream and we have seen everything up to that word: we were opened after it, or were delivered past it.
- A malformed message leaves the item as it was.
- At any doubt (gap, silence, reconnection) every consumer is opened anew: after the last sequence, or with a
  snapshot if the stream may be another one. Authorities are always read anew, because a reader without the
  right to ask for the stream sees by them alone that it is another one.
- On a cluster a replica may be behind. Owners ask how far the stream goes; for who may not ask, absence counts
  only after LAG_SECONDS without a doubt: a replica that came back has caught up by then.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from schemas.codec import Malformed, Tombstone, decode
from schemas.intent import Leader
from schemas.subjects import Key, LeaderKey
from services._runtime import streams
from services._runtime.absence import Absence
from services._runtime.authority import authority_filter, incarnation_said, is_authority
from services._runtime.backoff import backoff
from services._runtime.bus import Bus
from services._runtime.census import Census
from services._runtime.complaints import MalformedMessages
from services._runtime.consumer import Consumer, Events
from services._runtime.errors import Unavailable

log = structlog.get_logger()

TICK_SECONDS = 1.0
# A net under everything, and less than half the life of a tombstone: a longer cut could miss one for ever.
RESYNC_SECONDS = 1500.0
LAG_SECONDS = 15.0  # measured: 2 s for 30,000 messages after a server was wiped

OnChange = Callable[[Any, Any], None]


class _AgainError(Exception):
    """Something is doubtful: open the consumers anew."""


class Mirror:
    """Follows `filters` of `stream`; `run` is its task. See the module's rules."""

    def __init__(
        self,
        bus: Bus,
        stream: str,
        filters: Sequence[str],
        *,
        on_change: OnChange,
        resync_seconds: float = RESYNC_SECONDS,
    ) -> None:
        self.stream = stream
        self.items: dict[Any, Any] = {}
        self.stale: set[Any] = set()
        self.synced = asyncio.Event()
        self.when_complete = asyncio.Event()
        self.incarnation = ""  # "": not known
        # Whoever counts calls `renew`: a snapshot before the count would hide a loss.
        self.audited = False
        self._bus = bus
        self._on_change = on_change
        self._resync_seconds = resync_seconds
        self._wake = asyncio.Event()
        events = Events(self._deliver, self._wake.set, self._again, self._failed)
        first = sorted(filters, key=lambda f: not authority_filter(f))
        self._consumers = [Consumer(bus, stream, f, events) for f in first]
        leader = streams.LEADERS.get(stream)
        self._leader = None if leader is None else LeaderKey(leader)
        self._tombstones: dict[Key, Tombstone] = {}
        self._sequences: dict[Key, int] = {}
        self._unseen: set[Key] = set()
        self._absence = Absence(stream, self.items, self.stale, self._sequences)
        self._census = Census(self._sequences)
        self._malformed = MalformedMessages(bus.metrics)
        self._settled = False  # every consumer is open and synced
        self._settled_at = 0.0
        self._full = True  # the next opening takes a snapshot
        self._full_at = 0.0
        self._floor = 0
        self._doubt = ""
        self._failure: Exception | None = None
        self._waiters: list[asyncio.Event] = []

    async def run(self) -> None:
        """Follow for ever. Raises only what `on_change` raised, or what the bus refuses for good."""
        forget = self._bus.on_reconnect(lambda: self._again("reconnected"))
        delays = backoff()
        said = ""
        try:
            while True:
                try:
                    await self._open()
                    delays, said = backoff(), ""
                    await self._watch(lambda: False)
                except _AgainError as exc:
                    log.debug("mirror opens anew", stream=self.stream, reason=str(exc))
                except Unavailable as exc:
                    if exc.what != said:
                        log.info("mirror waits", stream=self.stream, reason=exc.what)
                    said = exc.what
                    await asyncio.sleep(next(delays))
        finally:
            forget()
            self._settled = False
            self._show(synced=False)
            for consumer in self._consumers:
                await consumer.close()

    def complete(self, key: Any) -> bool:
        """Whether the absence of `key` counts: its authority wrote everything and we have seen it."""
        if not self._settled or self._may_lag():
            return False
        seen = max((c.position for c in self._consumers if c.covers(key.subject)), default=-1)
        return self._absence.counts(key, seen, incarnation=self.incarnation)

    async def reached(self, sequence: int, *, incarnation: str = "") -> None:
        """Wait until everything up to `sequence` was delivered, in that incarnation of the stream."""
        while not self._has_reached(sequence, incarnation):
            waiter = asyncio.Event()
            self._waiters.append(waiter)
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await waiter.wait()
            except TimeoutError:
                if self._settled and not self._has_reached(sequence, incarnation):
                    if incarnation in ("", self.incarnation):
                        self._floor = max(self._floor, sequence)
                    self._again("a sequence is awaited")
            finally:
                self._waiters.remove(waiter)

    async def is_short(self) -> bool:
        """Whether the stream holds less than was read of it. Only for owners who follow all. Raises Unavailable."""
        delivered = max(each.delivered for each in self._consumers)
        place = await self._bus.place(self.stream)
        if place.incarnation != self.incarnation:
            return False  # another stream: it is read anew
        if place.last_sequence < delivered:
            return True
        await self.reached(place.last_sequence, incarnation=place.incarnation)
        return place.messages < self._census.least(last=place.last_sequence, now=place.at)

    def sequence_of(self, key: Any) -> int:
        """The sequence of the newest message of `key` that we know of; 0: none."""
        return self._sequences.get(key, 0)

    def renew(self) -> None:
        """Take a new snapshot if it is time for one."""
        if self._settled and self._now() >= self._full_at:
            self.resync("time for a new snapshot")

    def resync(self, reason: str) -> None:
        """Take a new snapshot; what it lacks becomes stale."""
        self._full = True
        self._again(reason)

    def enter(self, key: Key, message: Any, sequence: int, *, incarnation: str) -> None:
        """An own write that the server acknowledged: true before it comes back."""
        if incarnation == self.incarnation and sequence > self._sequences.get(key, 0):
            self._see(key)
            self._sequences[key] = sequence
            self._census.note(key, is_tombstone=isinstance(message, Tombstone))
            self._apply(key, message)

    def _show(self, *, synced: bool) -> None:
        metrics = self._bus.metrics
        metrics.mirror_synced.labels(self.stream).set(synced)
        metrics.mirror_items.labels(self.stream).set(len(self.items))
        metrics.mirror_stale.labels(self.stream).set(len(self.stale))
        metrics.mirror_lag.labels(self.stream).set(sum(c.lag for c in self._consumers))

    # -- opening

    async def _open(self) -> None:
        """Open every consumer and wait until all are synced. Raises _AgainError, Unavailable."""
        await self._bus.connected()
        self._doubt = ""
        self._settled = False
        if self._cannot_tell() or (self._now() >= self._full_at and not self.audited):
            self._full = True
        if self._full:
            self._begin_snapshot()
        for consumer in self._consumers:
            await self._open_one(consumer)
            if authority_filter(consumer.filter):
                await self._until_synced([consumer])
                self._check_leader_is_there(consumer)
                self._floor = max(self._floor, consumer.delivered)
        await self._until_synced(self._consumers)
        self._settle()

    async def _until_synced(self, consumers: Sequence[Consumer]) -> None:
        await self._watch(lambda: all(c.synced for c in consumers))

    async def _open_one(self, consumer: Consumer) -> None:
        first = self._full or authority_filter(consumer.filter)
        start = None if first else consumer.position + 1
        await consumer.open(start=start, floor=self._floor)
        last = 0
        if self._bus.owner:
            # Asked after the creation: the consumer lives in this incarnation or is dead already.
            place = await self._bus.place(self.stream)
            if not self._full and start is not None and place.last_sequence < start - 1:
                self._lost_place("the stream is shorter than what we saw")
            self._in_incarnation(place.incarnation)
            last = place.last_sequence
        consumer.release(must_reach=last)

    def _begin_snapshot(self) -> None:
        self._unseen = {*self.items, *self._tombstones}
        self._sequences.clear()
        self._census.clear()
        self._floor = 0
        self.when_complete.clear()

    def _settle(self) -> None:
        self._settled = True
        self._settled_at = self._now()
        if self._full:
            self._full = False
            self._full_at = self._now() + self._resync_seconds * random.uniform(0.8, 1.0)
            self.stale |= self._unseen & self.items.keys()
            for key in self._unseen & self._tombstones.keys():
                del self._tombstones[key]
            self._unseen.clear()
            log.info(
                "mirror synced",
                stream=self.stream,
                items=len(self.items),
                stale=len(self.stale),
                incarnation=self.incarnation,
            )
        self.synced.set()
        self._judge()
        for waiter in self._waiters:
            waiter.set()
        self._show(synced=True)

    def _cannot_tell(self) -> bool:
        """Whether we can neither ask for the stream nor read its leader anew to know that it is the same."""
        leader = self._leader
        return not self._bus.owner and not any(
            leader is not None and authority_filter(c.filter) and c.covers(leader.subject)
            for c in self._consumers
        )

    def _check_leader_is_there(self, consumer: Consumer) -> None:
        """A leader message is never deleted: where it is missing, the stream is another one."""
        leader = self._leader
        if self._full or leader is None or not consumer.covers(leader.subject):
            return
        if consumer.delivered < self._sequences.get(leader, 0):
            self._lost_place("the leader's message is gone")

    def _in_incarnation(self, incarnation: str) -> None:
        known, self.incarnation = self.incarnation, incarnation or self.incarnation
        if known not in ("", self.incarnation) and not self._full:
            self._lost_place("the stream was created anew")

    def _lost_place(self, reason: str) -> None:
        log.warning("mirror takes a new snapshot", stream=self.stream, reason=reason)
        self._full = True
        raise _AgainError(reason)

    # -- following

    async def _watch(self, done: Callable[[], bool]) -> None:
        """Until `done`. Raises _AgainError at a doubt and whatever a receiver raised."""
        while True:
            if self._failure is not None:
                raise self._failure
            if self._doubt:
                raise _AgainError(self._doubt)
            if done():
                return
            self._wake.clear()
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                self._tick()

    def _tick(self) -> None:
        for silent in [consumer for consumer in self._consumers if consumer.silent_again()]:
            self._again(f"no heartbeat for {silent.filter}")
        if not self.audited:
            self.renew()
        self._judge()
        self._show(synced=self._settled)

    def _deliver(self, subject: str, data: bytes, sequence: int, at: float) -> None:
        try:
            key, message = decode(subject, data)
        except Malformed as exc:
            about = self._malformed.note(exc)
            if about is not None and not is_authority(about):
                self._see(about)  # an old word of an authority is no word about this incarnation
            return
        self._bus.metrics.count(key.kind, "delivered")
        self._see(key)
        if key == self._leader and isinstance(message, Leader) and not self._bus.owner:
            self._heed(message)  # whatever its sequence: another stream may have the same one there
        known = self._sequences.get(key, 0)
        if sequence >= known:  # of an own write only the server knows when it was stored
            self._census.note(key, is_tombstone=isinstance(message, Tombstone), stored_at=at)
        if sequence > known:
            self._sequences[key] = sequence
            self._apply(key, message)
        if is_authority(key):
            self._judge()
        for waiter in self._waiters:
            waiter.set()

    def _heed(self, leader: Leader) -> None:
        """What the leader says of the stream's incarnation, for those who may not ask the server."""
        try:
            self._in_incarnation(incarnation_said(leader, self.stream))
        except _AgainError as exc:
            self._again(str(exc))

    def _see(self, key: Key) -> None:
        self._unseen.discard(key)
        self.stale.discard(key)

    def _apply(self, key: Key, message: Any) -> None:
        if isinstance(message, Tombstone):
            self._absence.forget(key)
            had = self.items.pop(key, None)
            if had is not None or self._tombstones.get(key) != message:
                self._tombstones[key] = message
                self._on_change(key, message)
            return
        self._tombstones.pop(key, None)
        if self.items.get(key) != message:
            self.items[key] = message
            self._absence.note(key)
            self._on_change(key, message)

    # -- judging absence

    def _judge(self) -> None:
        """Drop what is absent by its authority's word; open anew where we have not yet seen up to it."""
        if not self._settled:
            return
        for key in list(self.stale):
            if self.complete(key):
                self._drop(key)
        slowest = min(self._consumers, key=lambda c: c.position)
        behind = slowest.position < self._absence.newest_word(incarnation=self.incarnation)
        told = not behind and not self._may_lag()
        leader, absence = self._leader, self._absence
        if told and leader is not None and absence.is_judged_by(leader, self.incarnation):
            self.when_complete.set()
        else:
            self.when_complete.clear()
        if behind and not slowest.replicated:  # there its heartbeats will tell
            self._floor = max([self._floor, *(c.position for c in self._consumers)])
            self._again("an authority became complete")

    def _may_lag(self) -> bool:
        """Whether a replica that we cannot judge may still be catching up."""
        return (
            not self._bus.owner
            and any(c.replicated for c in self._consumers)
            and self._now() < self._settled_at + LAG_SECONDS
        )

    def _drop(self, key: Key) -> None:
        self.stale.discard(key)
        self.items.pop(key, None)
        self._sequences.pop(key, None)
        self._on_change(key, Tombstone())

    # -- signals

    def _again(self, reason: str) -> None:
        self._doubt = self._doubt or reason
        self._wake.set()

    def _failed(self, exc: Exception) -> None:
        self._failure = self._failure or exc
        self._wake.set()

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _has_reached(self, sequence: int, incarnation: str) -> bool:
        is_readable = self._settled and not self._full and incarnation in ("", self.incarnation)
        return is_readable and all(c.position >= sequence for c in self._consumers)
