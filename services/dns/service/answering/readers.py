"""Very many sockets that bring packets, as one event of the loop: its own bookkeeping would cost more than ours.

All that can be read at a moment is told the same time: to look at the clock for every packet would cost, too.
"""

import asyncio
import select
from collections.abc import Callable

from services.dns.service.answering.departures import Departures

_MOST, _ROUNDS = 64, 4  # sockets at a time, times per wake-up: the rest of the process waits


class Readers:
    """Calls back whose socket can be read. Nothing is called for a socket that was removed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, departures: Departures) -> None:
        self._loop = loop
        self._departures = departures
        self._epoll = select.epoll()
        self._ready: dict[int, Callable[[float], None]] = {}
        loop.add_reader(self._epoll.fileno(), self._wake)

    def add(self, fd: int, on_readable: Callable[[float], None]) -> None:
        """Raises OSError."""
        self._epoll.register(fd, select.EPOLLIN)
        self._ready[fd] = on_readable

    def remove(self, fd: int) -> None:
        """Before it is closed. Nothing to do is no error."""
        if self._ready.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _wake(self) -> None:
        ready, poll, clock = self._ready, self._epoll.poll, self._loop.time
        # Under load more has come while we read: to find that here is cheaper than a turn of the loop.
        for _ in range(_ROUNDS):
            events, now = poll(0, _MOST), clock()
            self._departures.hold()
            try:
                # What one of them raises is the loop's to tell; the others are still readable at its next turn.
                for fd, _ in events:
                    if on_readable := ready.get(fd):
                        on_readable(now)
            finally:
                self._departures.release()
            if not events:
                return
