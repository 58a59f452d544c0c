"""Time for very many flights: a queue per age, not a timer per flight. Nearly all are done before the first age.

Whoever drives it calls `tick` at the time that `on_due` was told last.
"""

import heapq
from collections import deque
from collections.abc import Callable

from services.dns.core.flights import Flight

RETRANSMIT, SILENCE, RETRANSMIT_AGAIN, BUDGET, LAST = range(5)
# The stub of a Pod waits 5 s. The capture's connection tracking forgets a query after 3 s, and then no reply gets
# back: that bounds the last one. The budget is for a better answer than the one there is.
AGES = (0.4, 1.0, 1.5, 2.0, 2.8)
_FIRST_AGE = AGES[0]
_NEVER = float("inf")


class Timers:
    """`on_due` is called when the next `tick` is due earlier than it was told before."""

    def __init__(self, on_due: Callable[[float], None]) -> None:
        self._on_due = on_due
        self._queues = tuple(deque[Flight]() for _ in AGES)
        self._first = self._queues[0]
        self._graces: list[tuple[float, int, Flight]] = []
        self._count = 0
        self._due = _NEVER

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues)

    def watch(self, flight: Flight) -> None:
        """Tell the flight's pilot of the ages that it reaches. Flights come in the order in which they were sent."""
        self._first.append(flight)
        if flight.sent_at + _FIRST_AGE < self._due:
            self._expect(flight.sent_at + _FIRST_AGE)

    def consider_at(self, flight: Flight, when: float) -> None:
        """Let the pilot consider the flight then."""
        self._count += 1
        heapq.heappush(self._graces, (when, self._count, flight))
        self._expect(when)

    def tick(self, now: float) -> None:
        """Everything that is due. What one flight raises is the caller's; the others' clock goes on."""
        self._due = _NEVER
        try:
            graces = self._graces
            while graces and graces[0][0] <= now:
                flight = heapq.heappop(graces)[2]
                if not flight.done:
                    flight.pilot.consider(flight, now)
            for age in range(len(AGES)):
                self._age(age, now)
        finally:
            self._expect(self._next())

    def clear(self) -> None:
        for queue in self._queues:
            queue.clear()
        self._graces.clear()

    def _age(self, age: int, now: float) -> None:
        queue, seconds = self._queues[age], AGES[age]
        while queue and queue[0].sent_at + seconds <= now:
            flight = queue.popleft()
            if flight.done and not flight.unheard:
                continue
            if age < LAST:
                self._queues[age + 1].append(flight)
            flight.pilot.reached(flight, age, now)

    def _next(self) -> float:
        due = [queue[0].sent_at + AGES[age] for age, queue in enumerate(self._queues) if queue]
        if self._graces:
            due.append(self._graces[0][0])
        return min(due, default=_NEVER)

    def _expect(self, when: float) -> None:
        if when < self._due:
            self._due = when
            self._on_due(when)
