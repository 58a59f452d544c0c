"""A queue of keys, not of events: what is asked for twice before its turn is done once.

One key is worked on by one worker at a time; asked for meanwhile, it is done again afterwards. A key
whose work is Unavailable or met a Conflict comes back later, alone, and holds up nobody; but where the busy
one says how long to stay away, all keys do, for a few seconds at most: somebody has to look. When the first
one fails and when none does any more is logged, once for all keys: what fails is seldom the key.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Generic, TypeVar

import structlog

from services._runtime.backoff import backoff
from services._runtime.errors import Conflict, Unavailable

log = structlog.get_logger()

K = TypeVar("K", bound=Hashable)

_MOST_SECONDS = 15.0


class Workqueue(Generic[K]):
    """`update` it with keys; while `run` runs, `work` is done for each of them."""

    def __init__(self, title: str, work: Callable[[K], Awaitable[None]], *, workers: int) -> None:
        self._title = title
        self._work = work
        self._workers = workers
        self._queue: asyncio.Queue[K] = asyncio.Queue()
        self._waiting: set[K] = set()
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._delays: dict[K, float] = {}  # of the keys that failed last time
        self._failures = 0  # since the first of them
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._stay_away = 0.0  # until then, by the loop's clock

    def __len__(self) -> int:
        return len(self._waiting) + len(self._busy)

    def update(self, keys: Iterable[K]) -> None:
        """Ask for work on these."""
        for key in keys:
            if key in self._busy:
                self._again.add(key)
            elif key not in self._waiting:
                self._waiting.add(key)
                self._queue.put_nowait(key)

    def add_later(self, key: K, seconds: float) -> None:
        """Ask for work on this after a while; of several times asked the earliest counts."""
        loop = asyncio.get_running_loop()
        pending = self._timers.get(key)
        if pending is not None:
            if pending.when() <= loop.time() + seconds:
                return
            pending.cancel()
        self._timers[key] = loop.call_later(seconds, self._due, key)

    def _due(self, key: K) -> None:
        del self._timers[key]
        self.update([key])

    async def run(self) -> None:
        """Work for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._worker())
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers.clear()

    async def _worker(self) -> None:
        while True:
            key = await self._queue.get()
            if (seconds := self._stay_away - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(seconds * random.uniform(1.0, 1.2))
            self._waiting.discard(key)
            self._busy.add(key)
            try:
                await self._work(key)
                self._succeeded(key)
            except (Unavailable, Conflict) as exc:
                self._failed(key, exc)
            finally:
                self._busy.discard(key)
            if key in self._again:
                self._again.discard(key)
                self.update([key])
            await asyncio.sleep(0)  # work that never waits would keep everybody else from theirs

    def _succeeded(self, key: K) -> None:
        if self._delays.pop(key, None) is not None and not self._delays:
            log.info("nothing is put off any more", queue=self._title, failures=self._failures)
            self._failures = 0

    def _failed(self, key: K, exc: Unavailable | Conflict) -> None:
        if not self._delays:
            log.warning("put off", queue=self._title, key=str(key), reason=str(exc))
        self._failures += 1
        # The first of a fresh series is its shortest delay; afterwards it doubles, jittered.
        delay = min(max(self._delays.get(key, 0.0) * 2, next(backoff())), _MOST_SECONDS)
        after = min((isinstance(exc, Unavailable) and exc.after) or 0.0, _MOST_SECONDS)
        self._stay_away = max(self._stay_away, asyncio.get_running_loop().time() + after)
        self._delays[key] = delay
        self.add_later(key, max(delay, after))
