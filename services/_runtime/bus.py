"""The bus as services see it: messages in, messages out, one truth per subject.

What `publish` returned is stored. It tries until the bus takes it: a publish without an answer may be stored
or not, so the subject is read before it is sent again, and its message ID keeps the server from storing it
twice. Publishes of one subject go one after the other, so that a retry never buries a newer truth.
Subjects come from keys only: the server would accept and store a wildcard.
"""

import asyncio
import base64
import itertools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Self

import msgspec
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from schemas.codec import TOMBSTONE_TTL_SECONDS, Tombstone, decode, encode
from schemas.subjects import Key
from services._runtime import login, streams
from services._runtime.access import Access
from services._runtime.backoff import backoff
from services._runtime.errors import Conflict, Refused, Unavailable
from services._runtime.metrics import Metrics
from services._runtime.wire import ApiError, Lost, Wire

log = structlog.get_logger()

QUIET_ATTEMPTS = 6
STREAM_NOT_FOUND = 10059
NAME_IN_USE = 10058
WRONG_SEQUENCE = frozenset(
    {10071, 10164}
)  # 10164: another write under the same guard is on its way (R3)
DUPLICATE_ON_ITS_WAY = 10158

_PLAIN: Mapping[str, str] = {}


class WrongSequence(Conflict):
    """The expectation that a write carried does not hold (any more)."""


class Stored(msgspec.Struct, frozen=True):
    """What a subject holds."""

    data: bytes
    sequence: int


class Place(msgspec.Struct, frozen=True):
    """Which incarnation of a stream this is, how far it goes and how much it holds, by whose clock when."""

    incarnation: str
    last_sequence: int
    messages: int
    at: float


class _ErrorBody(msgspec.Struct, frozen=True):
    code: int = 0
    err_code: int = 0
    description: str = ""


class _Ack(msgspec.Struct, frozen=True):
    seq: int = 0
    error: _ErrorBody | None = None


