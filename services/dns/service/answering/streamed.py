"""A query asked again over TCP, as its reply did not fit a datagram: one connection, one question."""

import socket
from typing import TYPE_CHECKING

from services.dns.core import wire
from services.dns.core.ranking import is_reply_to
from services.dns.service.answering.flights import Flight
from services.dns.service.answering.opening import reset
from services.dns.service.answering.outlet import Outlet

if TYPE_CHECKING:
    from services.dns.service.answering.upstreams import Server

_READ_BYTES = 1 << 16


class StreamAsked:
    """Ends in `flight.answered`, in `flight.failed`, or with the flight."""

    __slots__ = (
        *("_buffer", "_flight", "_id", "_index", "_number", "_outlet", "_rest", "_sent"),
        "_sock",
    )

    def __init__(self, outlet: Outlet, server: "Server", flight: Flight, index: int) -> None:
        """Raises OSError."""
        self._outlet = outlet
        self._flight = flight
        self._index = index
        self._id = outlet.engine.new_id()
        message = self._id + flight.query.sent
        self._sent = hash(message)  # not the bytes: this outlives the connection
        self._rest = len(message).to_bytes(2, "big") + message
        self._buffer = bytearray()
        self._sock = outlet.connected(
            server.where.address,
            family=server.family,
            kind=socket.SOCK_STREAM,
            via=server.where.via,
        )
        self._number = (int(self._sock.family), int(self._sock.getsockname()[1]))
        outlet.stream_ports[self._number] = self
        outlet.streams_open += 1
        outlet.engine.loop.add_writer(self._sock.fileno(), self._writable)

    def has_sent(self, packet: bytes) -> bool:
        return hash(packet) == self._sent

    def forget(self) -> None:
        """Close it, and do not know it any more."""
        self.close()
        if self._outlet.stream_ports.get(self._number) is self:
            del self._outlet.stream_ports[self._number]

    def close(self) -> None:
        """Close it; also twice. It may still come back: what a client sent is read after its end, too."""
        if self._sock.fileno() < 0:
            return
        loop = self._outlet.engine.loop
        loop.remove_writer(self._sock.fileno())
        loop.remove_reader(self._sock.fileno())
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
        if message[:2] == self._id and is_reply_to(message, self._flight.query):
            self.close()
            self._flight.answered(self._index, message, whole=True)
        else:
            self._fail()

    def _fail(self) -> None:
        self.close()
        self._outlet.engine.figures.trouble("upstream failed over TCP")
        self._flight.failed(self._index)
