"""What all Pods of a node share: the clock, the timers, the limits, the figures and the random IDs."""

import asyncio
import os
from typing import Protocol

from prometheus_client import CollectorRegistry

from services.dns.model import Limits
from services.dns.service.answering.figures import Figures
from services.dns.service.answering.timers import Delay

RETRANSMIT_SECONDS = 0.4
SILENCE_SECONDS = 1.0
BUDGET_SECONDS = 2.0  # the stub of a Pod waits 5 s
_SWEEP_SECONDS = 1.0
_RANDOM_BYTES = 4096


class Timed(Protocol):
    """A query that wants to hear of the time that passes."""

    def retransmit(self, now: float) -> None: ...
    def silence(self, now: float) -> None: ...
    def end(self, now: float) -> None: ...


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
        self._retransmit = Delay[Timed](self.loop, RETRANSMIT_SECONDS, _retransmit)
        self._silence = Delay[Timed](self.loop, SILENCE_SECONDS, _silence)
        self._end = Delay[Timed](self.loop, BUDGET_SECONDS, _end)
        self._sweep = Delay[None](self.loop, _SWEEP_SECONDS, lambda _, now: self._swept(now))
        self._aging: dict[Swept, None] = {}
        self._random = b""
        self._random_offset = 0

    def watch(self, query: Timed, now: float) -> None:
        """Tell the query when it is time to ask again, to call servers silent, and to end."""
        self._retransmit.add(query, now)
        self._silence.add(query, now)
        self._end.add(query, now)

    def keep_swept(self, thing: Swept) -> None:
        """Sweep it every second until it says that nothing is left."""
        if not self._aging:
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
        for delay in (self._retransmit, self._silence, self._end):
            delay.close()
        self._sweep.close()
        self._aging.clear()

    def _swept(self, now: float) -> None:
        for thing in list(self._aging):
            if not thing.sweep(now):
                del self._aging[thing]
        if self._aging:
            self._sweep.add(None, now)


def _retransmit(query: Timed, now: float) -> None:
    query.retransmit(now)


def _silence(query: Timed, now: float) -> None:
    query.silence(now)


def _end(query: Timed, now: float) -> None:
    query.end(now)
