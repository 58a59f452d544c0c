"""One key at a time, in order; different keys in parallel, bounded.

A key that is asked for again while it waits runs once; while it is at work it runs once more afterwards,
so the last look always comes after the last change.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class Lanes(Generic[K]):
    """A queue of keys and `width` workers. `add` is a hint, `run` the task."""

    def __init__(self, work: Callable[[K], Awaitable[None]], *, width: int) -> None:
        self._work = work
        self._width = width
        self._queue: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._idle = asyncio.Condition()

    def add(self, key: K) -> None:
        if key in self._busy:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._queue.put_nowait(key)

    async def run(self) -> None:
        """For ever. `work` must not raise."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._width):
                group.create_task(self._lane())

    async def worked(self, keys: set[K]) -> None:
        """Return when none of `keys` waits or is at work."""
        async with self._idle:
            await self._idle.wait_for(lambda: not keys & (self._waiting | self._busy))

    async def _lane(self) -> None:
        while True:
            key = await self._queue.get()
            self._waiting.discard(key)
            self._busy.add(key)
            try:
                await self._work(key)
            finally:
                self._busy.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)
            async with self._idle:
                self._idle.notify_all()
