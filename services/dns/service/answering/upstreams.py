"""One server of an upstream, asked from one Pod over a few connected sockets.

Connected: the kernel drops what comes from elsewhere. A few, replaced as they are used: the port, like the ID,
is not to be guessed, and a socket per query would cost as much as the rest of the query.
"""

import errno
import socket
from typing import NamedTuple

from schemas.state import Upstream
from services.dns.core.health import Health
from services.dns.core.queries import MAX_DATAGRAM
from services.dns.core.ranking import is_reply, is_reply_to
from services.dns.model import CLUSTER
from services.dns.service.answering.flights import Flight
from services.dns.service.answering.opening import family_of
from services.dns.service.answering.outlet import Outlet

_PORTS = 4
_REPLACE_SECONDS = 5.0
_RETIRED_SECONDS = 10.0  # past the budget of its queries: late answers show who is alive
_IDLE_SECONDS = 30.0
_REOPEN_SECONDS = 0.3
_BURST = 32  # packets per wake-up: others wait, too
# Of this packet, or of this moment: the socket is as good as before, and the next retransmission tries again.
_THIS_SEND_ONLY = frozenset({errno.EMSGSIZE, errno.EPERM, errno.ENOBUFS, errno.ENOMEM})


class Asked:
    """One packet to a server that may still be answered."""

    __slots__ = ("flight", "id", "index", "port", "sent", "sent_at")

    def __init__(
        self, flight: Flight, index: int, *, port: "Port", new_id: bytes, now: float
    ) -> None:
        self.flight = flight
        self.index = index
        self.port = port
        self.id = new_id
        self.sent = hash(flight.query.sent)  # not the bytes: this outlives the query
        self.sent_at = now

    def forget(self) -> None:
        self.port.pending.pop(self.id, None)


