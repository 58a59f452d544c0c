"""Pods whose addresses came to be known after the grant: their nodes are told only if they still look for them.

A node looks for a Pod by its addresses no sooner than a second after the grant, and by then it mostly has found it by
the CNI's result. Told at once, every new Pod would cost its node a second revision (measured: more than the first).
"""

import asyncio

from schemas.subjects import RequestKey
from services.ipam.service.agenda import Agenda

PATIENCE_SECONDS = 1.0


class Seeking:
    """Requests that wait for that second. `close` at the end of a term."""

    def __init__(self, agenda: Agenda) -> None:
        self._agenda = agenda
        self._timers: dict[RequestKey, asyncio.TimerHandle] = {}
        self._over: set[RequestKey] = set()

    def wait(self, key: RequestKey) -> None:
        """It is due again when the time is over."""
        if key not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[key] = loop.call_later(PATIENCE_SECONDS, self._end, key)

    def is_over(self, key: RequestKey) -> bool:
        """Whether the time is over; that is said once."""
        is_over = key in self._over
        self._over.discard(key)
        return is_over

    def forget(self, key: RequestKey) -> None:
        """The request went: another Pod of that name starts anew."""
        self._over.discard(key)
        if timer := self._timers.pop(key, None):
            timer.cancel()

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()

    def _end(self, key: RequestKey) -> None:
        del self._timers[key]
        self._over.add(key)
        self._agenda.touch([key])
