"""The bus as a person looks at it: what every subject holds now. Reads only."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from cli import labs
from cli.problems import Problem
from schemas import codec, subjects
from schemas.codec import Tombstone
from services._runtime import streams

_STREAMS = {
    "request": streams.INTENT,
    "endpoint": streams.INTENT,
    "networkservice": streams.INTENT,
    "prefix": streams.INTENT,
    "connection": streams.GRANT,
    "refusal": streams.GRANT,
    "pool": streams.GRANT,
    "status": streams.STATE,
    "node": streams.STATE,
    "seen": streams.STATE,
    "lease": streams.LIVE,
    "alive": streams.LIVE,
}
_TIMEOUT_SECONDS = 5.0


def url() -> str:
    """The NATS server of the lab that runs here. Raises Problem."""
    here, state = labs.running()
    if not state.nats_url:
        raise Problem(f"the lab in {here.root} was started without nats")
    return state.nats_url


async def connect(server: str, *, name: str) -> Client:
    """A connection that survives the server's restarts. Raises Problem when nobody listens now."""
    place = urlsplit(server if "://" in server else f"nats://{server}")
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            _, writer = await asyncio.open_connection(place.hostname, place.port or 4222)
        writer.close()
    except (OSError, TimeoutError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or str(exc) or "no answer"
        raise Problem(f"NATS at {shown(server)}: {reason}; is it running? (nsm lab ps)") from exc

    problems: list[Exception] = []

    async def keep(problem: Exception) -> None:
        problems[:] = [problem]

    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            return await nats.connect(
                server,
                name=name,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,
                error_cb=keep,
            )
    except TimeoutError as exc:
        reason = str(*problems) or "no answer"
        raise Problem(
            f"NATS at {shown(server)} does not let us in: {reason}; the lab's address with its token "
            "is told by: nsm lab up, and in lab.json"
        ) from exc


def shown(server: str) -> str:
    """The address without what is secret in it."""
    return re.sub(r"(?<=//)[^/@\s]+@", "", server)


def snapshot(kinds: Sequence[str]) -> list[tuple[Any, Any]]:
    """(key, message) of every subject of these kinds that holds something, by subject. Raises Problem."""
    return asyncio.run(_snapshot(url(), kinds))


def leaders() -> list[tuple[Any, Any]]:
    """The guards of both streams that have one active writer."""
    return asyncio.run(
        _read(url(), [(stream, subjects.LeaderKey.all()) for stream in streams.LEADERS])
    )


async def _snapshot(server: str, kinds: Sequence[str]) -> list[tuple[Any, Any]]:
    filters = [(_STREAMS[kind], subjects.KEYS[kind].all()) for kind in kinds]
    return await _read(server, filters)


async def _read(server: str, filters: Sequence[tuple[str, str]]) -> list[tuple[Any, Any]]:
    client = await connect(server, name="nsm-cli")
    found: dict[str, bytes] = {}
    try:
        for stream, pattern in filters:
            found |= await _last_messages(client, stream, pattern)
    finally:
        await client.close()
    decoded = []
    for subject in sorted(found):
        try:
            key, message = codec.decode(subject, found[subject])
        except codec.Malformed as exc:
            raise Problem(f"the bus holds what is no message: {exc}") from exc
        if not isinstance(message, Tombstone):
            decoded.append((key, message))
    return decoded


async def _last_messages(client: Client, stream: str, pattern: str) -> dict[str, bytes]:
    config = ConsumerConfig(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT)
    found: dict[str, bytes] = {}
    try:
        subscription = await client.jetstream(timeout=_TIMEOUT_SECONDS).subscribe(
            pattern,
            stream=stream,
            ordered_consumer=True,
            config=config,
            pending_msgs_limit=0,
            pending_bytes_limit=0,
        )
    except NotFoundError:
        return found  # nobody wrote yet: the services are still starting
    except nats.errors.Error as exc:
        raise Problem(f"stream {stream}: {exc or type(exc).__name__}; see: nsm lab ps") from exc
    left = (await subscription.consumer_info()).num_pending or 0
    pending = left + subscription.pending_msgs
    while pending > 0:
        message = await subscription.next_msg(timeout=_TIMEOUT_SECONDS)
        found[message.subject] = message.data
        pending = message.metadata.num_pending
    await subscription.unsubscribe()
    return found
