"""Asks and measures: a closed loop with a window for throughput, one query after the other for the time it takes."""

import contextlib
import select
import socket
import statistics
import time
from collections.abc import Sequence
from typing import NamedTuple

from bench.dns.batch import Batch
from bench.dns.names import queries

_SIZE = 512
_QUERY_BYTES = len(queries(1)[0])
_STEP = 32
_LOST_SECONDS = 3.0  # a resolver tries for nearly as long


class Load(NamedTuple):
    """What a closed loop saw."""

    answered: int
    lost: int
    seconds: float


class Times(NamedTuple):
    """Of single queries, in µs."""

    median: float
    p99: float


class Asker:
    """One client of one or many resolvers, all on one address."""

    def __init__(self, host: str, ports: Sequence[int], *, names: int = 40_000) -> None:
        self._sockets = [_connected(host, port) for port in ports]
        self._packets = queries(names)
        self._questions = Batch(names, _QUERY_BYTES)
        for index, packet in enumerate(self._packets):
            start = index * _QUERY_BYTES
            self._questions.view[start : start + len(packet)] = packet
        self._answers = Batch(256, _SIZE)
        self._next = 0

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()

    def ask_all(self, *, seconds: float, window: int = 128) -> Load:
        """As much as is answered, over all resolvers in turn, `window` queries on their way at a time."""
        poller = select.epoll()
        for sock in self._sockets:
            poller.register(sock.fileno(), select.EPOLLIN)
        by_fd = {sock.fileno(): sock for sock in self._sockets}
        started = heard = time.monotonic()
        answered = lost = open_ = turn = 0
        step = min(_STEP, max(1, window // len(self._sockets)))
        while (now := time.monotonic()) < started + seconds or open_ > 0:
            while open_ <= window - step and now < started + seconds:
                open_ += self._send(self._sockets[turn % len(self._sockets)], step)
                turn += 1
            found = 0
            for fd, _ in poller.poll(0.01, 64):
                found += self._answers.receive(by_fd[fd])
            answered += found
            open_ = max(0, open_ - found)
            if found:
                heard = now
            elif now - heard > _LOST_SECONDS:
                lost, open_, heard = lost + open_, 0, now
        poller.close()
        return Load(answered, lost, heard - started)

    def ask_each(self, count: int, *, pause_seconds: float = 0.002) -> Times:
        """One at a time, as at a modest rate."""
        sock, found = self._sockets[0], []
        with contextlib.suppress(BlockingIOError):  # answers that were given up
            while sock.recv(_SIZE):
                pass
        sock.setblocking(True)
        sock.settimeout(3)
        for packet in self._packets[:count]:
            began = time.perf_counter()
            sock.send(packet)
            with contextlib.suppress(TimeoutError):
                while sock.recv(_SIZE)[:2] != packet[:2]:
                    pass
            found.append((time.perf_counter() - began) * 1e6)
            time.sleep(pause_seconds)
        sock.setblocking(False)
        return Times(statistics.median(found), statistics.quantiles(found, n=100)[-1])

    def _send(self, sock: socket.socket, step: int) -> int:
        if self._next + step > len(self._packets):
            self._next = 0
        sent = self._questions.send(sock, self._next, step)
        self._next += step
        return sent


def _connected(host: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.connect((host, port))
    sock.setblocking(False)
    return sock
