"""One active writer, fenced.

In this order: hold the lease → write the guard `nsm.leader.<service>.guard`, in the same stream as what it guards →
wait until the own mirror has delivered it, and with it everything that was written before → only then decide.
Every write expects the guard's sequence, so the server refuses a leader that was paused and replaced. The
guard is never expected to be absent: that would hold again after a wipe.

Where the stream turns out to have lost messages the term ends, and the next one begins with reading what is left:
under a guard that is not complete nothing is taken for deleted, and whoever decides writes again what is stale.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from schemas.codec import TOMBSTONE_TTL_SECONDS, Malformed, Tombstone, decode, encode
from schemas.intent import Leader
from schemas.live import LeaderReport
from schemas.subjects import Key, LeaderKey
from services._runtime import streams
from services._runtime.auditing import Audit
from services._runtime.backoff import backoff
from services._runtime.bus import Bus, WrongSequence, tombstone_body
from services._runtime.errors import Unavailable
from services._runtime.lease import Lease, LeaseLost, expecting
from services._runtime.mirror import Mirror

log = structlog.get_logger()

LEASE_SECONDS = 4
RENEW_SECONDS = 1.0
CHECK_STREAMS_SECONDS = 10.0
IN_FLIGHT = 256  # writes of one term on their way; more bring nothing

Decide = Callable[["Term"], Awaitable[None]]


class Deposed(Exception):
    """The term is over: nothing of it may be written any more."""


class ContentLost(Deposed):
    """The stream lost messages: what stood there is to be written again."""


class Term:
    """The time of one leadership: the only way to write what the guard guards."""

    def __init__(self, bus: Bus, guard: Leader, sequence: int, own: Mirror) -> None:
        self.incarnations = guard.incarnations
        self._bus = bus
        self._own = own
        self._guard = guard
        self._sequence = sequence
        self._stream = streams.stream_of(guard.key)
        self._over = False
        self._changing = asyncio.Lock()
        # Concurrent writes under one guard are refused on a replicated stream.
        self._slots = asyncio.Semaphore(IN_FLIGHT if bus.replicas == 1 else 1)

    @property
    def key(self) -> LeaderKey:
        """The guard's key."""
        return self._guard.key

    @property
    def sequence(self) -> int:
        """The guard's sequence."""
        return self._sequence

    @property
    def is_changing(self) -> bool:
        """Whether the guard is being written by ourselves: the mirror may see it before we know."""
        return self._changing.locked()

    async def publish(self, message: Any) -> int:
        """Store a message; when this returns, `own` has it. Raises Deposed."""
        key = message.key
        sequence = await self._write(key, encode(message), None)
        self._enter(key, message, sequence)
        return sequence

    async def bury(self, key: Key, tombstone: Tombstone = Tombstone()) -> int:  # noqa: B008  frozen
        """Store the notice that `key` is gone. Raises Deposed."""
        sequence = await self._write(key, tombstone_body(tombstone), TOMBSTONE_TTL_SECONDS)
        self._enter(key, tombstone, sequence)
        return sequence

    @property
    def silent(self) -> tuple[str, ...] | None:
        """Nodes that have not told what they have to this incarnation of the stream; None: nobody asked them yet."""
        return self._guard.silent

    async def declare_complete(self) -> None:
        """Say that everything is written: from now on absence counts. Raises Deposed."""
        await self._change_guard(complete=True)
        log.info("complete", service=self._guard.service, sequence=self._sequence)

    async def declare_silent(self, nodes: Iterable[str]) -> None:
        """Say of whose connections absence does not count. Also the next leader will know. Raises Deposed."""
        silent = tuple(sorted(nodes))
        if silent != self._guard.silent:
            await self._change_guard(silent=silent)

    async def ask_again(self) -> None:
        """Have every node tell anew what it has, for some of it was lost. Raises Deposed."""
        await self._change_guard(asked_again=datetime.now(UTC).isoformat(timespec="milliseconds"))

    def end(self) -> None:
        """Whoever still holds this term can write no more."""
        self._over = True

    async def _change_guard(self, **changes: Any) -> None:
        async with self._changing:
            self._check()
            guard = msgspec.structs.replace(self._guard, **changes)
            self._sequence = await write_guard(self._bus, guard, after=self._sequence)
            self._guard = guard
        self._enter(guard.key, guard, self._sequence)

    async def _write(self, key: Key, body: bytes, ttl: int | None) -> int:
        if streams.stream_of(key) != self._stream:
            raise ValueError(f"{key.subject} is not in {self._stream}, which the guard is in")
        async with self._slots:
            self._check()
            sequence = await self._bus.store(
                key, body, ttl=ttl, expect=self._expectation, conflict=self._still_ours
            )
            await tell_history(self._bus, key, body, sequence, ttl)
            self._check()
            return sequence

    def _expectation(self) -> dict[str, str]:
        self._check()  # also before a retry
        return expecting(self._sequence, self._guard.key.subject)

    async def _still_ours(self) -> None:
        """A write was refused: go on if the guard is still ours, else this term is over."""
        async with self._changing:
            stored = await self._bus.peek(self._guard.key)
            if stored is None or stored.sequence != self._sequence:
                self._over = True
                raise Deposed(f"{self._guard.key.subject} is not ours any more")

    def _check(self) -> None:
        if self._over:
            raise Deposed(f"this term of {self._guard.service} is over")

    def _enter(self, key: Key, message: Any, sequence: int) -> None:
        self._own.enter(key, message, sequence, incarnation=self.incarnations[self._stream])


