"""A thousand queries a second from inside a Pod, each from its own socket as a C library does; who got no answer."""

import select
import socket
import threading
import time
from typing import NamedTuple, Self

from services._node import netns
from tests.dns.networks import DNS_V4

_PATIENCE_SECONDS = 3.5
_HEAD = b"\1\0\0\1\0\0\0\0\0\0"


class Lost(NamedTuple):
    """A query that nobody answered."""

    at: float  # of the monotonic clock
    number: int


class Pressure(threading.Thread):
    """Runs until `stop`; then waits for late answers. Use as a context."""

    def __init__(self, place: str, *, rate: float = 1000) -> None:
        super().__init__()
        self.sent = 0
        self.lost: list[Lost] = []
        self._place = place
        self._pause = 1 / rate
        self._ending = threading.Event()
        self._open: dict[int, tuple[socket.socket, Lost]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._ending.set()
        self.join()

    def run(self) -> None:
        netns.in_netns(self._place, self._run)

    def _run(self) -> None:
        with select.epoll() as poller:
            due = time.monotonic()
            while not self._ending.is_set():
                while due <= time.monotonic():
                    self._send(poller)
                    due += self._pause
                self._receive(poller, due - time.monotonic())
            until = time.monotonic() + _PATIENCE_SECONDS
            while self._open and time.monotonic() < until:
                self._receive(poller, 0.05)
        for sock, lost in self._open.values():
            sock.close()
            self.lost.append(lost)

    def _send(self, poller: select.epoll) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        number = self.sent = self.sent + 1
        name = b"\x08%08d\x07cluster\x05local\0" % number
        packet = (number & 0xFFFF).to_bytes(2, "big") + _HEAD + name + b"\0\1\0\1"
        sock.connect((DNS_V4, 53))
        self._open[sock.fileno()] = sock, Lost(time.monotonic(), number)
        poller.register(sock.fileno(), select.EPOLLIN)
        sock.send(packet)

    def _receive(self, poller: select.epoll, seconds: float) -> None:
        for fd, _ in poller.poll(max(seconds, 0), 64):
            sock, lost = self._open[fd]
            try:
                reply = sock.recv(512)
            except OSError:  # refused: it stays unanswered
                poller.unregister(fd)
                continue
            assert int.from_bytes(reply[:2], "big") == lost.number & 0xFFFF
            del self._open[fd]
            poller.unregister(fd)
            sock.close()


def knows_all(query: bytes) -> bytes:
    """A server's answer to any of these, almost without a look at it: 10.0.0.1. There are no other names."""
    if query[12] != 8:
        return query[:2] + b"\x85\x83\0\1\0\0\0\0\0\0" + query[12:]
    record = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x0a\0\0\1"
    return query[:2] + b"\x85\x80\0\1\0\1\0\0\0\0" + query[12:] + record
