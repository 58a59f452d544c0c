"""Time for very many flights: each reaches every age once, in order, whoever else fails."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dns.core.flights import Flight
from services.dns.core.queries import Query, parse
from services.dns.core.timers import AGES, Timers
from tests.dns.upstreams import a_query

QUERY = parse(a_query("a.example"))


class Pilot:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Flight, int, float]] = []
        self.considered: list[tuple[Flight, float]] = []
        self.failing: set[int] = set()

    def reached(self, flight: Flight, age: int, now: float) -> None:
        self.told.append((flight, age, now))
        if id(flight) in self.failing:
            raise RuntimeError("broken")

    def consider(self, flight: Flight, now: float) -> None:
        self.considered.append((flight, now))


class Clock:
    """Ticks when told to, and only then."""

    def __init__(self) -> None:
        self.due = float("inf")
        self.now = 0.0
        self.timers = Timers(self._expect)
        self.pilot: Any = Pilot()

    def _expect(self, when: float) -> None:
        self.due = when

    def flight(self, sent_at: float) -> Flight:
        assert isinstance(QUERY, Query)
        made = Flight(self.pilot, QUERY, ((self.pilot, 1),), sent_at)
        self.timers.watch(made)
        return made

    def run(self, until: float) -> None:
        while self.due <= until:
            self.now, self.due = max(self.due, self.now), float("inf")
            try:
                self.timers.tick(self.now)
            except RuntimeError:
                pass
        self.now = until


@given(st.lists(st.floats(0, 3), min_size=1, max_size=30))
def test_every_flight_reaches_every_age_once_in_order_and_on_time(gaps):
    clock = Clock()
    flights = []
    for gap in gaps:
        clock.run(clock.now + gap)
        flights.append(clock.flight(clock.now))
    clock.run(clock.now + 5)

    for flight in flights:
        reached = [(age, now) for told, age, now in clock.pilot.told if told is flight]
        assert [age for age, _ in reached] == list(range(len(AGES)))
        for age, now in reached:
            assert now == pytest.approx(flight.sent_at + AGES[age])
    assert not len(clock.timers)


def test_who_is_done_and_heard_of_by_all_is_forgotten_at_the_first_age():
    clock = Clock()
    through, late = clock.flight(0.0), clock.flight(0.0)
    through.done = late.done = True
    through.unheard = 0
    clock.run(5)

    assert {id(flight) for flight, _, _ in clock.pilot.told} == {id(late)}


def test_a_fault_of_one_flight_stops_no_others_clock():
    clock = Clock()
    broken, sound = clock.flight(0.0), clock.flight(0.0)
    clock.pilot.failing.add(id(broken))
    clock.run(5)

    assert [age for flight, age, _ in clock.pilot.told if flight is sound] == list(range(len(AGES)))


def test_a_grace_is_over_when_it_was_said_and_not_for_who_is_done():
    clock = Clock()
    first, second, done = (clock.flight(0.0) for _ in range(3))
    clock.timers.consider_at(first, 0.2)
    clock.timers.consider_at(second, 0.05)
    clock.timers.consider_at(done, 0.1)
    done.done = True
    clock.run(0.3)

    assert [(flight is first, now) for flight, now in clock.pilot.considered] == [
        (False, 0.05),
        (True, 0.2),
    ]
