"""Endpoints without a Pod to serve with are told, once that lasts.

A Deployment's Pods come after the endpoint, and those of a new version after the old ones: that is no news.
Runs only while we lead.
"""

import asyncio
import random
from collections.abc import Iterable
from functools import partial

from services.watcher.core.intent import Intent
from services.watcher.core.news import WARNING, Announcement
from services.watcher.model import NetworkServiceEndpoint, Ref
from services.watcher.service.announcing import Announcer

# Up to twice as long: of thousands in a new term not all are told at once.
_GRACE_SECONDS = 10.0


class Idling:
    """`note` endpoints at any time; `run` warns of those that stay idle, for the length of a term."""

    def __init__(self, *, intent: Intent, announcer: Announcer) -> None:
        self._intent = intent
        self._announcer = announcer
        self._timers: dict[Ref, asyncio.TimerHandle] | None = None

    def note(self, endpoints: Iterable[Ref], *, again: bool = True) -> None:
        """These may have come to be idle, or be so no more; `again`: a predecessor cannot have told it."""
        if self._timers is None:
            return
        for each in endpoints:
            if self._intent.idle(each) is None:
                if each in self._timers:
                    self._timers.pop(each).cancel()
            elif each not in self._timers:
                seconds = _GRACE_SECONDS * random.uniform(1.0, 2.0)
                warn = partial(self._warn, each, again=again)
                self._timers[each] = asyncio.get_running_loop().call_later(seconds, warn)

    async def run(self) -> None:
        """Warn for the length of a term."""
        self._timers = {}
        self.note(self._intent.spoiled.all_idle(), again=False)
        try:
            await asyncio.Event().wait()
        finally:
            for timer in self._timers.values():
                timer.cancel()
            self._timers = None

    def _warn(self, endpoint: Ref, *, again: bool) -> None:
        """Once as long as it lasts: the timer stays though it has fired, unless the word was not taken."""
        problem = self._intent.idle(endpoint)
        about = self._intent.about(NetworkServiceEndpoint, endpoint)
        if problem is None or about is None or self._timers is None:
            return
        what = Announcement(type=WARNING, reason=problem.reason, message=problem.message)
        if not self._announcer.say(about, what, again=again):
            del self._timers[endpoint]
            self.note([endpoint], again=again)
