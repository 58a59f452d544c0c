"""What a dead upstream costs whoever asks one query at a time, and how soon it is used again when it is back.

Nobody who answers knows the names of misses; the names that are `known` only the upstream knows that dies.
"""

import os
import signal
import socket
import statistics
import time
from collections.abc import Sequence

from bench.dns.contestants import Setting, ours, upstreams
from bench.dns.names import LETTER_AT, queries

_HEALTHY, _FIRST, _DEAD = 500, 3, 300
_KNOWN, _KNOWN_PAUSE_SECONDS = 150, 0.02
_PATIENCE_SECONDS = 5.0


def measure(*, cores: tuple[int, int] | None) -> None:
    """Print it, beside what is wanted."""
    server_core, load_core = cores or (None, None)
    misses = [packet for packet in queries() if packet[LETTER_AT] == ord("x")]
    known = [packet for packet in queries() if packet[LETTER_AT] == ord("b")]
    print("\n2 upstreams, one dies and comes back; one query at a time")
    with (
        upstreams(Setting(), core=load_core) as asked,
        ours(Setting(), asked.ports[0], core=server_core) as resolver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        sock.connect(("127.0.0.1", resolver.ports[0]))
        sock.settimeout(_PATIENCE_SECONDS)
        healthy = _p99(_times(sock, misses[:_HEALTHY]))
        os.kill(asked.pid, signal.SIGUSR1)
        first = _times(sock, misses[_HEALTHY : _HEALTHY + _FIRST])
        dead = _p99(_times(sock, misses[_HEALTHY + _FIRST : _HEALTHY + _FIRST + _DEAD]))
        os.kill(asked.pid, signal.SIGUSR1)
        used_after, denied = _until_used(sock, known[:_KNOWN])
    print(f"  p99 of misses, healthy             {healthy * 1000:8.1f} ms")
    print(f"  the first {_FIRST} misses, the worst       {max(first) * 1000:8.1f} ms")
    print(
        f"  p99 of misses after them           {dead * 1000:8.1f} ms"
        f"   {(dead - healthy) * 1000:+.1f} ms; wanted: at most +60"
    )
    print(f"  used again after                   {used_after:8.2f} s    wanted: at most 2")
    print(f"  known names denied after that      {denied:8}      wanted: 0")


def _times(sock: socket.socket, packets: Sequence[bytes]) -> list[float]:
    return [_ask(sock, packet)[0] for packet in packets]


def _until_used(sock: socket.socket, packets: Sequence[bytes]) -> tuple[float, int]:
    """How long known names were denied, and how often they were after the first that was not."""
    back, used_after, denied = time.monotonic(), float("inf"), 0
    for packet in packets:
        _, reply = _ask(sock, packet)
        is_denied = reply[3] & 0xF != 0
        if used_after == float("inf"):
            if not is_denied:
                used_after = time.monotonic() - back
        elif is_denied:
            denied += 1
        time.sleep(_KNOWN_PAUSE_SECONDS)
    return used_after, denied


def _ask(sock: socket.socket, packet: bytes) -> tuple[float, bytes]:
    began = time.perf_counter()
    sock.send(packet)
    while (reply := sock.recv(512))[:2] != packet[:2]:
        pass
    return time.perf_counter() - began, reply


def _p99(times: Sequence[float]) -> float:
    return statistics.quantiles(times, n=100)[-1]