class Bus:
    """One connection and what is done over it."""

    def __init__(self, wire: Wire, *, replicas: int) -> None:
        self.replicas = replicas
        self.owner = False  # of the streams: set by ensure_streams, which takes the same rights
        self.incarnations: dict[str, str] = {}
        self._is_overruled = False  # by the copies that streams have
        self._is_outdated = False  # they were set by a newer version
        self._wire = wire
        self._turns: dict[str, tuple[asyncio.Lock, list[None]]] = {}
        self._message_ids = itertools.count(1)
        # Names of connections are known: who could guess an ID could have a message of ours taken for a duplicate.
        self._secret = secrets.token_hex(8)
        self._consumers = itertools.count(1)

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        replicas: int = 1,
        metrics: Metrics | None = None,
        access: Access = Access(),  # noqa: B008  frozen
    ) -> Self:
        """A bus over a new connection named `<name>-<8 hex>`; waits until the server lets us in."""
        wire = Wire(name, metrics or Metrics(), access)
        await wire.open(url)
        return cls(wire, replicas=replicas)

    @property
    def name(self) -> str:
        return self._wire.name

    @property
    def metrics(self) -> Metrics:
        return self._wire.metrics

    @property
    def closed(self) -> asyncio.Event:
        """Set once the connection is closed for good."""
        return self._wire.closed

    @property
    def reconnects(self) -> int:
        return self._wire.reconnects

    async def close(self) -> None:
        await self._wire.close()

    async def connected(self) -> None:
        await self._wire.connected()

    async def keep_login(self) -> None:
        """Renew the login before it ends, for ever; a task of who connected. Without a token: nothing."""
        await login.keep(self._wire)

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each reconnection; the returned function ends that."""
        return self._wire.on_reconnect(callback)

    async def publish(self, message: Any, *, ttl: int | None = None) -> int:
        """Store a message under its own key; its sequence. Tries until it is stored."""
        return await self.store(message.key, encode(message), ttl=ttl)

    async def bury(self, key: Key, tombstone: Tombstone = Tombstone()) -> int:  # noqa: B008  frozen
        """Store the notice that `key` is gone; it removes itself after an hour."""
        return await self.store(key, tombstone_body(tombstone), ttl=TOMBSTONE_TTL_SECONDS)

    async def read(self, key: Key) -> tuple[Any, int] | None:
        """(message or Tombstone, sequence) of what `key` holds, None if nothing. Raises Malformed."""
        stored = await self.peek(key)
        if stored is None:
            return None
        _, message = decode(key.subject, stored.data)
        return message, stored.sequence

    async def store(
        self,
        key: Key,
        body: bytes,
        *,
        ttl: int | None = None,
        expect: Callable[[], Mapping[str, str]] = lambda: _PLAIN,
        conflict: Callable[[], Awaitable[None]] | None = None,
        after: int = 0,
    ) -> int:
        """Store bytes under `key` and return the sequence; for writers with expectations.

        `expect` gives the expectation headers of each attempt; where they do not hold, `conflict` decides:
        it raises, or returns for another attempt. `after` is the newest sequence that was ours before.
        """
        subject = key.subject
        fixed = {"Nats-Msg-Id": f"{self._secret}:{next(self._message_ids)}"}
        if ttl is not None:
            fixed["Nats-TTL"] = str(ttl)
        async with self._turn(subject):
            for attempt, delay in enumerate(backoff()):
                try:
                    sequence = await self._attempt(subject, body, {**fixed, **expect()})
                except WrongSequence:
                    self.metrics.count(key.kind, "conflict")
                    if conflict is None:
                        raise
                    await conflict()
                except Unavailable as exc:
                    self.metrics.count(key.kind, "retried")
                    # A restart of the server is over by then: now a person should look, at a full stream for one.
                    if attempt == QUIET_ATTEMPTS:
                        log.warning("publish is put off", subject=subject, reason=exc.what)
                    if isinstance(exc, Lost):
                        stored = await self.peek(key)
                        if stored and stored.sequence > after and stored.data == body:
                            return stored.sequence
                else:
                    self.metrics.count(key.kind, "published")
                    if attempt > QUIET_ATTEMPTS:
                        log.info("stored at last", subject=subject, attempts=attempt + 1)
                    return sequence
                await asyncio.sleep(delay)
        raise AssertionError("backoff never ends")

    async def peek(self, key: Key) -> Stored | None:
        """The bytes under `key` and their sequence; tries until the server answers."""
        stream = streams.stream_of(key)
        subject = key.subject
        for delay in backoff():
            try:
                # Any replica answers a direct get, also one that lags: owners of a replicated stream
                # judge their rights by it and ask the stream's leader.
                if self.replicas > 1 and self.owner:
                    return await self._read_from_leader(stream, subject)
                return await self._read_direct(stream, subject)
            except Unavailable as exc:
                log.debug("read is tried again", subject=subject, reason=exc.what)
            await asyncio.sleep(delay)
        raise AssertionError("backoff never ends")

    async def ensure_streams(self) -> dict[str, str]:
        """Create or correct every stream; the incarnation (creation time) of each. Tries until done.

        Raises Refused if the server will never do it.
        """
        self.owner = True
        for config in streams.configs(self.replicas):
            for delay in backoff():
                try:
                    self.incarnations[config["name"]] = await self._ensure(config)
                    break
                except Unavailable as exc:
                    log.debug("streams are tried again", stream=config["name"], reason=exc.what)
                except ApiError as exc:
                    raise Refused(
                        f"stream {config['name']} cannot be made as it should be: {exc.description}:"
                        " check the server's JetStream limits and this role's permissions"
                    ) from exc
                await asyncio.sleep(delay)
        return dict(self.incarnations)

    async def place(self, stream: str) -> Place:
        """Where a stream is. Only for owners: nodes may not ask. Raises Unavailable."""
        info = await self._info(stream)
        state, at = info["state"], datetime.fromisoformat(info["ts"]).timestamp()
        return Place(info["created"], state["last_seq"], state["messages"], at)

    async def holds(self, stream: str, kind: type[Key]) -> tuple[str, frozenset[str]]:
        """Incarnation of a stream, and its subjects of a kind: one answer, for 100,000 at most. Only for owners.

        The stream's leader answers, so that nothing is missing because a replica lags. Raises Unavailable.
        """
        info = await self._info(stream, {"subjects_filter": kind.all()})
        return info["created"], frozenset(info["state"].get("subjects") or ())

    def consumer_name(self) -> str:
        """A name for a consumer of this connection, so that permissions can name it exactly."""
        return f"{self.name}-{next(self._consumers)}"

    @property
    def api_root(self) -> str:
        """Where the JetStream API lies in this connection's account."""
        return self._wire.access.api

    async def api(self, operation: str, body: object = None) -> dict[str, Any]:
        return await self._wire.api(operation, body)

    async def tell(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        await self._wire.tell(subject, payload, headers)

    async def subscribe_inbox(self, callback: Callable[[Msg], Awaitable[None]]) -> Subscription:
        return await self._wire.subscribe(self._wire.new_inbox(), callback)

    async def unsubscribe(self, subscription: Subscription) -> None:
        await self._wire.unsubscribe(subscription)

    async def _attempt(self, subject: str, body: bytes, headers: dict[str, str]) -> int:
        answer = await self._wire.request(subject, body, headers)
        ack = msgspec.json.decode(answer.data, type=_Ack)
        if ack.error is None:
            return ack.seq
        what = f"{subject}: {ack.error.description} ({ack.error.err_code})"
        if ack.error.err_code in WRONG_SEQUENCE:
            raise WrongSequence(what)
        if ack.error.code == 503 or ack.error.err_code == DUPLICATE_ON_ITS_WAY:
            raise Lost(what)
        raise Refused(what)

    async def _read_direct(self, stream: str, subject: str) -> Stored | None:
        message = await self._wire.request(f"{self.api_root}.DIRECT.GET.{stream}.{subject}")
        headers = message.headers or {}
        status = headers.get("Status")
        if status == "404":
            return None
        if status is not None or "Nats-Sequence" not in headers:
            raise Unavailable(f"{subject}: read answered with status {status}")
        return Stored(message.data, int(headers["Nats-Sequence"]))

    async def _read_from_leader(self, stream: str, subject: str) -> Stored | None:
        try:
            answer = await self._wire.api(f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        except ApiError as exc:
            if exc.err_code == STREAM_NOT_FOUND:
                raise Unavailable(f"{stream}: {exc.description}") from exc
            if exc.code == 404:
                return None
            raise
        found = answer["message"]
        return Stored(base64.b64decode(found.get("data", "")), found["seq"])

    async def _info(self, stream: str, body: object = None) -> dict[str, Any]:
        try:
            return await self._wire.api(f"STREAM.INFO.{stream}", body)
        except ApiError as exc:
            if exc.err_code == STREAM_NOT_FOUND:
                raise Unavailable(f"{stream}: {exc.description}") from exc
            raise

    async def _ensure(self, config: dict[str, Any]) -> str:
        name = config["name"]
        try:
            info = await self._wire.api(f"STREAM.INFO.{name}")
        except ApiError as exc:
            if exc.err_code != STREAM_NOT_FOUND:
                raise
            info = await self._create(config)
        if streams.is_newer(info):
            self._leave(info["config"])
            return str(info["created"])
        wanted, config = config, streams.corrected(config, info)
        if config["num_replicas"] != wanted["num_replicas"] and not self._is_overruled:
            self._is_overruled = True  # the same of every stream, after every cut
            log.warning(
                "streams keep the copies they have: they never shrink in a cluster",
                copies=config["num_replicas"],
                setting=wanted["num_replicas"],
            )
        if streams.differs(config, info["config"]):
            log.info("stream settings corrected", stream=name)
            info = await self._wire.api(f"STREAM.UPDATE.{name}", config)
        return str(info["created"])

    def _leave(self, found: dict[str, Any]) -> None:
        if not self._is_outdated:
            self._is_outdated = True  # the same of every stream, after every cut
            log.warning(
                "streams keep the settings of a newer version",
                edition=streams.edition_of(found),
                own=streams.EDITION,
            )

    async def _create(self, config: dict[str, Any]) -> dict[str, Any]:
        name = config["name"]
        try:
            info = await self._wire.api(f"STREAM.CREATE.{name}", config)
        except ApiError as exc:
            if exc.err_code == NAME_IN_USE:  # the other owner was faster
                raise Unavailable(f"{name}: {exc.description}") from exc
            raise
        log.info("stream created", stream=name, incarnation=info["created"])
        return info

    @asynccontextmanager
    async def _turn(self, subject: str) -> AsyncIterator[None]:
        lock, users = self._turns.setdefault(subject, (asyncio.Lock(), []))
        users.append(None)
        try:
            async with lock:
                yield
        finally:
            users.pop()
            if not users:
                del self._turns[subject]


def tombstone_body(tombstone: Tombstone) -> bytes:
    """A plain tombstone is an empty body."""
    return b"" if tombstone == Tombstone() else encode(tombstone)
