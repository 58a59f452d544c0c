"""Clients that ask over UDP."""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from services.dns.core.queries import MAX_QUERY
from services.dns.core.resolving import Resolver
from services.dns.service.answering.bursts import Burst
from services.dns.service.answering.outlet import Outlet

_MOST_WAITING = 10_000  # packets


class Datagrams:
    """The listening sockets; they are closed with this."""

    def __init__(
        self,
        outlet: Outlet,
        sockets: tuple[socket.socket, ...],
        *,
        resolver: Resolver,
        on_loop: Callable[[], None],
    ) -> None:
        self._outlet = outlet
        self._sockets = sockets
        self._take = resolver.take
        self._on_loop = on_loop
        self._loop: asyncio.AbstractEventLoop = outlet.engine.loop
        for sock in sockets:
            send = self._sender(sock)
            outlet.engine.readers.add(sock.fileno(), partial(self._readable, sock, send, Burst()))

    def close(self) -> None:
        for sock in self._sockets:
            if sock.fileno() >= 0:
                self._outlet.engine.readers.remove(sock.fileno())
                sock.close()

    def discard(self) -> None:
        """Throw away what waits to be read."""
        for sock in self._sockets:
            with contextlib.suppress(OSError):  # nothing more
                for _ in range(_MOST_WAITING):
                    sock.recv(1)
                    self._outlet.engine.tally.troubled("waited too long")

    def _sender(self, sock: socket.socket) -> Callable[[bytes, Any], None]:
        sendto = sock.sendto

        def send(message: bytes, address: Any) -> None:
            try:
                sendto(message, address)
            except (
                OSError
            ):  # a client that went, or a full buffer: datagrams get lost, clients ask again
                self._outlet.engine.tally.troubled("reply could not be sent")

        return send

    def _readable(
        self, sock: socket.socket, send: Callable[[bytes, Any], None], burst: Burst
    ) -> None:
        now, take, receive = self._loop.time(), self._take, sock.recvfrom
        own_ports = self._outlet.datagram_ports[sock.family]
        try:
            for _ in burst.turns:
                packet, address = receive(MAX_QUERY + 1)
                own = own_ports.get(address[1])
                if own is not None and own.has_sent(packet):
                    self._outlet.engine.tally.troubled("own query came back")
                    self._on_loop()
                else:
                    take(packet, (send, address, packet[:2]), now)
        except BlockingIOError:
            burst.shrink()
        except OSError:  # an error of an earlier reply; or what came closed this Pod's resolver
            pass
        else:
            burst.filled(now)
