"""Clients that ask over TCP: any number of queries on a connection, answered as the answers come (RFC 7766)."""

import functools
import socket
from collections.abc import Callable
from typing import Any

from services.dns.core.flights import Waiter
from services.dns.core.resolving import Resolver
from services.dns.service.answering.engine import Engine
from services.dns.service.answering.opening import reset
from services.dns.service.answering.outlet import Outlet

_READ_BYTES = 1 << 16
_BURST = 32
_PAUSE_SECONDS = 1.0


class Streams:
    """The listening sockets and their connections; they are closed with this."""

    def __init__(
        self,
        outlet: Outlet,
        sockets: tuple[socket.socket, ...],
        *,
        resolver: Resolver,
        on_loop: Callable[[], None],
    ) -> None:
        self._outlet = outlet
        self._loop = outlet.engine.loop
        self._sockets = sockets
        self._resolver = resolver
        self._on_loop = on_loop
        self._connections: dict[Connection, None] = {}
        for sock in sockets:
            self._listen(sock)

    def sweep(self, now: float) -> bool:
        """Close what is idle; False: no connection is open."""
        idle = self._outlet.engine.limits.tcp_idle_seconds
        for connection in [c for c in self._connections if now - c.used_at > idle]:
            connection.close()
        return bool(self._connections)

    def close(self) -> None:
        for sock in self._sockets:
            if sock.fileno() >= 0:
                self._loop.remove_reader(sock.fileno())
                sock.close()
        for connection in list(self._connections):
            connection.close(by=reset)

    def _listen(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            self._loop.add_reader(sock.fileno(), self._acceptable, sock)

    def _acceptable(self, listener: socket.socket) -> None:
        for _ in range(_BURST):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors: the kernel would wake us without end
                self._outlet.engine.tally.troubled("connection could not be accepted")
                self._loop.remove_reader(listener.fileno())
                self._loop.call_later(_PAUSE_SECONDS, self._listen, listener)
                return
            self._accept(sock, address[1])
            if listener.fileno() < 0:
                return

    def _accept(self, sock: socket.socket, port: int) -> None:
        if len(self._connections) >= self._outlet.engine.limits.tcp_connections:
            idle = next((c for c in self._connections if not c.owed), None)
            self._outlet.engine.tally.troubled("too many connections")
            if idle is None:
                sock.close()
                return
            idle.close()
        sock.setblocking(False)
        connection = Connection(
            sock,
            engine=self._outlet.engine,
            take=functools.partial(self._take, int(sock.family), port),
            forget=self._forget,
        )
        self._connections[connection] = None
        self._outlet.keep_swept()

    def _take(self, family: int, port: int, message: bytes, waiter: Waiter) -> bool:
        """The port alone is no proof: a client's may have the same number, towards another destination."""
        if self._outlet.has_streamed(message, family=family, port=port):
            self._outlet.engine.tally.troubled("own query came back")
            self._on_loop()
            return False
        return self._resolver.take(message, waiter, self._loop.time(), streaming=True)

    def _forget(self, connection: "Connection") -> None:
        self._connections.pop(connection, None)


class Connection:
    """One client's connection."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        engine: Engine,
        take: Callable[[bytes, Waiter], bool],
        forget: Callable[["Connection"], None],
    ) -> None:
        self.owed = 0  # replies
        self.used_at = engine.loop.time()
        self._sock = sock
        self._limits = engine.limits
        self._loop = engine.loop
        self._take = take
        self._forget = forget
        self._read = bytearray()
        self._unsent = bytearray()
        self._ended = False  # the client will ask nothing more
        self._loop.add_reader(sock.fileno(), self._readable)

    def close(self, *, by: Callable[[socket.socket], None] = socket.socket.close) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            by(self._sock)
            self._forget(self)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self.used_at = self._loop.time()
        self._read += data
        if not data:
            self._ended = True
            self._loop.remove_reader(self._sock.fileno())
        self._take_messages()

    def _take_messages(self) -> None:
        """Take what is there, up to the limit; the rest waits unread until replies are gone."""
        while self._sock.fileno() >= 0 and self.owed < self._limits.tcp_pipelined:
            end = self._message_end()
            if not end:
                break
            message = bytes(self._read[2:end])
            del self._read[:end]
            self.owed += 1
            if not self._take(message, (self._send, None, message[:2])):
                self.close()
                return
        if self._sock.fileno() < 0:
            return
        if self._ended:
            self._close_if_through()
        elif self.owed >= self._limits.tcp_pipelined:
            self._loop.remove_reader(self._sock.fileno())

    def _send(self, message: bytes, _: Any) -> None:
        if self._sock.fileno() < 0:
            return
        full = self.owed >= self._limits.tcp_pipelined
        self.owed -= 1
        self._unsent += len(message).to_bytes(2, "big") + message
        self._flush()
        if len(self._unsent) > self._limits.tcp_unread_bytes:
            self.close()
        if full and self._sock.fileno() >= 0:
            if not self._ended:
                self._loop.add_reader(self._sock.fileno(), self._readable)
            # Not from here: the reply may have come from within `_take_messages`.
            self._loop.call_soon(self._take_messages)

    def _flush(self) -> None:
        try:
            sent = self._sock.send(self._unsent)
        except BlockingIOError:
            self._loop.add_writer(self._sock.fileno(), self._flush)
            return
        except OSError:
            self.close()
            return
        del self._unsent[:sent]
        self.used_at = self._loop.time()
        if self._unsent:
            self._loop.add_writer(self._sock.fileno(), self._flush)
            return
        self._loop.remove_writer(self._sock.fileno())
        self._close_if_through()

    def _message_end(self) -> int:
        """Where the first message ends; 0: none is there as a whole."""
        end = 2 + int.from_bytes(self._read[:2], "big")
        return end if len(self._read) >= max(end, 2) else 0

    def _close_if_through(self) -> None:
        if self._ended and not self.owed and not self._unsent and not self._message_end():
            self.close()
