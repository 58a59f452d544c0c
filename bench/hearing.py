"""What the bus commits, heard by a benchmark: in order, each message with its time, none swallowed.

nats-py drops what a callback raises. A message that a benchmark cannot read would then be one that never came, and the
product would be blamed for what it said in time; so such a message ends the benchmark.
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

Hear = Callable[[Msg], Awaitable[None]]


@asynccontextmanager
async def heard(url: str, hear: Hear, *, name: str) -> AsyncIterator[None]:
    """Everything that is committed meanwhile is told to `hear`. Raises what it raises, in a group."""
    client = await connecting.connect(url, name=name)
    try:
        messages: asyncio.Queue[Msg] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            await listen(client, f"{subjects.LOG_ROOT}.>", messages.put)
            telling = tasks.create_task(_tell(messages, hear))
            yield
            telling.cancel()
    finally:
        await client.close()


async def _tell(messages: asyncio.Queue[Msg], hear: Hear) -> None:
    while True:
        await hear(await messages.get())


def committed(message: Msg) -> float:
    """When the server stored it, by the same clock as ours: it is on this machine."""
    # With as many digits as it takes, nine at most: one of ten thousand has fewer than six.
    stamp = (message.headers or {}).get("Nats-Time-Stamp", "")
    return datetime.fromisoformat(stamp).timestamp() if stamp else time.time()
