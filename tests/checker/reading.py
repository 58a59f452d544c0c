"""The bus as the checker reads it: every last message of the three streams, decoded by the schemas alone."""

import time

from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from schemas import codec, subjects
from services._runtime import streams
from tests.checker.picture import Picture

TIMEOUT_SECONDS = 10.0
LAG_SECONDS = 3.0


async def read(client: Client) -> Picture:
    """What the bus holds now: of each stream one moment, for what comes in between is read as well."""
    picture = Picture()
    for stream in streams.TRUTH:
        for subject, data in (await _last_messages(client, stream)).items():
            picture.put(*codec.decode(subject, data))
    return picture


async def _last_messages(client: Client, stream: str) -> dict[str, bytes]:
    """A replica that was away may be behind for seconds, and the server reads from any: then again."""
    context, deadline = client.jetstream(timeout=TIMEOUT_SECONDS), time.monotonic() + LAG_SECONDS
    while True:
        try:
            state = (await context.stream_info(stream)).state
        except NotFoundError:
            return {}
        last, found = await _snapshot(client, stream)
        # The stream's very last message may have ended by itself: nothing ever comes up to it.
        if last >= state.last_seq or time.monotonic() > deadline:
            return found


async def _snapshot(client: Client, stream: str) -> tuple[int, dict[str, bytes]]:
    """The sequence of the newest message, and the body of each subject's."""
    found: dict[str, bytes] = {}
    last = 0
    try:
        subscription = await client.jetstream(timeout=TIMEOUT_SECONDS).subscribe(
            f"{subjects.ROOT}.>",
            stream=stream,
            ordered_consumer=True,
            config=ConsumerConfig(deliver_policy=DeliverPolicy.LAST_PER_SUBJECT),
            pending_msgs_limit=0,
            pending_bytes_limit=0,
        )
    except NotFoundError:
        return last, found
    left = (await subscription.consumer_info()).num_pending or 0
    pending = left + subscription.pending_msgs
    while pending > 0:
        message = await subscription.next_msg(timeout=TIMEOUT_SECONDS)
        found[message.subject] = message.data
        pending = message.metadata.num_pending
        last = max(last, message.metadata.sequence.stream)
    await subscription.unsubscribe()
    return last, found
