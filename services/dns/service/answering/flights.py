"""One question on its way: who was asked, who waits for it, what is known."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from services.dns.core.queries import Query
from services.dns.core.ranking import Decision

if TYPE_CHECKING:
    from services.dns.service.answering.upstreams import Server

# Takes a whole message and where it goes: `send(message, address)`. With the two bytes of the client's ID.
Waiter = tuple[Callable[[bytes, Any], None], Any, bytes]


class Forgettable(Protocol):
    """Something asked that may still be answered."""

    def forget(self) -> None: ...


class Stream(Forgettable, Protocol):
    """One of these that holds a connection."""

    def close(self) -> None:
        """Close the connection; also twice. That it was ours is known until `forget`."""


class Pilot(Protocol):
    """Who decides about a flight, until it is done."""

    def heard(self, flight: "Flight", index: int, reply: bytes, *, whole: bool) -> None:
        """Server `index` replied; the reply is checked to be one. `whole`: no datagram cut it off."""

    def failed(self, flight: "Flight", index: int) -> None:
        """Server `index` has an answer and could not give it."""

    def consider(self, flight: "Flight", now: float) -> None:
        """Whether the flight need not wait any more: a server became suspect, or is lost."""

    def retransmit(self, flight: "Flight", now: float) -> None: ...
    def end(self, flight: "Flight", now: float) -> None:
        """No better answer is waited for."""

    def last(self, flight: "Flight") -> None:
        """No answer is waited for: the flight ends in this call."""


class Flight:
    """Lives for the whole budget, also after its answer, but light: late answers tell who is well."""

    __slots__ = (
        *("_pilot", "query", "servers", "sent_at", "decision", "heard", "streamed"),
        *("asked", "streams"),
        *("waiters", "key", "streaming", "children", "parent", "grace", "done"),
    )

    def __init__(
        self, pilot: Pilot, query: Query, *, servers: "tuple[Server, ...]", now: float
    ) -> None:
        self._pilot = pilot
        self.query = query
        self.servers = servers
        self.sent_at = now
        self.decision = Decision(len(servers))
        self.heard = 0  # bit per server that ever replied
        self.streamed = 0  # bit per server that was asked again over TCP
        self.asked: list[Forgettable] = []
        self.streams: list[Stream] = []
        self.waiters: list[Waiter] = []
        self.key = (False, b"")
        self.streaming = False  # its clients came over TCP
        self.children: list[Flight] = []  # the same label below search domains
        self.parent: Flight | None = None
        self.grace: asyncio.TimerHandle | None = None
        self.done = False

    def answered(self, index: int, reply: bytes, *, whole: bool = False) -> None:
        self.heard |= 1 << index
        if not self.done:
            self._pilot.heard(self, index, reply, whole=whole)

    def failed(self, index: int) -> None:
        if not self.done:
            self._pilot.failed(self, index)

    def lost(self, index: int, now: float) -> None:
        """Nothing will come from this server for this flight."""
        if not self.done:
            self.decision.lost(index)
            self._pilot.consider(self, now)

    def troubled(self, now: float) -> None:
        """A server that was asked became suspect."""
        if not self.done:
            self._pilot.consider(self, now)

    def retransmit(self, now: float) -> None:
        if not self.done:
            self._pilot.retransmit(self, now)

    def silence(self, now: float) -> None:
        for index, server in enumerate(self.servers):
            if not self.heard >> index & 1:
                server.health.unanswered(asked_at=self.sent_at, now=now)
        self.troubled(now)

    def end(self, now: float) -> None:
        if not self.done:
            self._pilot.end(self, now)
        if self.done:
            self.forget()

    def last(self) -> None:
        if not self.done:
            self._pilot.last(self)
        self.forget()

    def finish(self) -> None:
        """Nothing more will be decided, here or by the children."""
        self.done = True
        if self.grace is not None:
            self.grace.cancel()
        for stream in self.streams:
            stream.close()
        for child in self.children:
            child.finish()
            child.lighten()
        self.children = []

    def lighten(self) -> None:
        """Keep only what tells a late answer: very many finished flights wait for theirs."""
        self.query = msgspec.structs.replace(self.query, sent=b"")
        self.decision.best = b""
        self.waiters.clear()
        self.key = (False, b"")

    def forget(self) -> None:
        """No late answer is waited for any more."""
        for asked in (*self.asked, *self.streams):
            asked.forget()
        self.asked.clear()
        self.streams.clear()

    def suspects(self) -> int:
        """A bit per server that nobody has to wait for."""
        mask = 0
        for index, server in enumerate(self.servers):
            mask |= server.health.suspect << index
        return mask

    def grace_seconds(self) -> float:
        """How long after the query the outstanding servers are waited for, if all are suspect."""
        outstanding = self.decision.outstanding
        return max(
            (s.health.grace_seconds for i, s in enumerate(self.servers) if outstanding >> i & 1),
            default=0.0,
        )