async def lead(
    bus: Bus,
    service: str,
    own: Mirror,
    decide: Decide,
    *,
    holder: str,
    lease_seconds: int = LEASE_SECONDS,
    word: Callable[[], LeaderReport] = LeaderReport,
) -> None:
    """Lead whenever we may, for ever: run `decide` with each term, cancelled when the term ends.

    `own` mirrors the stream that `service` writes and runs in a task of the caller. `word`: what the lease tells
    people each second.
    """
    lease = Lease(bus, service, holder, seconds=lease_seconds, word=word)
    audit = Audit(own)
    gauge = bus.metrics.leader.labels(service)
    gauge.set(0)
    try:
        while True:
            await lease.acquire()
            try:
                await _one_term(bus, service, audit, decide, holder=holder, lease=lease)
            except* (Deposed, LeaseLost) as group:
                reasons = [str(exc) for exc in _leaves(group)]
                log.warning("no longer leading", leader=service, holder=holder, reason=reasons)
            gauge.set(0)
            # A task group whose child failed drops a cancellation that came in the same moment (Python 3.11):
            # going on would hold the lease of a service that has ended.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
    finally:
        gauge.set(0)
        await lease.release()


async def _one_term(
    bus: Bus, service: str, audit: Audit, decide: Decide, *, holder: str, lease: Lease
) -> None:
    """From the lease to its loss."""
    own = audit.mirror
    incarnations = await bus.ensure_streams()
    terms: list[Term] = []

    async def begin_and_decide(group: asyncio.TaskGroup) -> None:
        term = await _begin(bus, service, audit, holder=holder, incarnations=incarnations)
        terms.append(term)
        group.create_task(_notice_another(own, term))
        group.create_task(_notice_loss(audit))
        bus.metrics.leader.labels(service).set(1)
        log.info("leading", leader=service, holder=holder, sequence=term.sequence)
        await decide(term)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(_keep(bus, lease, own, incarnations))
            group.create_task(begin_and_decide(group))
            # Waiting here and not for the group's end: only so a child's failure leaves `cancelling` as it was.
            await asyncio.Event().wait()
    finally:
        for term in terms:
            term.end()


