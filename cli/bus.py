"""The bus as a person looks at it: what every subject holds now. Reads only."""

import asyncio
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from cli import connecting, labs, persons
from cli.problems import Problem
from schemas import codec, subjects
from schemas.codec import Tombstone
from services._runtime import streams
from services._runtime.access import Access
from services._runtime.client import Client
from services._runtime.consumer import positions

_TIMEOUT_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 1.0


def url() -> str:
    """The NATS server of NSM_NATS_URL (a service's Pod has it), else that of the lab that runs here. Raises Problem."""
    chosen = os.environ.get("NSM_NATS_URL", "")
    if chosen:
        return chosen
    try:
        here, state = labs.running()
    except Problem as exc:
        raise Problem(f"{exc}; a cluster's bus: --url and NSM_TOKEN_FILE") from exc
    if not state.nats_url:
        raise Problem(f"the lab in {here.root} was started without nats")
    return state.nats_url


def snapshot(
    kinds: Sequence[str], *, server: str = "", tombstones: bool = False
) -> list[tuple[Any, Any]]:
    """(key, message) of every subject of these kinds that holds something, by subject. Raises Problem.

    `server`: default is the lab's. With `tombstones` what is gone is told, too.
    """
    found = asyncio.run(_snapshot(server or url(), kinds))
    return [each for each in found if tombstones or not isinstance(each[1], Tombstone)]


def leaders() -> list[tuple[Any, Any]]:
    """The guards of both streams that have one active writer."""
    found = asyncio.run(
        _read(url(), [(stream, subjects.LeaderKey.all()) for stream in streams.LEADERS])
    )
    return [each for each in found if not isinstance(each[1], Tombstone)]


async def _snapshot(server: str, kinds: Sequence[str]) -> list[tuple[Any, Any]]:
    keys = [subjects.KEYS[kind] for kind in kinds]
    return await _read(server, [(streams.stream_of_kind(key), key.all()) for key in keys])


async def _read(server: str, filters: Sequence[tuple[str, str]]) -> list[tuple[Any, Any]]:
    found: dict[str, bytes] = {}
    async with reading(server) as reader:
        for stream, pattern in filters:
            messages = await reader.last(stream, pattern)
            found |= {subject: message.data for subject, message in messages.items()}
    decoded = []
    for subject in sorted(found):
        try:
            decoded.append(codec.decode(subject, found[subject]))
        except codec.Malformed as exc:
            raise Problem(f"the bus holds what is no message: {exc}") from exc
    return decoded


SEE = "see: nsm status"
QUORUM = f"more than half of its NATS servers have to run; {SEE}"


def reason(exc: Exception) -> str:
    """In the server's words, without those of the library."""
    if isinstance(exc, TimeoutError | nats.errors.TimeoutError):
        return f"no answer within {_TIMEOUT_SECONDS:.0f} s"
    return getattr(exc, "description", None) or str(exc) or type(exc).__name__


class Reader:
    """Reads streams over one connection, as far as the rights of a person go."""

    def __init__(self, client: Client, access: Access) -> None:
        self.client = client
        self.access = access
        name = client.options["name"]
        self._consumers = (f"{name}-{number}" for number in itertools.count(1))

    async def last(self, stream: str, pattern: str) -> dict[str, Msg]:
        """What every subject holds, unordered; nothing of a stream that is not there. Raises Problem."""
        # Permissions name consumers exactly.
        config = ConsumerConfig(
            name=next(self._consumers), deliver_policy=DeliverPolicy.LAST_PER_SUBJECT
        )
        api = self.client.jetstream(prefix=self.access.api, timeout=_TIMEOUT_SECONDS)
        found: dict[str, Msg] = {}
        whole = asyncio.Event()

        async def take(message: Msg) -> None:
            # Three times as fast as asking for one message after the other.
            found[message.subject] = message
            if positions(message.reply)[2] == 0:
                whole.set()

        try:
            subscription = await api.subscribe(
                pattern,
                stream=stream,
                cb=take,
                ordered_consumer=True,
                config=config,
                pending_msgs_limit=0,
                pending_bytes_limit=0,
            )
            await _until_whole(subscription, whole, found)
            await subscription.unsubscribe()
        except NotFoundError:
            return found  # nobody wrote yet: the services are still starting
        except (TimeoutError, nats.errors.Error) as exc:
            raise Problem(f"stream {stream} cannot be read: {reason(exc)}; {QUORUM}") from exc
        return found

    async def ask(self, operation: str, body: Any = None) -> dict[str, Any]:
        """What the server's API answers, errors too. Raises Problem when it does not."""
        data = b"" if body is None else msgspec.json.encode(body)
        try:
            answer = await self.client.request(
                f"{self.access.api}.{operation}", data, timeout=_TIMEOUT_SECONDS
            )
        except (TimeoutError, nats.errors.Error) as exc:
            raise Problem(f"{operation}: {reason(exc)}") from exc
        decoded: dict[str, Any] = msgspec.json.decode(answer.data)
        return decoded


async def _until_whole(
    subscription: JetStreamContext.PushSubscription, whole: asyncio.Event, found: dict[str, Msg]
) -> None:
    """Until everything was delivered. Raises TimeoutError when nothing more comes."""
    info = await subscription.consumer_info()
    if not info.num_pending and not (info.delivered and info.delivered.consumer_seq):
        return
    quiet = 0
    while not whole.is_set():
        before = len(found)
        try:
            async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                await whole.wait()
        except TimeoutError:
            # What was to come last may have been superseded, or have expired.
            if not (await subscription.consumer_info()).num_pending:
                return
            quiet = quiet + 1 if len(found) == before else 0
            if quiet * _LOOK_AGAIN_SECONDS >= _TIMEOUT_SECONDS:
                raise


@asynccontextmanager
async def reading(server: str) -> AsyncIterator[Reader]:
    """A reader for the length of the block. Raises Problem."""
    who = persons.person(server, f"nsm-cli-{secrets.token_hex(4)}")
    client = await connecting.log_in(server, who)
    try:
        persons.refuse_services(who.access.role)
        yield Reader(client, who.access)
    finally:
        await client.close()
