"""Our own ordered consumer: one filter of one stream, in order, without a gap, or trouble is called.

nats-py's is deaf for seconds when only the connection was cut, and a reused name gives an empty snapshot; so
ours is deleted before each creation, has a fresh inbox each time, and is opened anew by its mirror at the
first doubt. It never decides what a message means.

On a cluster the server may place it beside a replica that is far behind, for seconds after that server came back:
its snapshot is then short, even empty. What it has seen is therefore never concluded there, only read from
messages and heartbeats; owners, who know how far the stream goes, are synced only once it has come so far.
"""

import asyncio
from collections.abc import Callable
from importlib import metadata
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from services._runtime.bus import STREAM_NOT_FOUND, Bus
from services._runtime.errors import Unavailable
from services._runtime.wire import ApiError, Lost

HEARTBEAT_SECONDS = 1
INACTIVE_SECONDS = 10  # a consumer nobody listens to goes by itself
DELETE_SECONDS = 0.3
CONSUMER_NOT_FOUND = 10014
# The stream will be made by its owners; a consumer of our name is one that our delete did not reach.
_PASSING = frozenset({STREAM_NOT_FOUND, 10013, 10148})
_SECOND = 1_000_000_000
_SILENT_TICKS = 3  # of a heartbeat per second
# Who asks the server for its consumers sees who follows, and of which version each process is.
_ABOUT = {"version": metadata.version("nsm-on-nats")}

Deliver = Callable[[str, bytes, int, float], None]


class Events(msgspec.Struct, frozen=True):
    """What a consumer tells its mirror."""

    deliver: Deliver  # subject, body, sequence, when it was stored by the server's clock
    synced: Callable[[], None]
    trouble: Callable[[str], None]
    failed: Callable[[Exception], None]  # the receiver raised: a bug of ours


