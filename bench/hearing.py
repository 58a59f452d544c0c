"""What the bus commits, heard by a benchmark: in order, each message with its time, none swallowed.

A benchmark that misses a message waits for it, and blames the product for what it said in time. nats-py drops what a
callback raises, and nobody repeats what was committed while a connection was cut, as the server does at the end of each
login; so either ends the benchmark.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

from nats.aio.msg import Msg

from cli import connecting
from cli.listening import listen
from schemas import subjects

# Of the lab's tokens: a login ends with its token, or after an hour.
TOKEN_SECONDS = 3600

Hear = Callable[[Msg], Awaitable[None]]


class CutError(Exception):
    """Something may have been committed that was not heard."""


@asynccontextmanager
async def heard(url: str, hear: Hear, *, name: str) -> AsyncIterator[None]:
    """Everything that is committed meanwhile is told to `hear`. Raises what it raises, in a group."""
    client = await connecting.connect(url, name=name)
    messages: asyncio.Queue[Msg | None] = asyncio.Queue()

    async def note_cut() -> None:
        messages.put_nowait(None)

    client._disconnected_cb = note_cut
    try:
        async with asyncio.TaskGroup() as tasks:
            await listen(client, f"{subjects.LOG_ROOT}.>", messages.put)
            telling = tasks.create_task(_tell(messages, hear))
            yield
            telling.cancel()
    finally:
        await client.close()


async def _tell(messages: asyncio.Queue[Msg | None], hear: Hear) -> None:
    while (message := await messages.get()) is not None:
        await hear(message)
    raise CutError(
        "the connection to the bus was cut (a login lasts an hour at most): what was committed meanwhile "
        "was not heard; measure less at once, and leave the lab's NATS alone"
    )


def committed(message: Msg) -> float:
    """When the server stored it, by the same clock as ours: it is on this machine."""
    # With as many digits as it takes, nine at most: one of ten thousand has fewer than six.
    stamp = (message.headers or {}).get("Nats-Time-Stamp", "")
    return datetime.fromisoformat(stamp).timestamp() if stamp else time.time()
