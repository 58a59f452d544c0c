"""The net under everything: each connection is looked at now and then, whoever forgot to tell of what.

Some at a time, so that thousands of them never keep a new one waiting; all soon, once notices were lost.
"""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Collection

from schemas.subjects import ConnectionKey

_AT_ONCE = 100  # connections per sweep: a look costs some 5 ms of one core
_HURRIED_SECONDS = 1.0  # between sweeps, while any connection may be broken


class Sweep:
    """`run` is the task: `before` each sweep, then `look` at the next connections."""

    def __init__(
        self,
        seconds: float,
        *,
        keys: Callable[[], Collection[ConnectionKey]],
        before: Callable[[], Awaitable[None]],
        look: Callable[[ConnectionKey], None],
    ) -> None:
        self._seconds = seconds
        self._keys = keys
        self._before = before
        self._look = look
        self._wanted = asyncio.Event()
        self._rest: list[ConnectionKey] = []
        self._hurried = False

    def hurry(self) -> None:
        """Look at all of them, as fast as is decent."""
        self._wanted.set()

    async def run(self) -> None:
        """For ever."""
        self._rest = list(self._keys())
        while True:
            await self._pause()
            await self._before()
            for key in self._rest[:_AT_ONCE]:
                self._look(key)
            self._rest = self._rest[_AT_ONCE:]
            if not self._rest:
                # Now for the next sweep: what is made until then is looked at when it is made, and that is enough.
                self._rest, self._hurried = list(self._keys()), False

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(
                min(self._seconds, _HURRIED_SECONDS if self._hurried else math.inf)
            ):
                await self._wanted.wait()
                self._wanted.clear()
                self._rest, self._hurried = list(self._keys()), True