async def _begin(
    bus: Bus, service: str, audit: Audit, *, holder: str, incarnations: dict[str, str]
) -> Term:
    key, own = LeaderKey(service), audit.mirror
    stored = await bus.peek(key)
    before = None if stored is None else _leader_of(key, stored.data)
    # The connection's name makes these bytes this process's own: of two that were given one holder name, the
    # loser of a race would take the winner's guard for its own.
    guard = Leader(
        service=service,
        holder=holder,
        connection=bus.name,
        incarnations={name: incarnations[name] for name in streams.TRUTH},
        silent=None if before is None else before.silent,
        asked_again="" if before is None else before.asked_again,
        since=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    sequence = await write_guard(bus, guard, after=0 if stored is None else stored.sequence)
    incarnation = incarnations[own.stream]
    await own.reached(sequence, incarnation=incarnation)
    if audit.found or await own.is_short():  # its loss may be why the one before is gone
        own.resync("the stream lost messages")
        await own.reached(sequence, incarnation=incarnation)
    return Term(bus, guard, sequence, own)


async def caught_up(bus: Bus, mirror: Mirror) -> None:
    """Wait until `mirror` has delivered all that its stream holds now. Only for owners."""
    for delay in backoff():
        try:
            place = await bus.place(mirror.stream)
        except Unavailable:
            await asyncio.sleep(delay)
        else:
            await mirror.reached(place.last_sequence, incarnation=place.incarnation)
            return


async def _keep(bus: Bus, lease: Lease, own: Mirror, incarnations: dict[str, str]) -> None:
    """Renew the lease and watch the streams. Raises LeaseLost, Deposed."""
    loop = asyncio.get_running_loop()
    reconnects, checked = bus.reconnects, loop.time()
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        known = own.incarnation in ("", incarnations[own.stream])
        if (
            bus.reconnects != reconnects
            or not known
            or loop.time() > checked + CHECK_STREAMS_SECONDS
        ):
            # They are gone after a wipe.
            reconnects, checked = bus.reconnects, loop.time()
            now = await _within(lease, bus.ensure_streams())
            if any(now[name] != incarnations[name] for name in streams.TRUTH):
                raise Deposed("a stream was created anew")
        await lease.renew()


async def _notice_another(own: Mirror, term: Term) -> None:
    """A leader that has nothing to write is deposed too. Raises Deposed."""
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        if own.sequence_of(term.key) > term.sequence and not term.is_changing:
            raise Deposed(f"somebody else wrote {term.key.subject}")


async def _notice_loss(audit: Audit) -> None:
    """Raises ContentLost."""
    await audit.until_short()
    raise ContentLost(f"{audit.mirror.stream} lost messages: what is missing is written again")


async def _within(lease: Lease, work: Awaitable[dict[str, str]]) -> dict[str, str]:
    """`work`, but no longer than the lease lasts."""
    try:
        async with asyncio.timeout(lease.left):
            return await work
    except TimeoutError as exc:
        raise LeaseLost("the bus could not be reached") from exc


async def write_guard(bus: Bus, guard: Leader, *, after: int) -> int:
    """Write the leader message over the one of sequence `after`. Raises Deposed if another one came first."""
    key: LeaderKey = guard.key
    body = encode(guard)
    try:
        sequence = await bus.store(
            key, body, expect=lambda: expecting(after, key.subject), after=after
        )
    except WrongSequence as exc:
        stored = await bus.peek(key)
        if stored is None or stored.sequence <= after or stored.data != body:
            raise Deposed(f"somebody else wrote {key.subject}") from exc
        sequence = stored.sequence
    if after:  # NSM_LOG captures the first one itself: its expectation holds there too
        await tell_history(bus, key, body, sequence, None)
    return sequence


async def tell_history(bus: Bus, key: Key, body: bytes, sequence: int, ttl: int | None) -> None:
    """Tell NSM_LOG what was committed under a guard; see `streams.HISTORY_ROOT`."""
    subject = key.subject
    headers = {
        "Nats-Stream": streams.stream_of(key),
        "Nats-Subject": subject,
        "Nats-Sequence": str(sequence),
    }
    if ttl is not None:
        headers["Nats-TTL"] = str(ttl)
    await bus.tell(f"{streams.HISTORY_ROOT}.{subject}", body, headers)


def _leader_of(key: LeaderKey, data: bytes) -> Leader | None:
    """A leader message; None if it cannot be read."""
    try:
        _, message = decode(key.subject, data)
    except Malformed:
        return None
    return message if isinstance(message, Leader) else None


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for exc in group.exceptions:
        found += _leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc]
    return found
