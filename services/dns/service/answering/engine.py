"""What all Pods of a node share: the clock, the timers, the limits, the figures and the random IDs."""

import asyncio
import os
from typing import Protocol

from prometheus_client import CollectorRegistry

from services.dns.model import Limits
from services.dns.service.answering.figures import Figures
from services.dns.service.answering.timers import Delay

RETRANSMIT_SECONDS = (0.4, 1.5)
SILENCE_SECONDS = 1.0
BUDGET_SECONDS = 2.0  # for a better answer than the one there is; the stub of a Pod waits 5 s
# For any answer at all. The capture's connection tracking forgets a query after 3 s, and then no reply gets back.
LAST_SECONDS = 2.8
_SWEEP_SECONDS = 1.0
_RANDOM_BYTES = 4096


class Timed(Protocol):
    """A query that wants to hear of the time that passes."""

    @property
    def done(self) -> bool: ...
    def retransmit(self, now: float) -> None: ...
    def silence(self, now: float) -> None: ...
    def end(self, now: float) -> None: ...
    def last(self) -> None: ...


class Swept(Protocol):
    """Holds things that grow old."""

    def sweep(self, now: float) -> bool:
        """Let go of what is too old; False: nothing is left that could grow old."""
        ...


class Engine:
    """Made inside the running loop; closed after the answerers."""

    def __init__(self, registry: CollectorRegistry, *, limits: Limits | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits or Limits()
        self.figures = Figures(registry)
        first, second = RETRANSMIT_SECONDS
        self._retransmit = Delay[Timed](self.loop, first, self._retransmitted)
        self._again = Delay[Timed](self.loop, second - first, _retransmit)
        self._silence = Delay[Timed](self.loop, SILENCE_SECONDS, _silence)
        self._end = Delay[Timed](self.loop, BUDGET_SECONDS, self._ended)
        self._last = Delay[Timed](self.loop, LAST_SECONDS - BUDGET_SECONDS, _last)
        self._sweep = Delay[None](self.loop, _SWEEP_SECONDS, lambda _, now: self._swept(now))
        self._aging: dict[Swept, None] = {}
        self._sweeping = False
        self._random = b""
        self._random_offset = 0

    def watch(self, query: Timed, now: float) -> None:
        """Tell the query when it is time to ask again, to call servers silent, and to end."""
        self._retransmit.add(query, now)
        self._silence.add(query, now)
        self._end.add(query, now)

    def keep_swept(self, thing: Swept) -> None:
        """Sweep it every second until it says that nothing is left."""
        if not self._sweeping:
            self._sweeping = True
            self._sweep.add(None, self.loop.time())
        self._aging[thing] = None

    def new_id(self) -> bytes:
        """Two bytes that nobody can guess (drawn in bulk: a system call each would cost a tenth of a query)."""
        offset = self._random_offset
        if offset >= len(self._random):
            self._random, offset = os.urandom(_RANDOM_BYTES), 0
        self._random_offset = offset + 2
        return self._random[offset : offset + 2]

    def close(self) -> None:
        for delay in (self._retransmit, self._again, self._silence, self._end, self._last):
            delay.close()
        self._sweep.close()
        self._aging.clear()

    def _swept(self, now: float) -> None:
        self._sweeping = bool(self._aging)
        if self._sweeping:
            self._sweep.add(None, now)
        # Each in a call of its own: a fault in one Pod is not the others'.
        for thing in self._aging:
            self.loop.call_soon(self._sweep_one, thing, now)

    def _sweep_one(self, thing: Swept, now: float) -> None:
        if thing in self._aging and not thing.sweep(now):
            self._aging.pop(thing, None)

    # Nearly all queries are done before these come: only the others cost a second timer.

    def _retransmitted(self, query: Timed, now: float) -> None:
        if not query.done:
            self._again.add(query, now)
            query.retransmit(now)

    def _ended(self, query: Timed, now: float) -> None:
        query.end(now)
        if not query.done:
            self._last.add(query, now)


def _retransmit(query: Timed, now: float) -> None:
    query.retransmit(now)


def _silence(query: Timed, now: float) -> None:
    query.silence(now)


def _last(query: Timed, _: float) -> None:
    query.last()
