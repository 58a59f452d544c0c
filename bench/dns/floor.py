"""What no resolver in Python can do without: a query in, one out per upstream, their answers in, the first one out.

No ID is drawn; nothing is parsed, ranked, timed, counted or checked, and nothing waits for a better answer.
"""

import resource
import select
import socket
import sys
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, TypeVar

T = TypeVar("T")

_SIZE, _MOST = 4096, 32


class Pod:
    """One listener, and a socket per upstream."""

    def __init__(self, servers: list[str], port: int) -> None:
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.listener.bind(("127.0.0.1", 0))
        self.upstreams = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in servers]
        for sock, server in zip(self.upstreams, servers, strict=True):
            sock.connect((server, port))
        for sock in (self.listener, *self.upstreams):
            sock.setblocking(False)
        self._sends = [sock.send for sock in self.upstreams]
        self._clients: dict[bytes, Any] = {}  # by ID

    def ask(self) -> None:
        for packet, client in _all(self.listener.recvfrom):
            self._clients[packet[:2]] = client
            for send in self._sends:
                send(packet)

    def reply(self, upstream: socket.socket) -> None:
        for packet in _all(upstream.recv):
            client = self._clients.pop(packet[:2], None)
            if client is not None:
                self.listener.sendto(packet, client)


def serve(servers: list[str], port: int, pods: int) -> None:
    """For ever."""
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    made = [Pod(servers, port) for _ in range(pods)]
    ready = dict(each for pod in made for each in _readers(pod))
    poller = select.epoll()
    for fd in ready:
        poller.register(fd, select.EPOLLIN)
    print(*(pod.listener.getsockname()[1] for pod in made), flush=True)
    while True:
        for fd, _ in poller.poll(-1, 64):
            act, *upstream = ready[fd]
            act(*upstream)


def _readers(pod: Pod) -> Iterator[tuple[int, tuple[Any, ...]]]:
    yield pod.listener.fileno(), (pod.ask,)
    for sock in pod.upstreams:
        yield sock.fileno(), (pod.reply, sock)


def _all(receive: Callable[[int], T]) -> list[T]:
    """What is there, at most `_MOST`."""
    found: list[T] = []
    try:
        found.extend(map(receive, repeat(_SIZE, _MOST)))
    except BlockingIOError:
        pass
    return found


if __name__ == "__main__":
    serve(sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]))
