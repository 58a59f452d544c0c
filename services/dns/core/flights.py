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


class Flight:
    """Kept until all have answered, or for its whole budget: late answers tell who is well."""

    __slots__ = (
        *(
            "asked",
            "best",
            "best_bit",
            "checking",
            "children",
            "done",
            "grace_until",
            "key",
            "owing",
        ),
        *("parent", "pilot", "query", "rank", "sent_at", "sent_hash", "streamed", "streaming"),
        *("streams", "unheard", "unsure", "waiters"),
    )

    def __init__(self, pilot: Pilot, query: Query, asked: Asked, sent_at: float) -> None:
        self.pilot = pilot
        self.query = query
        self.asked = asked
        self.sent_at = sent_at
        # Bits of `asked`: who may still bring a better answer, and who never replied.
        self.owing = self.unheard = (1 << len(asked)) - 1
        self.waiters = _NOBODY
        self.rank = NOTHING
        self.key = self.best = b""
        self.best_bit = 0
        self.done = False
        self.unsure = False  # a server failed that may have known better
        self.streaming = False  # its clients came over TCP
        self.streamed = 0  # bits: was asked again over TCP
        self.streams: list[Stream] | None = None
        self.children: tuple[Flight, ...] = ()  # the same label below search domains
        self.checking = False  # the children are those of the Pod's own search list
        self.parent: Flight | None = None
        self.grace_until = 0.0
        self.sent_hash = 0  # of a large query that is done and holds no bytes

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
