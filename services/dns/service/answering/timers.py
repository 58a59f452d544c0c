"""Timers for very many things with the same delay: a queue and one timer of the loop per delay, not per thing."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Delay(Generic[T]):
    """Hands what is added to `act`, `seconds` later, in order."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, seconds: float, act: Callable[[T, float], None]
    ) -> None:
        self._loop = loop
        self._seconds = seconds
        self._act = act
        self._queue: deque[tuple[float, T]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, thing: T, now: float) -> None:
        """`now` never goes back between calls."""
        self._queue.append((now + self._seconds, thing))
        if self._timer is None:
            self._timer = self._loop.call_at(now + self._seconds, self._due)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._queue.clear()

    def _due(self) -> None:
        self._timer = None
        now, queue = self._loop.time(), self._queue
        try:
            while queue and queue[0][0] <= now:
                self._act(queue.popleft()[1], now)
        finally:  # a fault in one of them is not to stop the others' clock
            if queue and self._timer is None:
                self._timer = self._loop.call_at(queue[0][0], self._due)
