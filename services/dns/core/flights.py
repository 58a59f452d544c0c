"""One question on its way: who was asked, who still owes an answer, what is the best one so far."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from services.dns.core.queries import Query
from services.dns.core.ranking import NOTHING, Rank

if TYPE_CHECKING:
    from services.dns.core.servers import Server

# Takes a whole message and where it goes: `send(message, address)`. With the two bytes of the client's ID.
Waiter = tuple[Callable[[bytes, Any], None], Any, bytes]
# Who is asked, each with its bit: the first is 1.
Asked = tuple[tuple["Server", int], ...]


_LARGE_BYTES = 512  # of a query
_NOBODY: list[Waiter] = []
_FAILURE = Rank.SERVFAIL


class Stream(Protocol):
    """Asks a server over TCP for one flight."""

    def close(self) -> None:
        """Close the connection; also twice."""


class Pilot(Protocol):
    """Who decides about flights. Bits say which server."""

    def heard(self, flight: "Flight", bit: int, rank: Rank, reply: bytes, now: float) -> None:
        """A server replied to a flight that is not done; with no bytes: it has a reply and could not give it."""

    def cut_off(self, flight: "Flight", bit: int, now: float) -> None:
        """A server has a reply that does not fit a datagram, and the clients want all of it."""

    def lost(self, flight: "Flight", bit: int, now: float) -> None:
        """Nothing will come from this server for this flight."""

    def consider(self, flight: "Flight", now: float) -> None:
        """Whether the flight need not wait any more: a server became suspect, or its grace is over."""

    def reached(self, flight: "Flight", age: int, now: float) -> None:
        """The flight grew as old as `timers.AGES[age]`, and is not done or not heard of by all."""


class Flight(msgspec.Struct, eq=False, dict=False):
    """Kept until all have answered, or for its whole budget: late answers tell who is well."""

    pilot: Pilot
    query: Query
    asked: Asked
    sent_at: float
    owing: int  # bits: may still bring a better answer
    unheard: int  # bits: never replied
    key: bytes = b""
    waiters: list[Waiter] = []
    rank: Rank = NOTHING
    best: bytes = b""
    best_bit: int = 0
    done: bool = False
    streaming: bool = False  # its clients came over TCP
    streamed: int = 0  # bits: was asked again over TCP
    streams: list[Stream] | None = None
    children: "tuple[Flight, ...]" = ()  # the same label below search domains
    parent: "Flight | None" = None
    grace_until: float = 0.0
    unsure: bool = False  # a server failed that may have known better
    sent_hash: int = 0  # of a large query that is done and holds no bytes

    def ranked(self, bit: int, rank: Rank, reply: bytes) -> None:
        """A server answered, not positively. Of equal answers that of the server named first counts."""
        self.owing &= ~bit
        if rank > self.rank or (rank == self.rank and bit < self.best_bit):
            self.rank, self.best_bit, self.best = rank, bit, reply
        if rank <= _FAILURE:
            self.unsure = True

    def has_sent(self, behind_id: bytes) -> bool:
        """Whether this is what servers were asked."""
        if self.sent_hash:
            return hash(behind_id) == self.sent_hash
        return behind_id == self.query.sent

    def grace_seconds(self) -> float:
        """How long after the query the owing servers are waited for, if all are suspect."""
        owing = (server.health for server, bit in self.asked if self.owing & bit)
        return max((health.grace_seconds for health in owing), default=0.0)

    def lighten(self) -> None:
        """Keep only what tells a late answer: very many finished flights wait for theirs."""
        self.best = self.key = b""
        self.waiters = _NOBODY
        if self.unheard and len(self.query.sent) > _LARGE_BYTES and not self.sent_hash:
            self.sent_hash = hash(self.query.sent) or 1
            self.query = msgspec.structs.replace(self.query, sent=b"")
