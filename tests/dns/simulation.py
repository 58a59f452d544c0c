"""One Pod's resolver without sockets or a clock: servers with scripts, time that jumps to what comes next."""

import heapq
import itertools
import random
from collections.abc import Callable
from typing import Any, NamedTuple

from services.dns.core.flights import Flight
from services.dns.core.ranking import Rank
from services.dns.core.resolving import Resolver
from services.dns.core.servers import Lane, Server, Where
from services.dns.core.shared import Shared
from services.dns.model import Limits, Profile


class Sent(NamedTuple):
    """What a server is sent: `answer(seconds, packet)` replies later, `lane` is the socket it came over."""

    address: str
    packet: bytes
    transport: str
    answer: Callable[[float, bytes], None]
    lane: int
    again: int  # how often this server saw this question before


class Answered(NamedTuple):
    at: float
    message: bytes
    client: Any


class _Stream:
    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class _Ports:
    """Two sockets towards one server."""

    def __init__(self, simulation: "Simulation", server: Server) -> None:
        self._simulation = simulation
        self._server = server
        self.all = [self._lane(0), self._lane(1)]

    def _lane(self, number: int) -> Lane:
        def failed(packet: bytes, exc: OSError) -> bool:
            self._simulation.refusals += 1
            self._server.unreachable(self.all, self._simulation.now)
            return True

        return Lane(lambda packet: self._simulation.sent(self._server, number, packet), failed)

    def lane(self, now: float) -> Lane:
        return self.all[int(now * 1e6) % 2]

    def lanes(self) -> list[Lane]:
        return self.all

    def stream(self, flight: Flight, bit: int) -> _Stream:
        stream = _Stream()
        self._simulation.streamed(self._server, flight, bit, stream)
        return stream

    def sweep(self, now: float) -> bool:
        return True

    def close(self) -> None:
        self.all = []


class Simulation:
    """`script` is called for every packet that a server gets."""

    def __init__(
        self, profile: Profile, script: Callable[[Sent], None], *, limits: Limits | None = None
    ) -> None:
        self.now = 100.0
        self.script = script
        self.answers: list[Answered] = []
        self.refusals = 0
        self.dead: set[str] = set()  # sending to these is refused
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.seen: dict[tuple[str, bytes], int] = {}  # how often; by server and question
        self.shared = Shared(
            limits or Limits(),
            on_due=lambda when: self.at(when, self._tick),
            random_bytes=random.Random(1).randbytes,
        )
        self.tally = self.shared.tally
        self.resolver = Resolver(profile, shared=self.shared, new_server=self._new_server)

    def _new_server(self, where: Where, kind: str) -> Server:
        return Server(
            where, kind=kind, shared=self.shared, ports=lambda server: _Ports(self, server)
        )

    def at(self, when: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), action))

    def ask(self, packet: bytes, client: Any = None, *, streaming: bool = False) -> bool:
        return self.resolver.take(
            packet, (self._answered, client, packet[:2]), self.now, streaming=streaming
        )

    def run(self, seconds: float = 10.0, *, until: Callable[[], Any] = lambda: False) -> None:
        """Let time pass; the clock ends there, or where the condition came true."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end and not until():
            when, _, action = heapq.heappop(self._events)
            self.now = max(self.now, when)
            action()
        if not until():
            self.now = end

    def server(self, address: str) -> Server:
        [found] = [s for s in self.resolver.plans.servers if s.where.address == address]
        return found

    def sent(self, server: Server, lane: int, packet: bytes) -> None:
        where: Where = server.where
        if where.address in self.dead:
            raise ConnectionRefusedError
        key = (where.address, packet[2:])
        again = self.seen.get(key, 0)
        self.seen[key] = again + 1

        def answer(seconds: float, reply: bytes, lane: int = lane) -> None:
            def come() -> None:
                ports: Any = server.ports
                server.received(ports.all[lane], [reply], self.now)

            self.at(self.now + seconds, come)

        self.script(Sent(where.address, packet, "udp", answer, lane, again))

    def streamed(self, server: Server, flight: Flight, bit: int, stream: _Stream) -> None:
        def answer(seconds: float, reply: bytes) -> None:
            def come() -> None:
                if not stream.closed and reply:
                    server.streamed(flight, bit, reply, self.now)
                elif not stream.closed:
                    server.failed(flight, bit, self.now)

            self.at(self.now + seconds, come)

        packet = b"\0\0" + flight.query.sent
        self.script(Sent(server.where.address, packet, "tcp", answer, 0, 0))

    def rank(self) -> Rank:
        """Of the only flight there is."""
        return Rank(max(range(len(Rank)), key=lambda rank: self.tally.datagrams[rank]))

    def _tick(self) -> None:
        self.shared.timers.tick(self.now)

    def _answered(self, message: bytes, client: Any) -> None:
        self.answers.append(Answered(self.now, message, client))
