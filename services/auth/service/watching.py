"""A responder that hangs costs every second login, so it ends itself.

Two watches: a question of our own, sent by way of the server every few seconds, has to come back answered; and
a thread that needs no event loop ends the process when the loop stops turning.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Self

import structlog

log = structlog.get_logger()

HANG_SECONDS = 10.0
_LOOK_SECONDS = 1.0


class Hung(Exception):
    """The responder does not answer any more: only a new process helps."""


class Watchdog:
    """`with Watchdog() as dog`: without `dog.beat()` for HANG_SECONDS the process is over."""

    def __init__(
        self, *, seconds: float = HANG_SECONDS, end: Callable[[], None] | None = None
    ) -> None:
        self._seconds = seconds
        self._end = end or (lambda: os._exit(1))
        self._beat = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def beat(self) -> None:
        self._beat = time.monotonic()

    def _run(self) -> None:
        while not self._stopped.wait(min(_LOOK_SECONDS, self._seconds / 4)):
            if time.monotonic() - self._beat > self._seconds:
                log.error("the event loop hangs, ending", seconds=self._seconds)
                self._end()
                return
