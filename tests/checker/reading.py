"""The bus as the checker reads it: every last message of the three streams, decoded by the schemas alone."""

from nats.aio.client import Client
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from schemas import codec, subjects
from services._runtime import streams
from tests.checker.picture import Picture

TIMEOUT_SECONDS = 10.0


async def read(client: Client) -> Picture:
    """What the bus holds now: of each stream one moment, for what comes in between is read as well."""
    picture = Picture()
    for stream in streams.FILE_STREAMS:
        for subject, data in (await _last_messages(client, stream)).items():
            picture.put(*codec.decode(subject, data))
    return picture


async def _last_messages(client: Client, stream: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
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
        return found
    left = (await subscription.consumer_info()).num_pending or 0
    pending = left + subscription.pending_msgs
    while pending > 0:
        message = await subscription.next_msg(timeout=TIMEOUT_SECONDS)
        found[message.subject] = message.data
        pending = message.metadata.num_pending
    await subscription.unsubscribe()
    return found