class Consumer:
    """Follows one filter. `position`: everything up to this sequence was delivered, if synced.

    `replicated`: the server is one of several, and ours may lag behind the others.
    """

    def __init__(self, bus: Bus, stream: str, subject_filter: str, events: Events) -> None:
        self.filter = subject_filter
        self.synced = False
        self.position = 0
        self.delivered = 0  # the newest sequence delivered since the opening
        self._quiet = 0  # ticks since the server last spoke
        self.lag = 0
        self.replicated = False
        self._bus = bus
        self._stream = stream
        self._name = bus.consumer_name()
        self._events = events
        self._subscription: Subscription | None = None
        self._held: list[Msg] | None = None
        self._created_pending = 0
        self._floor = 0
        self._must_reach = 0
        self._received = 0  # consumer sequence
        self._torn = False  # something is missing: what comes after counts only in the next opening

    def silent_again(self) -> bool:
        """Another tick: whether the server has been silent for several of them."""
        # Counted in ticks, not in time: a loop that was blocked finds its messages in the queue.
        self._quiet += 1
        return self._quiet >= _SILENT_TICKS and self.listening

    @property
    def listening(self) -> bool:
        return self._subscription is not None

    def covers(self, subject: str) -> bool:
        """Whether this consumer's filter matches `subject`."""
        wanted, tokens = self.filter.split("."), subject.split(".")
        for index, part in enumerate(wanted):
            if part == ">":
                return len(tokens) > index
            if index >= len(tokens) or part not in ("*", tokens[index]):
                return False
        return len(tokens) == len(wanted)

    async def open(self, *, start: int | None, floor: int) -> None:
        """Create it anew: from sequence `start`, or with a snapshot. Messages are held until `release`.

        `floor` is a sequence that the stream is known to have reached already.
        """
        await self.stop()
        await self._delete()
        self._held = []
        self._received = 0
        self._torn = False
        self.delivered = 0
        self._floor = floor
        self.position = 0 if start is None else start - 1
        self._subscription = await self._bus.subscribe_inbox(self._on_message)
        info = await self._create(self._subscription.subject, start)
        self._created_pending = info["num_pending"]
        # Nodes need not be told how many replicas there are: the answer of a server of several names its leader.
        self.replicated = self._bus.replicas > 1 or bool(info.get("cluster"))
        self._must_reach = 0
        self._quiet = 0

    def release(self, *, must_reach: int = 0) -> None:
        """Deliver what was held back and go on; on a cluster it is not synced before `must_reach`."""
        held, self._held = self._held or [], None
        self._must_reach = must_reach if self.replicated else 0
        if self._created_pending == 0:
            self._check_synced()
        for message in held:
            self._take(message)

    async def stop(self) -> None:
        """Hear nothing more."""
        self.synced = False
        self._held = None
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            await self._bus.unsubscribe(subscription)

    async def close(self) -> None:
        await self.stop()
        await self._bus.tell(f"{self._bus.api_root}.CONSUMER.DELETE.{self._stream}.{self._name}")

    async def _delete(self) -> None:
        try:
            async with asyncio.timeout(DELETE_SECONDS):
                await self._bus.api(f"CONSUMER.DELETE.{self._stream}.{self._name}")
        except (TimeoutError, Lost):
            # On a cluster the server that would answer may be the dead one; what is left refuses the creation.
            return
        except ApiError as exc:
            if exc.err_code not in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
                raise

    async def _create(self, inbox: str, start: int | None) -> dict[str, Any]:
        config: dict[str, Any] = {
            "name": self._name,
            "deliver_subject": inbox,
            "deliver_policy": "last_per_subject" if start is None else "by_start_sequence",
            "filter_subject": self.filter,
            "ack_policy": "none",
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": HEARTBEAT_SECONDS * _SECOND,
            "inactive_threshold": INACTIVE_SECONDS * _SECOND,
            "mem_storage": True,
            "num_replicas": 1,
            "metadata": _ABOUT,
        }
        if start is not None:
            config["opt_start_seq"] = start
        body = {"stream_name": self._stream, "config": config, "action": "create"}
        try:
            return await self._bus.api(
                f"CONSUMER.CREATE.{self._stream}.{self._name}.{self.filter}", body
            )
        except ApiError as exc:
            if exc.err_code in _PASSING:
                raise Unavailable(f"{self._stream}: {exc.description}") from exc
            raise

    async def _on_message(self, message: Msg) -> None:
        self._quiet = 0
        headers = message.headers
        if headers is not None and not message.data and headers.get("Status") == "100":
            await self._control(message, headers)
        elif self._held is not None:
            self._held.append(message)
        else:
            self._take(message)

    async def _control(self, message: Msg, headers: dict[str, str]) -> None:
        answer = message.reply or headers.get("Nats-Consumer-Stalled")
        if answer:
            await self._bus.tell(answer)
            return
        if self._held is None and self._subscription is not None and not self._torn:
            sent = int(headers.get("Nats-Last-Consumer", self._received))
            if sent != self._received:
                self._gap(sent)
                return
            if self.replicated:
                self.position = max(self.position, int(headers.get("Nats-Last-Stream", 0)))
            # The last of the snapshot may have been superseded or expired on the way: nothing more will come.
            self._check_synced()

    def _take(self, message: Msg) -> None:
        if self._subscription is None or message.sid != self._subscription._id:  # noqa: SLF001
            return  # of an earlier opening
        if self._torn:
            return
        sequence, count, pending, at = positions(message.reply)
        if count != self._received + 1:
            self._gap(count)
            return
        self._received = count
        self.lag = pending
        self.delivered = sequence
        self.position = max(self.position, sequence)
        try:
            self._events.deliver(message.subject, message.data, sequence, at)
        except Exception as exc:  # noqa: BLE001  nats-py would swallow it
            self._events.failed(exc)
            return
        if pending == 0:
            self._check_synced()

    def _check_synced(self) -> None:
        """Nothing is pending: what was asked for is all there, if the replica has it all."""
        if self.synced or self.position < self._must_reach:
            return
        self.synced = True
        self.lag = 0
        if not self.replicated:
            self.position = max(self.position, self._floor)
        self._events.synced()

    def _gap(self, count: int) -> None:
        # A consumer whose server restarts counts from one again: by and by its numbers would fit.
        self._torn = True
        self._events.trouble(f"gap: message {count} came after {self._received}")


def positions(reply: str) -> tuple[int, int, int, float]:
    """(stream sequence, consumer sequence, pending, time) of a delivered message, in both forms of the server."""
    tokens = reply.split(".")
    first = 5 if len(tokens) == 9 else 7  # the longer form names domain and account
    sequence, count, at, pending = map(int, tokens[first : first + 4])
    return sequence, count, pending, at / _SECOND
