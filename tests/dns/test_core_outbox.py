"""Queries of one moment leave together: over one lane per server, none twice, and none is forgotten."""

import os
from collections.abc import Callable

import pytest

from services.dns.core.flights import Flight
from services.dns.core.outbox import Outbox
from services.dns.core.resolving import Resolver
from services.dns.core.servers import Lane, Server
from services.dns.core.shared import Shared
from services.dns.model import Limits
from tests.dns.upstreams import a_profile, a_query, cluster, outcome, parsed, service

A, B = "10.0.0.1", "10.0.0.2"


class Sockets:
    """One after the other; each takes `room` packets and is broken then."""

    def __init__(self, server: Server, room: int) -> None:
        self.server = server
        self.room = room
        self.sent: list[list[bytes]] = []
        self.opened: list[Lane] = []

    def lane(self, _now: float) -> Lane | None:
        sent: list[bytes] = []

        def send(packet: bytes) -> None:
            if len(sent) == self.room:
                raise OSError("broken")
            sent.append(packet)

        self.sent.append(sent)
        self.opened.append(Lane(send, self._failed))
        return self.opened[-1]

    def _failed(self, _packet: bytes, _exc: OSError) -> bool:
        self.server.unreachable([], 100.0)
        return False

    def lanes(self) -> list[Lane]:
        return self.opened

    def stream(self, _flight: Flight, _bit: int) -> None:
        return None

    def sweep(self, _now: float) -> bool:
        return True

    def close(self) -> None:
        self.opened = []


class Pod:
    """Two servers, whose sockets take so many packets."""

    def __init__(self, *, room: int = 100) -> None:
        self.sockets: dict[str, Sockets] = {}
        self.answers: list[bytes] = []
        self.shared = Shared(Limits(), on_due=lambda _: None, random_bytes=os.urandom)
        self.resolver = Resolver(
            a_profile(cluster(A), service("x", B)),
            shared=self.shared,
            new_server=lambda where, kind: Server(
                where, kind=kind, shared=self.shared, ports=self._ports(where.address, room)
            ),
        )

    def _ports(self, address: str, room: int) -> Callable[[Server], Sockets]:
        def made(server: Server) -> Sockets:
            return self.sockets.setdefault(address, Sockets(server, room))

        return made

    def ask(self, count: int) -> None:
        for number in range(count):
            packet = a_query(f"n{number}.example")
            waiter = (lambda message, _: self.answers.append(message), None, packet[:2])
            assert self.resolver.take(packet, waiter, 100.0)

    def names(self, server: str) -> list[list[str]]:
        return [
            [str(parsed(packet).q.qname) for packet in lane] for lane in self.sockets[server].sent
        ]


def expected(numbers: range) -> list[str]:
    return [f"n{number}.example." for number in numbers]


def test_while_packets_are_read_queries_gather_and_leave_over_one_lane_per_server() -> None:
    pod = Pod()
    pod.shared.outbox.hold()
    pod.ask(5)
    assert [sockets.sent for sockets in pod.sockets.values()] == [[], []]
    pod.shared.outbox.release()

    assert pod.names(A) == pod.names(B) == [expected(range(5))]
    [lane] = pod.sockets[A].opened
    assert len(lane.pending) == 5
    for packet in pod.sockets[A].sent[0]:
        assert lane.has_sent(packet)


def test_a_query_at_another_time_leaves_at_once() -> None:
    pod = Pod()
    pod.ask(2)

    assert pod.names(A) == [["n0.example."], ["n1.example."]]


def test_what_a_broken_lane_did_not_take_goes_over_the_next_one() -> None:
    pod = Pod(room=3)
    pod.shared.outbox.hold()
    pod.ask(5)
    pod.shared.outbox.release()

    assert pod.names(A) == [expected(range(3)), expected(range(3, 5))]


def test_who_waits_to_be_asked_of_a_server_that_is_given_up_is_told() -> None:
    pod = Pod()
    pod.shared.outbox.hold()
    pod.ask(1)
    for server in pod.resolver.plans.servers:
        server.close(100.0)
    pod.shared.outbox.release()

    assert [outcome(answer) for answer in pod.answers] == [("SERVFAIL", [])]
    assert [sockets.sent for sockets in pod.sockets.values()] == [[], []]


def test_a_fault_of_one_sender_is_told_and_the_others_leave_at_the_next_turn() -> None:
    class Sender:
        def __init__(self, *, broken: bool) -> None:
            self.broken, self.sent = broken, 0

        def send_waiting(self) -> None:
            if self.broken:
                raise ValueError("of one Pod")
            self.sent += 1

    outbox, broken, sound = Outbox(), Sender(broken=True), Sender(broken=False)
    outbox.hold()
    outbox.add(broken)
    outbox.add(sound)
    with pytest.raises(ValueError, match="of one Pod"):
        outbox.release()
    outbox.hold()
    outbox.release()

    assert sound.sent == 1
