"""How the queries of one Pod leave it: its opener, and a register of our own ports by which a loop is known.

A redirect that catches what we sent brings it back with the source port it left from. Only then is an equal
packet our own: from any other port it is a duplicate of a client's.
"""

import socket
from collections.abc import Callable
from typing import Protocol

from services.dns.core.servers import Lane
from services.dns.service.answering.engine import Engine
from services.dns.service.answering.opening import Opener

_REMEMBERED_SECONDS = 4.0  # a stream after its end: what it sent may still come back


class OwnStream(Protocol):
    """A connection of ours that asks, or did until just now."""

    closed_at: float

    def has_sent(self, message: bytes) -> bool: ...


class Outlet:
    """`keep_swept` is called whenever something was opened that will grow old."""

    def __init__(
        self,
        opener: Opener,
        *,
        engine: Engine,
        upstream_port: int,
        keep_swept: Callable[[], None],
    ) -> None:
        self.engine = engine
        self.upstream_port = upstream_port
        self.keep_swept = keep_swept
        # By family and number.
        self.datagram_ports: dict[int, dict[int, Lane]] = {socket.AF_INET: {}, socket.AF_INET6: {}}
        self.stream_ports: dict[tuple[int, int], OwnStream] = {}
        self.streams_open = 0
        self._opener = opener

    def connected(self, server: str, *, family: int, kind: int, via: str) -> socket.socket:
        """A socket to the server, a stream's perhaps still connecting. Raises OSError."""
        sock = self._opener(family, kind, upstream=via)
        try:
            sock.setblocking(False)
            try:
                sock.connect((server, self.upstream_port))
            except BlockingIOError:  # a stream on its way
                pass
        except BaseException:
            sock.close()
            raise
        return sock

    def has_streamed(self, message: bytes, *, family: int, port: int) -> bool:
        """Whether a client's message over TCP is one of ours come back."""
        own = self.stream_ports.get((family, port))
        return own is not None and own.has_sent(message)

    def sweep(self, now: float) -> bool:
        """Forget connections that ended a while ago; False: there are none."""
        ended = [
            number
            for number, own in self.stream_ports.items()
            if now - own.closed_at > _REMEMBERED_SECONDS
        ]
        for number in ended:
            del self.stream_ports[number]
        return bool(self.stream_ports)