class Port:
    """A connected socket and what is asked from it."""

    __slots__ = ("family", "number", "pending", "retired_at", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.family: int = sock.family
        self.number: int = sock.getsockname()[1]
        self.retired_at = 0.0
        self.pending: dict[bytes, Asked] = {}

    def has_sent(self, packet: bytes) -> bool:
        asked = self.pending.get(packet[:2])
        return asked is not None and asked.sent == hash(packet[2:])


class Where(NamedTuple):
    """What makes a server the same one in another profile."""

    address: str
    via: str  # interface, or `cluster`


def places(upstream: Upstream) -> list[Where]:
    """The servers of an upstream; what is no address is none."""
    via = CLUSTER if upstream.name == CLUSTER else upstream.interface
    return [Where(server, via) for server in upstream.servers if family_of(server) is not None]


class Server:
    """A server as this Pod reaches it. Nothing here raises for what the network does."""

    def __init__(self, outlet: Outlet, where: Where, *, family: int, kind: str) -> None:
        self.where = where
        self.family = family
        self.kind = kind  # for the figures
        self.health = Health()
        self._outlet = outlet
        self._engine = outlet.engine
        self._ports: list[Port] = []
        self._retired: list[Port] = []
        self._opened_at = 0.0
        self._used_at = 0.0
        self._reopen_at = 0.0
        self._closed = False

    def ask(self, flight: Flight, index: int, now: float) -> None:
        """Send the flight's query; a server that cannot be sent to is suspect."""
        for _ in range(2):  # the sockets may be those of an interface that was made anew
            port = None if self._closed else self._port(now)
            if port is None:
                self.health.unreachable()
                return
            new_id = self._engine.new_id()
            while new_id in port.pending:
                new_id = self._engine.new_id()
            if self._sent(port, new_id + flight.query.sent):
                self._used_at = now
                asked = Asked(flight, index, port=port, new_id=new_id, now=now)
                port.pending[new_id] = asked
                flight.asked.append(asked)
                return

    def sweep(self, now: float) -> bool:
        """Close what is unused or retired; False: nothing is open."""
        if self._ports and now - self._used_at > _IDLE_SECONDS:
            for port in list(self._ports):
                self._discard(port)
        for port in [p for p in self._retired if now - p.retired_at > _RETIRED_SECONDS]:
            self._discard(port)
        return bool(self._ports or self._retired)

    def close(self) -> None:
        """Also forget what is on its way: the flights learn it. No flight opens it again."""
        now = self._engine.loop.time()
        self._closed = True
        self.health.unreachable()
        lost = [a for port in [*self._ports, *self._retired] for a in port.pending.values()]
        for port in [*self._ports, *self._retired]:
            self._discard(port)
        for asked in lost:
            asked.flight.lost(asked.index, now)

    def _port(self, now: float) -> Port | None:
        ports = self._ports
        if len(ports) < _PORTS or now - self._opened_at > _REPLACE_SECONDS:
            if now >= self._reopen_at:
                self._open(now)
            if len(ports) > _PORTS:
                oldest = ports.pop(0)
                oldest.retired_at = now
                self._retired.append(oldest)
        return ports[self._engine.new_id()[0] % len(ports)] if ports else None

    def _open(self, now: float) -> None:
        try:
            sock = self._outlet.connected(
                self.where.address, family=self.family, kind=socket.SOCK_DGRAM, via=self.where.via
            )
        except OSError:
            self._reopen_at = now + _REOPEN_SECONDS
            self._engine.figures.trouble("no socket to an upstream")
            return
        port = Port(sock)
        self._ports.append(port)
        self._opened_at = self._used_at = now
        self._outlet.datagram_ports[port.family, port.number] = port
        self._engine.loop.add_reader(sock.fileno(), self._readable, port)
        self._outlet.keep_swept()

    def _discard(self, port: Port) -> None:
        for held in (self._ports, self._retired):
            if port in held:
                held.remove(port)
        if port.sock.fileno() >= 0:
            self._engine.loop.remove_reader(port.sock.fileno())
            self._outlet.datagram_ports.pop((port.family, port.number), None)
            port.sock.close()
        port.pending.clear()

    def _sent(self, port: Port, packet: bytes) -> bool:
        for _ in range(2):  # the first error may be the last packet's
            try:
                port.sock.send(packet)
            except BlockingIOError:
                return True  # the retransmission is for this, too
            except ConnectionRefusedError:
                self.health.unreachable()
                continue
            except OSError as exc:
                if exc.errno not in _THIS_SEND_ONLY:
                    break
                self._engine.figures.trouble("query could not be sent")
            return True
        self._failed(port)
        return False

    def _readable(self, port: Port) -> None:
        now = self._engine.loop.time()
        for _ in range(_BURST):
            try:
                packet = port.sock.recv(MAX_DATAGRAM + 1)
            except BlockingIOError:
                return
            except OSError as exc:
                self._failed(port, refused=exc.errno == errno.ECONNREFUSED)
                return
            self._received(port, packet, now)
            if port.sock.fileno() < 0:  # what it brought closed this Pod's resolver
                return

    def _received(self, port: Port, packet: bytes, now: float) -> None:
        if is_reply(packet):
            self.health.alive(now)
        asked = port.pending.get(packet[:2])
        if asked is None or len(packet) > MAX_DATAGRAM:
            self._engine.figures.trouble("unexpected packet of an upstream")
            return
        if not is_reply_to(packet, asked.flight.query):
            self._engine.figures.trouble("reply to another question")
            return
        del port.pending[packet[:2]]
        self.health.answered(now - asked.sent_at, now=now)
        asked.flight.answered(asked.index, packet)

    def _failed(self, port: Port, *, refused: bool = False) -> None:
        """Nobody is there; or, if not even refused, no way leads there, and no socket of ours will find one."""
        now, failed = (
            self._engine.loop.time(),
            [port] if refused else [*self._ports, *self._retired],
        )
        waiting = [asked for each in failed for asked in each.pending.values()]
        self.health.unreachable()
        self._engine.figures.trouble("upstream is unreachable")
        if not refused:
            for each in failed:
                self._discard(each)
        for asked in waiting:
            asked.flight.troubled(now)
