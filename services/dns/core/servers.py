"""One server of an upstream, asked from one Pod over a few lanes: what of its packets counts, and how it is.

A packet counts if its lane waits for its ID and it repeats the question; anything else is noted and waited past.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from services.dns.core.flights import Flight, Stream
from services.dns.core.health import Health
from services.dns.core.queries import MAX_DATAGRAM, Query, plain_answer
from services.dns.core.ranking import Rank, is_reply, is_reply_to, is_truncated, rank_of
from services.dns.core.shared import Shared
from services.dns.core.timers import RETRANSMIT, SILENCE

# `id.server`, of the class and type in which servers answer for themselves (RFC 4892); those that will not, refuse.
_PROBE_NAME = b"\2id\6server\0"
_PROBE_QUESTION = _PROBE_NAME + b"\0\x10\0\3"
_PROBE = Query(
    name=_PROBE_NAME,
    type=16,
    question=_PROBE_QUESTION,
    sent=b"\0\0\0\1\0\0\0\0\0\0" + _PROBE_QUESTION,
    room=512,
    edns=False,
    plain=plain_answer(_PROBE_QUESTION),
)
_LATE_SECONDS = 4.0  # past the budget of its query an answer still shows who is alive
# Of one lane: far more than a Pod may have in flight, far less than there are IDs, of which a free one is to be drawn.
_MOST_PENDING = 16_384
_USED_SECONDS = 5.0  # a server that nobody asks need not be watched


Asked = tuple[Flight, int, float]  # its bit for this server, and when


class Where(NamedTuple):
    """What makes a server the same one in another profile."""

    address: str
    via: str  # interface, or `cluster`


class Lane:
    """What was asked over one socket and may still be answered.

    `send` may raise OSError; then `failed` is told, and says whether the packet is not lost for that.
    """

    __slots__ = ("failed", "pending", "send")

    def __init__(
        self, send: Callable[[bytes], object], failed: Callable[[bytes, OSError], bool]
    ) -> None:
        self.send = send
        self.failed = failed
        self.pending: dict[bytes, Asked] = {}

    def has_sent(self, packet: bytes) -> bool:
        """Whether this very packet left from here and is not answered yet."""
        waiting = self.pending.get(packet[:2])
        return waiting is not None and waiting[0].has_sent(packet[2:])

    def forget_late(self, now: float) -> None:
        """What was asked too long ago."""
        before = now - _LATE_SECONDS
        self._forget(
            itertools.takewhile(lambda each: self.pending[each][2] <= before, self.pending)
        )

    def make_room(self) -> None:
        """For more IDs: of very many that wait the oldest are those of answered queries, and of a silent server."""
        self._forget(itertools.islice(self.pending, len(self.pending) // 4))

    def _forget(self, ids: Iterable[bytes]) -> None:
        # Listed first: to look for the first one after each deletion would pass over all deleted before.
        for each in list(ids):
            del self.pending[each]


class Ports(Protocol):
    """The sockets towards one server."""

    def lane(self, now: float) -> Lane | None:
        """The one to ask over at this moment; None: there is none now."""

    def stream(self, flight: Flight, bit: int) -> Stream | None:
        """Ask over TCP; ends in `streamed` or `failed`. None: not now."""

    def lanes(self) -> list[Lane]:
        """All that may bring an answer."""

    def sweep(self, now: float) -> bool:
        """Let go of what is idle; False: nothing is open."""

    def close(self) -> None: ...


class Server:
    """A server as one Pod reaches it."""

    __slots__ = (
        *(
            "_answers",
            "_asked_at",
            "_chosen_at",
            "_closed",
            "_ids",
            "_lane",
            "_probing",
            "_ready",
            "_tally",
        ),
        *("_timers", "health", "kind", "ports", "said", "where"),
    )

    def __init__(
        self,
        where: Where,
        *,
        kind: str,
        shared: Shared,
        ports: "Callable[[Server], Ports]",
    ) -> None:
        self.where = where
        self.kind = kind
        self.health = Health()
        self.said: Rank | None = None  # what its latest answer was worth
        self._tally = shared.tally
        self._answers = shared.tally.answers_of(kind)
        self._ids = shared.ids
        self._ready = shared.ids.ready
        self._timers = shared.timers
        self._lane: Lane | None = None
        self._chosen_at = self._asked_at = float("-inf")
        self._probing = False
        self._closed = False
        self.ports = ports(self)

    def ask(self, flight: Flight, bit: int, now: float, *, again: bool = False) -> None:
        """Send the flight's query; a server that cannot be sent to is suspect."""
        if self.health.suspect:
            self._probe(now)
        lane = self._lane if self._chosen_at == now else self._choose(now)
        if lane is None:
            self.health.unreachable()
            return
        pending, ready = lane.pending, self._ready
        new_id = ready.pop() if ready else self._ids.draw()
        while new_id in pending:
            new_id = self._ids.draw()
        pending[new_id] = (flight, bit, now)
        packet = new_id + flight.query.sent
        try:
            lane.send(packet)
        except OSError as exc:
            # Twice: the sockets may be those of an interface that was made anew.
            if not lane.failed(packet, exc) and not again:
                self.ask(flight, bit, now, again=True)

    def received(self, lane: Lane, packets: Sequence[bytes], now: float) -> None:
        """Packets came over a lane."""
        pending, answers, told = lane.pending, self._answers, False
        for packet in packets:
            found = pending.pop(packet[:2], None)
            if found is None:
                self._unexpected(packet, now, "unexpected packet of an upstream")
                continue
            flight, bit, sent_at = found
            if told and flight.done:
                # Most answers come after the one that won: this is all they may cost.
                flight.unheard &= ~bit
                continue
            query = flight.query
            if len(packet) > MAX_DATAGRAM or (
                not (
                    packet.startswith(query.question, 12)
                    and packet[2] & 0xF8 == 0x80
                    and packet[4:6] == b"\0\1"
                )
                and not is_reply_to(packet, query)
            ):
                pending[packet[:2]] = (
                    found  # the right one may still come; it counts as young again
                )
                self._unexpected(packet, now, "reply to another question")
                continue
            pilot = flight.pilot
            if pilot is self:
                self._probed(flight, answered=True, now=now)
                continue
            if not told:  # of packets that came together one tells enough
                told = True
                self.health.answered(now - sent_at, now)
            flight.unheard &= ~bit
            if flight.done:
                continue
            if flight.streaming and is_truncated(packet):
                pilot.cut_off(flight, bit, now)
                continue
            rank = self.said = rank_of(packet, query)
            answers[rank] += 1
            pilot.heard(flight, bit, rank, packet, now)

    def streamed(self, flight: Flight, bit: int, message: bytes, now: float) -> None:
        """A whole message with the right ID came over TCP."""
        if not is_reply_to(message, flight.query):
            self.failed(flight, bit, now)
        elif not flight.done:
            rank = self.said = rank_of(message, flight.query)
            self._answers[rank] += 1
            flight.pilot.heard(flight, bit, rank, message, now)

    def failed(self, flight: Flight, bit: int, now: float) -> None:
        """It has an answer and could not give it over TCP."""
        self._tally.troubled("upstream failed over TCP")
        if not flight.done:
            flight.pilot.heard(flight, bit, Rank.SERVFAIL, b"", now)

    def unreachable(self, lanes: list[Lane], now: float) -> None:
        """The kernel says that nobody is there, or that no way leads there, of these lanes."""
        self._tally.troubled("upstream is unreachable")
        self._chosen_at = float("-inf")
        self.health.unreachable()
        self._consider(lanes, now)

    def unanswered(self, flight: Flight, now: float) -> None:
        """A client's query got nothing from it for a second."""
        before = self.health.state
        self.health.unanswered(asked_at=flight.sent_at, now=now)
        self._probe(now)
        if self.health.state is not before:
            self._consider(self.ports.lanes(), now)

    def sweep(self, now: float) -> bool:
        """Let go of what is idle or too late; False: nothing is left."""
        for lane in self.ports.lanes():
            lane.forget_late(now)
        return self.ports.sweep(now)

    def close(self, now: float) -> None:
        """Nobody asks it any more; the flights learn it."""
        self._closed = True
        self.health.unreachable()
        lanes = self.ports.lanes()
        waiting = [each for lane in lanes for each in lane.pending.values()]
        for lane in lanes:
            lane.pending.clear()
        self._chosen_at = float("-inf")
        self.ports.close()
        for flight, bit, _ in waiting:
            flight.pilot.lost(flight, bit, now)

    def _choose(self, now: float) -> Lane | None:
        """One for all queries of this moment: as hard to guess, and fewer sockets to be woken for."""
        lane = self._lane = None if self._closed else self.ports.lane(now)
        self._chosen_at = self._asked_at = now
        if lane is not None and len(lane.pending) > _MOST_PENDING:
            lane.make_room()
        return lane

    def _unexpected(self, packet: bytes, now: float, what: str) -> None:
        if is_reply(packet):
            self.health.alive(now)
        self._tally.troubled(what)

    def _consider(self, lanes: list[Lane], now: float) -> None:
        for flight, _, _ in [each for lane in lanes for each in lane.pending.values()]:
            flight.pilot.consider(flight, now)

    # Probes are flights of our own: nobody waits for them.

    def _probe(self, now: float) -> None:
        if self._probing or self._closed or not self.health.doubtful:
            return
        self._probing = True
        probe = Flight(self, _PROBE, ((self, 1),), now)
        self._timers.watch(probe)
        self._send_probe(probe, now)

    def _send_probe(self, probe: Flight, now: float) -> None:
        lane = None if self._closed else self.ports.lane(now)
        if lane is None:
            return
        new_id = self._ids.draw()
        if new_id not in lane.pending:
            lane.pending[new_id] = (probe, 1, now)
            try:
                lane.send(new_id + _PROBE.sent)
            except OSError as exc:
                lane.failed(new_id + _PROBE.sent, exc)

    def _probed(self, probe: Flight, *, answered: bool, now: float) -> None:
        probe.unheard = 0
        if probe.done:
            return
        probe.done, self._probing = True, False
        before = self.health.state
        self.health.probed(answered=answered, now=now)
        if self.health.state is not before:
            self._consider(self.ports.lanes(), now)
        if self.health.suspect and not answered and now - self._asked_at < _USED_SECONDS:
            self._probe(now)

    def heard(self, flight: Flight, bit: int, rank: Rank, reply: bytes, now: float) -> None: ...
    def cut_off(self, flight: Flight, bit: int, now: float) -> None: ...
    def lost(self, flight: Flight, bit: int, now: float) -> None: ...
    def consider(self, flight: Flight, now: float) -> None: ...

    def reached(self, flight: Flight, age: int, now: float) -> None:
        """A probe grew older."""
        if age == RETRANSMIT:
            self._send_probe(flight, now)
        elif age == SILENCE:
            self._probed(flight, answered=False, now=now)
