"""What all Pods of a node share: the clock, the timers, the limits, the figures, the random IDs and what was read."""

import asyncio
import os
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry

from services.dns.core.servers import Server
from services.dns.core.shared import Shared
from services.dns.model import Limits
from services.dns.service.answering.departures import Departures
from services.dns.service.answering.figures import Figures
from services.dns.service.answering.readers import Readers

_SWEEP_SECONDS = 1.0


class Swept(Protocol):
    """Holds things that grow old."""

    def sweep(self, now: float) -> bool:
        """Let go of what is too old; False: nothing is left that could grow old."""
        ...

    @property
    def servers(self) -> list[Server]: ...


class Engine:
    """Made inside the running loop; closed after the answerers."""

    def __init__(self, registry: CollectorRegistry, *, limits: Limits | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.limits = limits or Limits()
        self.shared = Shared(self.limits, on_due=self._arm, random_bytes=os.urandom)
        self.tally, self.ids = self.shared.tally, self.shared.ids
        self.departures = Departures(self.tally)
        self.readers = Readers(self.loop, self.departures)
        self._figures = Figures(registry, self.tally, self._servers)
        self._armed: asyncio.TimerHandle | None = None
        self._sweeping: asyncio.TimerHandle | None = None
        self._aging: dict[Swept, None] = {}

    def keep_swept(self, thing: Swept) -> None:
        """Sweep it every second until it says that nothing is left."""
        if self._sweeping is None:
            self._sweeping = self.loop.call_later(_SWEEP_SECONDS, self._sweep)
        self._aging[thing] = None

    def close(self) -> None:
        for timer in (self._armed, self._sweeping):
            if timer is not None:
                timer.cancel()
        self.readers.close()
        self.shared.timers.clear()
        self._aging.clear()

    def _arm(self, when: float) -> None:
        if self._armed is not None:
            self._armed.cancel()
        self._armed = self.loop.call_at(when, self._due)

    def _due(self) -> None:
        self._armed = None
        self.shared.timers.tick(self.loop.time())

    def _sweep(self) -> None:
        self._sweeping = self.loop.call_later(_SWEEP_SECONDS, self._sweep) if self._aging else None
        # Each in a call of its own: a fault in one Pod is not the others'.
        for thing in self._aging:
            self.loop.call_soon(self._sweep_one, thing)

    def _sweep_one(self, thing: Swept) -> None:
        if thing in self._aging and not thing.sweep(self.loop.time()):
            self._aging.pop(thing, None)

    def _servers(self) -> Iterator[Server]:
        for thing in self._aging:
            yield from thing.servers
