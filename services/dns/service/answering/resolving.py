"""The queries of one Pod, from a client's packet to its reply.

Equal packets share one flight: fewer queries, and no birthday attack on the IDs. Every upstream in scope is
asked at the same moment; `core.ranking` says what wins. A cache has its place in `take`, before a flight starts.
"""

from services.dns.core import queries, ranking, replies, searching
from services.dns.core.ranking import Rank
from services.dns.model import Profile
from services.dns.service.answering.flights import Flight, Waiter
from services.dns.service.answering.outlet import Outlet
from services.dns.service.answering.plans import Plans
from services.dns.service.answering.streamed import StreamAsked


class Resolving:
    """One Pod's flights."""

    def __init__(self, outlet: Outlet, profile: Profile) -> None:
        self._outlet = outlet
        self._engine = outlet.engine
        self._limits = outlet.engine.limits
        self._plans = Plans(outlet, profile)
        # By transport and packet behind the ID.
        self._flights: dict[tuple[bool, bytes], Flight] = {}

    def replace(self, profile: Profile) -> None:
        """Ask others from now on."""
        self._plans.replace(profile)

    def take(self, packet: bytes, waiter: Waiter, *, streaming: bool) -> bool:
        """Reply to a client's packet, now or later, exactly once; False: never."""
        key = (streaming, packet[2:])
        flight = self._flights.get(key)
        if flight is not None:
            return self._join(flight, waiter)
        plan = self._plans.plan_for(packet)
        if isinstance(plan, queries.Fault):
            return self._reject(packet, waiter, plan)
        if len(self._flights) >= self._limits.in_flight:
            self._engine.figures.trouble("too many queries in flight")
            return False
        now = self._engine.loop.time()
        flight = Flight(self, plan.query, servers=plan.servers, now=now)
        flight.key, flight.streaming = key, streaming
        flight.waiters.append(waiter)
        self._flights[key] = flight
        self._launch(flight, now)
        return True

    def sweep(self, now: float) -> bool:
        """Let go of idle sockets; False: none is open."""
        return self._plans.sweep(now)

    def close(self) -> None:
        for flight in self._flights.values():
            for each in (flight, *flight.children):
                each.finish()
                each.forget()
                each.lighten()
        self._flights.clear()
        self._plans.close()

    def _join(self, flight: Flight, waiter: Waiter) -> bool:
        if len(flight.waiters) >= self._limits.waiters:
            self._engine.figures.trouble("too many clients of one query")
            return False
        flight.waiters.append(waiter)
        return True

    def _reject(self, packet: bytes, waiter: Waiter, fault: queries.Fault) -> bool:
        self._engine.figures.trouble("not a query we ask on")
        if fault is queries.Fault.NOTHING:
            return False
        send, address, client_id = waiter
        send(client_id + replies.to_fault(packet, fault), address)
        return True

    def _launch(self, flight: Flight, now: float) -> None:
        for index, server in enumerate(flight.servers):
            server.ask(flight, index, now)
        self._engine.watch(flight, now)
        if not flight.servers:
            self.consider(flight, now)

    def heard(self, flight: Flight, index: int, reply: bytes, *, whole: bool) -> None:
        """A server replied. For a client over TCP half a reply is none: it is asked again, over TCP."""
        if flight.streaming and not whole and ranking.is_truncated(reply):
            self._ask_streamed(flight, index)
            return
        rank = ranking.rank_of(reply, flight.query)
        self._engine.figures.answer(flight.servers[index].kind, rank.name.lower())
        if flight.decision.heard(index, rank, reply):
            self._finish(flight)
        else:
            self.consider(flight, self._engine.loop.time())

    def failed(self, flight: Flight, index: int) -> None:
        """A server that has an answer did not get it through."""
        flight.decision.heard(index, Rank.SERVFAIL, b"")
        self.consider(flight, self._engine.loop.time())

    def consider(self, flight: Flight, now: float) -> None:
        """End a flight to which nobody owes an answer, or only servers whose grace is over."""
        decision = flight.decision
        if not decision.outstanding:
            self._settle(flight, now)
        elif decision.may_end(flight.suspects()):
            until = flight.sent_at + flight.grace_seconds()
            if until <= now:
                self._settle(flight, now)
            else:
                if flight.grace is not None:
                    flight.grace.cancel()
                flight.grace = self._engine.loop.call_at(until, self._grace_over, flight)

    def retransmit(self, flight: Flight, now: float) -> None:
        owing = flight.decision.outstanding & ~flight.heard
        for index, server in enumerate(flight.servers):
            if owing >> index & 1:
                server.ask(flight, index, now)

    def end(self, flight: Flight, now: float) -> None:
        """Give what there is; where nothing was heard, search, and go on waiting."""
        if flight.parent is not None or flight.decision.rank is not Rank.NOTHING:
            self._settle(flight, now)
        elif not flight.children:
            self._search(flight, now)

    def last(self, flight: Flight) -> None:
        """Give what there is, also of a search."""
        self._search_ended(flight, over=True)

    def _grace_over(self, flight: Flight) -> None:
        if not flight.done:  # a server may have healed meanwhile
            self.consider(flight, self._engine.loop.time())

    def _ask_streamed(self, flight: Flight, index: int) -> None:
        if flight.streamed >> index & 1:
            return
        flight.streamed |= 1 << index
        if self._outlet.streams_open < self._limits.tcp_asking:
            try:
                flight.streams.append(
                    StreamAsked(self._outlet, flight.servers[index], flight, index)
                )
                return
            except OSError:
                pass
        self._engine.figures.trouble("upstream failed over TCP")
        self.failed(flight, index)

    def _settle(self, flight: Flight, now: float) -> None:
        """No positive answer came: search, where the name may be short for another, or give what there is."""
        if flight.children:
            self._search_ended(flight)
        elif flight.parent is not None or not self._search(flight, now):
            self._finish(flight)

    def _search(self, flight: Flight, now: float) -> bool:
        if flight.decision.rank is Rank.ALIAS:
            return False
        children = flight.children
        for plan in self._plans.searches(flight.query):
            child = Flight(self, plan.query, servers=plan.servers, now=now)
            child.parent, child.streaming = flight, flight.streaming
            children.append(child)
        for child in children:
            self._launch(child, now)
        return bool(children)

    def _search_ended(self, flight: Flight, *, over: bool = False) -> None:
        """The first search domain with a positive answer wins, not the quickest one."""
        for child in flight.children:
            if not child.done:
                if over:
                    continue
                return
            if child.decision.rank is Rank.POSITIVE:
                body = searching.aliased(child.decision.best, flight.query, child.query)
                self._finish(flight, body, outcome="searched")
                return
        decision = flight.decision
        if over or decision.rank is not Rank.NOTHING or not decision.outstanding:
            self._finish(flight)

    def _finish(self, flight: Flight, body: bytes | None = None, *, outcome: str = "") -> None:
        flight.finish()
        if flight.parent is not None:
            if not flight.parent.done:
                self._search_ended(flight.parent)
            return
        self._flights.pop(flight.key, None)
        query, rank = flight.query, flight.decision.rank
        if body is None:
            best = flight.decision.best
            body = replies.from_upstream(best, query) if best else replies.failure(query)
        body = replies.untruncated(body) if flight.streaming else replies.fitted(body, query)
        waiters, transport = flight.waiters, "tcp" if flight.streaming else "udp"
        flight.waiters = []
        flight.lighten()
        for send, address, client_id in waiters:
            self._engine.figures.query(transport, outcome or rank.name.lower())
            send(client_id + body, address)
