"""Clients that ask over UDP."""

import contextlib
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from services.dns.core.queries import MAX_QUERY
from services.dns.core.resolving import Resolver
from services.dns.core.servers import Lane
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
        for sock in sockets:
            send = outlet.engine.departures.sender(sock)
            own_ports = outlet.datagram_ports[sock.family]
            outlet.engine.readers.add(
                sock.fileno(), partial(self._readable, sock, send, own_ports, Burst())
            )

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

    def _readable(
        self,
        sock: socket.socket,
        send: Callable[[bytes, Any], None],
        own_ports: dict[int, Lane],
        burst: Burst,
        now: float,
    ) -> None:
        packets: list[tuple[bytes, Any]] = []
        burst.read(sock.recvfrom, MAX_QUERY + 1, now, packets)  # its error is an earlier reply's
        take = self._take
        for packet, address in packets:
            own = own_ports.get(address[1])
            if own is not None and own.has_sent(packet):
                self._outlet.engine.tally.troubled("own query came back")
                self._on_loop()
                if sock.fileno() < 0:  # that closed this Pod's resolver
                    return
            else:
                take(packet, (send, address, packet[:2]), now)
