"""The sockets of one Pod towards one server: connected, a few at a time, opened when needed.

Connected: the kernel drops what comes from elsewhere. A few, replaced as they are used: the port, like the ID,
is not to be guessed, and a socket per query would cost as much as the rest of the query.
"""

import errno
import socket
from collections.abc import Callable
from functools import partial

from services.dns.core.flights import Flight
from services.dns.core.queries import MAX_DATAGRAM
from services.dns.core.servers import Lane, Server
from services.dns.service.answering.bursts import Burst
from services.dns.service.answering.opening import family_of
from services.dns.service.answering.outlet import Outlet
from services.dns.service.answering.streamed import StreamAsked

_PORTS = 4
_REPLACE_SECONDS = 5.0
_RETIRED_SECONDS = 10.0  # past the budget of its queries: late answers show who is alive
_IDLE_SECONDS = 30.0
_REOPEN_SECONDS = 0.3
# Of this packet, or of this moment: the socket is as good as before, and the next retransmission tries again.
_THIS_SEND_ONLY = frozenset({errno.EMSGSIZE, errno.EPERM, errno.ENOBUFS, errno.ENOMEM})


class Port:
    """A connected socket and its lane."""

    __slots__ = ("burst", "lane", "number", "retired_at", "sock")

    def __init__(
        self, sock: socket.socket, failed: "Callable[[Port, bytes, OSError], bool]"
    ) -> None:
        self.sock = sock
        self.number: int = sock.getsockname()[1]
        self.retired_at = 0.0
        self.lane = Lane(sock.send, partial(failed, self))
        self.burst = Burst()


class UpstreamPorts:
    """Nothing here raises for what the network does."""

    def __init__(self, outlet: Outlet, server: Server) -> None:
        self._outlet = outlet
        self._engine = outlet.engine
        self._server = server
        family = family_of(server.where.address)
        assert family is not None  # plans let no other through
        self.family: int = family
        self._open_ones: list[Port] = []
        self._retired: list[Port] = []
        self._opened_at = 0.0
        self._used_at = 0.0
        self._reopen_at = 0.0

    def lane(self, now: float) -> Lane | None:
        """One of a few; another one takes its turn while they are used."""
        ports = self._open_ones
        if len(ports) < _PORTS or now - self._opened_at > _REPLACE_SECONDS:
            if now >= self._reopen_at:
                self._open(now)
            if len(ports) > _PORTS:
                oldest = ports.pop(0)
                oldest.retired_at = now
                self._retired.append(oldest)
        self._used_at = now
        return ports[self._engine.ids.draw()[0] % len(ports)].lane if ports else None

    def lanes(self) -> list[Lane]:
        """Also of retired ports: they still hear."""
        return [port.lane for port in (*self._open_ones, *self._retired)]

    def stream(self, flight: Flight, bit: int) -> StreamAsked | None:
        """A new connection for one question; None: too many, or it cannot be made."""
        if self._outlet.streams_open >= self._engine.limits.tcp_asking:
            return None
        try:
            return StreamAsked(self._outlet, self._server, flight, bit, family=self.family)
        except OSError:
            return None

    def sweep(self, now: float) -> bool:
        """Close what is unused or retired; False: nothing is open."""
        if self._open_ones and now - self._used_at > _IDLE_SECONDS:
            for port in list(self._open_ones):
                self._discard(port)
        for port in [p for p in self._retired if now - p.retired_at > _RETIRED_SECONDS]:
            self._discard(port)
        return bool(self._open_ones or self._retired)

    def close(self) -> None:
        for port in [*self._open_ones, *self._retired]:
            self._discard(port)

    def _send_failed(self, port: Port, packet: bytes, exc: OSError) -> bool:
        """Whether the port is still of use: the first error may be the last packet's."""
        if isinstance(exc, ConnectionRefusedError):
            self._server.health.unreachable()
            try:
                port.sock.send(packet)
            except OSError as again:
                exc = again
            else:
                return True
        if isinstance(exc, BlockingIOError):  # the retransmission is for this, too
            return True
        if exc.errno in _THIS_SEND_ONLY:
            self._engine.tally.troubled("query could not be sent")
            return True
        self._failed(port)
        return False

    def _open(self, now: float) -> None:
        where = self._server.where
        try:
            sock = self._outlet.connected(
                where.address, family=self.family, kind=socket.SOCK_DGRAM, via=where.via
            )
        except OSError:
            self._reopen_at = now + _REOPEN_SECONDS
            self._engine.tally.troubled("no socket to an upstream")
            return
        port = Port(sock, self._send_failed)
        self._open_ones.append(port)
        self._opened_at = now
        self._outlet.datagram_ports[self.family][port.number] = port.lane
        self._engine.readers.add(sock.fileno(), partial(self._readable, port))
        self._outlet.keep_swept()

    def _discard(self, port: Port) -> None:
        for held in (self._open_ones, self._retired):
            if port in held:
                held.remove(port)
        if port.sock.fileno() >= 0:
            self._engine.readers.remove(port.sock.fileno())
            self._outlet.datagram_ports[self.family].pop(port.number, None)
            port.sock.close()
        port.lane.pending.clear()

    def _readable(self, port: Port, now: float) -> None:
        packets: list[bytes] = []
        error = port.burst.read(port.sock.recv, MAX_DATAGRAM + 1, now, packets)
        self._server.received(port.lane, packets, now)
        # Else what came closed this Pod's resolver.
        if error is not None and port.sock.fileno() >= 0:
            self._failed(port, refused=error.errno == errno.ECONNREFUSED)

    def _failed(self, port: Port, *, refused: bool = False) -> None:
        """Nobody is there; or, if not even refused, no way leads there, and no socket of ours will find one."""
        failed = [port] if refused else [*self._open_ones, *self._retired]
        lanes = [Lane(each.lane.send, each.lane.failed) for each in failed]
        for each, lane in zip(failed, lanes, strict=True):
            lane.pending = dict(each.lane.pending)
            if not refused:
                self._discard(each)
        self._server.unreachable(lanes, self._engine.loop.time())
