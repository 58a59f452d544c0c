"""Clients that ask over UDP."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any

from services.dns.core.queries import MAX_QUERY
from services.dns.service.answering.outlet import Outlet
from services.dns.service.answering.resolving import Resolving

_BURST = 32  # packets per wake-up: other Pods wait, too


class Datagrams:
    """The listening sockets; they are closed with this."""

    def __init__(
        self,
        outlet: Outlet,
        sockets: tuple[socket.socket, ...],
        *,
        resolving: Resolving,
        on_loop: Callable[[], None],
    ) -> None:
        self._outlet = outlet
        self._sockets = sockets
        self._resolving = resolving
        self._on_loop = on_loop
        self._loop: asyncio.AbstractEventLoop = outlet.engine.loop
        for sock in sockets:
            self._loop.add_reader(sock.fileno(), self._readable, sock, self._sender(sock))

    def close(self) -> None:
        for sock in self._sockets:
            if sock.fileno() >= 0:
                self._loop.remove_reader(sock.fileno())
                sock.close()

    def _sender(self, sock: socket.socket) -> Callable[[bytes, Any], None]:
        def send(message: bytes, address: Any) -> None:
            try:
                sock.sendto(message, address)
            except (
                OSError
            ):  # a client that went, or a full buffer: datagrams get lost, clients ask again
                self._outlet.engine.figures.trouble("reply could not be sent")

        return send

    def _readable(self, sock: socket.socket, send: Callable[[bytes, Any], None]) -> None:
        for _ in range(_BURST):
            try:
                packet, address = sock.recvfrom(MAX_QUERY + 1)
            except OSError:  # nothing more, or an error of an earlier reply
                return
            if self._outlet.has_sent(packet, family=sock.family, port=address[1]):
                self._outlet.engine.figures.trouble("own query came back")
                self._on_loop()
            else:
                self._resolving.take(packet, (send, address, packet[:2]), streaming=False)
            if sock.fileno() < 0:  # what it brought closed this Pod's resolver
                return
