"""A query asked again over TCP, as its reply did not fit a datagram: one connection, one question."""

import socket

from services.dns.core import wire
from services.dns.core.flights import Flight
from services.dns.core.servers import Server
from services.dns.service.answering.opening import reset
from services.dns.service.answering.outlet import Outlet

_READ_BYTES = 1 << 16


class StreamAsked:
    """Ends in `server.streamed`, in `server.failed`, or with the flight."""

    __slots__ = (
        *("_bit", "_buffer", "_flight", "_id", "_outlet", "_rest", "_sent", "_server", "_sock"),
        "closed_at",
    )

    def __init__(
        self, outlet: Outlet, server: Server, flight: Flight, bit: int, *, family: int
    ) -> None:
        """Raises OSError."""
        self.closed_at = float("inf")
        self._outlet = outlet
        self._server = server
        self._flight = flight
        self._bit = bit
        self._id = outlet.engine.ids.draw()
        message = self._id + flight.query.sent
        self._sent = hash(message)  # not the bytes: this outlives the connection
        self._rest = len(message).to_bytes(2, "big") + message
        self._buffer = bytearray()
        self._sock = outlet.connected(
            server.where.address, family=family, kind=socket.SOCK_STREAM, via=server.where.via
        )
        outlet.stream_ports[family, int(self._sock.getsockname()[1])] = self
        outlet.streams_open += 1
        outlet.keep_swept()
        outlet.engine.loop.add_writer(self._sock.fileno(), self._writable)

    def has_sent(self, packet: bytes) -> bool:
        return hash(packet) == self._sent

    def close(self) -> None:
        """Close it; also twice. It may still come back: what a client sent is read after its end, too."""
        if self._sock.fileno() < 0:
            return
        loop = self._outlet.engine.loop
        loop.remove_writer(self._sock.fileno())
        loop.remove_reader(self._sock.fileno())
        self.closed_at = loop.time()
        self._outlet.streams_open -= 1
        self._rest = b""
        self._buffer.clear()
        reset(self._sock)

    def _writable(self) -> None:
        try:
            self._rest = self._rest[self._sock.send(self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._fail()
            return
        if not self._rest:
            loop = self._outlet.engine.loop
            loop.remove_writer(self._sock.fileno())
            loop.add_reader(self._sock.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        length = int.from_bytes(self._buffer[:2], "big") + 2
        if len(self._buffer) >= max(length, 2 + wire.HEADER):
            self._end_with(bytes(self._buffer[2:length]))
        elif not data:
            self._fail()

    def _end_with(self, message: bytes) -> None:
        if message[:2] == self._id:
            self.close()
            self._server.streamed(self._flight, self._bit, message, self._outlet.engine.loop.time())
        else:
            self._fail()

    def _fail(self) -> None:
        self.close()
        self._server.failed(self._flight, self._bit, self._outlet.engine.loop.time())
