"""The queries of one Pod, from a client's packet to its reply: a state machine that time and packets drive.

Equal packets share one flight: fewer queries, and no birthday attack on the IDs. Every server in scope is
asked at the same moment; `ranking` says what wins. Whoever drives it gives the time, hands over what comes
(`take`, `Server.received`), ticks the timers, and sends what it is told to.
"""

from collections.abc import Callable

from services.dns.core import queries, replies, searching, timers
from services.dns.core.cache import Cache
from services.dns.core.flights import Flight, Waiter
from services.dns.core.plans import Plans, Search
from services.dns.core.queries import Fault, Query
from services.dns.core.ranking import NODATA, NOTHING, POSITIVE, Rank
from services.dns.core.servers import Server, Where
from services.dns.core.shared import Shared
from services.dns.core.tally import CACHED, SEARCHED
from services.dns.model import Profile

_ALIAS = Rank.ALIAS
_DENIALS = frozenset({Rank.NXDOMAIN, Rank.REFUSED})


class Resolver:
    """One Pod's flights. `shared` is what all Pods of a node have in common."""

    def __init__(
        self,
        profile: Profile,
        *,
        shared: Shared,
        new_server: Callable[[Where, str], Server],
    ) -> None:
        self._readings = shared.readings
        self._timers = shared.timers
        self._tally = shared.tally
        self._limits = limits = shared.limits
        self.plans = Plans(profile, shared.scopes, new_server)
        self._cache = Cache(limits.cached) if limits.cached else None
        self._datagrams: dict[bytes, Flight] = {}  # by packet behind the ID
        self._streams: dict[bytes, Flight] = {}  # of clients over TCP

    @property
    def in_flight(self) -> int:
        return len(self._datagrams) + len(self._streams)

    def replace(self, profile: Profile, now: float) -> None:
        """Ask others from now on; queries on their way end with what they have asked."""
        if self._cache is not None:
            self._cache.clear()
        self.plans.replace(profile, now)

    def take(self, packet: bytes, waiter: Waiter, now: float, *, streaming: bool = False) -> bool:
        """Reply to a client's packet, now or later, exactly once; False: never."""
        behind_id = packet[2:]
        flights = self._streams if streaming else self._datagrams
        flight = flights.get(behind_id)
        if flight is not None:
            return self._join(flight, waiter)
        query = self._readings.find(behind_id)
        if query is None:
            read = self._readings.read(packet)
            if isinstance(read, Fault):
                return self._reject(packet, waiter, read)
            query = read
        if self._cache is not None and (body := self._cache.find(behind_id, now)):
            self._hit(body, query, waiter, streaming=streaming)
            return True
        if len(flights) >= self._limits.in_flight:
            self._tally.troubled("too many queries in flight")
            return False
        asked = self.plans.asked_for(query)
        flight = flights[behind_id] = Flight(self, query, asked, now)
        flight.key, flight.waiters, flight.streaming = behind_id, [waiter], streaming
        self._launch(flight, now)
        return True

    def sweep(self, now: float) -> bool:
        """Let go of idle sockets; False: none is open."""
        return self.plans.sweep(now)

    def close(self, now: float) -> None:
        """Nobody is answered any more."""
        for flight in [*self._datagrams.values(), *self._streams.values()]:
            for each in (flight, *flight.children):
                self._end(each)
        self._datagrams.clear()
        self._streams.clear()
        self.plans.close(now)

    # What flights tell.

    def heard(self, flight: Flight, bit: int, rank: Rank, reply: bytes, now: float) -> None:
        """A server replied, or could not give its reply."""
        if rank is POSITIVE:
            flight.rank, flight.best = rank, reply
            self._finish(flight, now)
            return
        flight.ranked(bit, rank, reply)
        self.consider(flight, now)

    def cut_off(self, flight: Flight, bit: int, now: float) -> None:
        """For a client over TCP half a reply is none: the server is asked again, over TCP."""
        if flight.streamed & bit:
            return
        flight.streamed |= bit
        server = next(server for server, its in flight.asked if its == bit)
        stream = server.ports.stream(flight, bit)
        if stream is None:
            server.failed(flight, bit, now)
        else:
            flight.streams = [*(flight.streams or ()), stream]

    def lost(self, flight: Flight, bit: int, now: float) -> None:
        """Nothing will come from this server."""
        if not flight.done:
            flight.owing &= ~bit
            flight.unsure = True
            self.consider(flight, now)

    def consider(self, flight: Flight, now: float) -> None:
        """End a flight to which nobody owes an answer, or only servers whose grace is over."""
        if flight.done:
            return
        owing = flight.owing
        if not owing:
            self._settle(flight, now)
            return
        if flight.rank is NOTHING:
            return
        for server, bit in flight.asked:
            if owing & bit and not server.health.suspect:
                return
        until = flight.sent_at + flight.grace_seconds()
        if until <= now:
            self._settle(flight, now)
        elif until != flight.grace_until:
            flight.grace_until = until
            self._timers.consider_at(flight, until)

    def reached(self, flight: Flight, age: int, now: float) -> None:
        """The flight grew older."""
        if age == timers.SILENCE:
            self._silence(flight, now)
        if flight.done:
            return
        if age in {timers.RETRANSMIT, timers.RETRANSMIT_AGAIN}:
            again = flight.owing & flight.unheard
            for server, bit in flight.asked:
                if again & bit:
                    server.ask(flight, bit, now)
        elif age == timers.BUDGET:
            self._budget_over(flight, now)
        elif age == timers.LAST:
            self._search_ended(flight, now, over=True)

    # How a flight ends.

    def _silence(self, flight: Flight, now: float) -> None:
        for server, bit in flight.asked:
            if flight.unheard & bit:
                server.unanswered(flight, now)
        self.consider(flight, now)

    def _budget_over(self, flight: Flight, now: float) -> None:
        """Give what there is; where nothing was heard, search, and go on waiting."""
        if flight.parent is not None or flight.rank is not NOTHING:
            self._settle(flight, now)
        elif not flight.children:
            self._search(flight, now)

    def _settle(self, flight: Flight, now: float) -> None:
        """No positive answer came: search, where the name may be short for another, or give what there is."""
        if flight.children:
            self._search_ended(flight, now)
        elif flight.parent is not None or not self._search(flight, now):
            self._finish(flight, now)

    def _search(self, flight: Flight, now: float) -> bool:
        if flight.rank is _ALIAS or not flight.query.is_single_label:
            return False
        searches = self.plans.searches(flight.query)
        own = self.plans.own_searches(flight.query) if searches else []
        flight.checking = bool(own)
        self._search_for(flight, own or searches, now)
        return bool(searches)

    def _search_for(self, flight: Flight, searches: list[Search], now: float) -> None:
        children = []
        for query, asked in searches:
            child = Flight(self, query, asked, now)
            child.parent, child.streaming = flight, flight.streaming
            children.append(child)
        flight.children = tuple(children)
        for child in children:
            if not child.done:
                self._launch(child, now)

    def _own_list_ended(self, flight: Flight, now: float, *, over: bool) -> None:
        """What it finds, or may find, is for the Pod's own resolver to ask; what it denies may be a service's."""
        ranks = {child.rank for child in flight.children if child.done}
        if over or not ranks <= _DENIALS:
            flight.unsure = True
            if over or flight.rank is not NOTHING or not flight.owing:
                self._finish(flight, now)
        elif all(child.done for child in flight.children):
            flight.checking = False
            self._search_for(flight, self.plans.searches(flight.query), now)

    def _search_ended(self, flight: Flight, now: float, *, over: bool = False) -> None:
        """The first search domain with a positive answer wins, not the quickest one.

        Then one that knows the name but not the type: to deny the name would deny its other types, too.
        """
        if flight.parent is not None:
            self._finish(flight, now)
            return
        if flight.checking:
            self._own_list_ended(flight, now, over=over)
            return
        knows = None
        for child in flight.children:
            if not child.done:
                if over:
                    continue
                return
            if child.rank is POSITIVE:
                self._finish_searched(flight, child, now)
                return
            if knows is None and child.rank >= NODATA:
                knows = child
        if over or flight.rank is not NOTHING or not flight.owing:
            if knows is not None and flight.rank < NODATA:
                self._finish_searched(flight, knows, now)
            else:
                self._finish(flight, now)

    def _finish_searched(self, flight: Flight, child: Flight, now: float) -> None:
        body = searching.aliased(child.best, flight.query, child.query)
        if body is None:
            self._finish(flight, now)
            return
        if self._cache is not None:
            certain = child.rank is POSITIVE
            self._cache.keep(flight.key, body, flight.query, now, certain=certain)
        self._answer(flight, body, SEARCHED, now)

    def _finish(self, flight: Flight, now: float) -> None:
        """Give the clients the best answer there is; the parent, where the flight is part of a search."""
        if flight.parent is not None:
            flight.done = True
            _close_streams(flight)
            if not flight.parent.done:
                self._search_ended(flight.parent, now)
            return
        best, query = flight.best, flight.query
        body = replies.from_upstream(best, query) if best else replies.failure(query)
        if self._cache is not None:
            certain = flight.rank is POSITIVE or not (flight.owing or flight.unsure)
            self._cache.keep(flight.key, body, query, now, certain=certain)
        self._answer(flight, body, flight.rank, now)

    def _answer(self, flight: Flight, body: bytes, outcome: int, now: float) -> None:
        query, tally = flight.query, self._tally
        if flight.streaming:
            del self._streams[flight.key]
            counts, body = tally.streams, replies.untruncated(body)
        else:
            del self._datagrams[flight.key]
            counts = tally.datagrams
            if len(body) + 2 > query.room:
                body = replies.fitted(body, query)
        waiters, clients = flight.waiters, len(flight.waiters)
        flight.done = True
        if flight.streams or flight.children:
            self._end(flight)
        flight.lighten()
        counts[outcome] += clients
        tally.took(now - flight.sent_at, clients)
        for send, address, client_id in waiters:
            send(client_id + body, address)

    def _end(self, flight: Flight) -> None:
        """Nothing more will be decided, here or by the children."""
        flight.done = True
        flight.lighten()
        if flight.streams:
            _close_streams(flight)
        for child in flight.children:
            child.done = True
            child.lighten()
            _close_streams(child)

    def _launch(self, flight: Flight, now: float) -> None:
        for server, bit in flight.asked:
            server.ask(flight, bit, now)
        self._timers.watch(flight)
        if not flight.asked:
            self.consider(flight, now)

    def _join(self, flight: Flight, waiter: Waiter) -> bool:
        if len(flight.waiters) >= self._limits.waiters:
            self._tally.troubled("too many clients of one query")
            return False
        flight.waiters.append(waiter)
        return True

    def _hit(self, body: bytes, query: Query, waiter: Waiter, *, streaming: bool) -> None:
        counts = self._tally.streams if streaming else self._tally.datagrams
        counts[CACHED] += 1
        self._tally.took(0.0, 1)
        if not streaming and len(body) + 2 > query.room:
            body = replies.fitted(body, query)
        send, address, client_id = waiter
        send(client_id + body, address)

    def _reject(self, packet: bytes, waiter: Waiter, fault: queries.Fault) -> bool:
        self._tally.troubled("not a query we ask on")
        if fault is queries.Fault.NOTHING:
            return False
        send, address, client_id = waiter
        send(client_id + replies.to_fault(packet, fault), address)
        return True


def _close_streams(flight: Flight) -> None:
    for stream in flight.streams or ():
        stream.close()
