"""Completion of a stream is an event for whoever judges by absence, each time anew."""

import asyncio
from collections.abc import Callable

from services._runtime.mirror import Mirror


async def at_every_completion(mirror: Mirror, act: Callable[[], None]) -> None:
    """Act whenever the writer of a stream has said that it told everything."""
    while True:
        await mirror.when_complete.wait()
        act()
        while mirror.when_complete.is_set():  # noqa: ASYNC110  its end is not told
            await asyncio.sleep(1.0)
