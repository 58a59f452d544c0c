"""Upstreams of the bench, in a process of their own: fast, and right in every byte that is looked at."""

import selectors
import signal
import socket
import sys

from bench.dns.batch import Batch
from bench.dns.names import LETTER_AT

_SLOTS, _SIZE = 64, 512
_RECORD = b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4\x0a\0\0\1"  # an address, for five minutes
_SOA = (
    b"\xc0\x14\0\6\0\1\0\0\1\x2c\0\x18\2ns\xc0\x14\0"
    b"\0\0\0\1\0\0\x0e\x10\0\0\x0e\x10\0\0\x0e\x10\0\0\1\x2c"
)


def serve(endings: str, host: str, port: int, letters: str) -> None:
    """One upstream per ending of `host`; each knows the names with its letter. For ever."""
    deaf: set[str] = set()
    last = letters[-1]
    signal.signal(signal.SIGUSR1, lambda *_: deaf.symmetric_difference_update({last}))
    selector = selectors.DefaultSelector()
    for ending, letter in zip(endings.split(","), letters.split(","), strict=True):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((host + ending, port))
        sock.setblocking(False)
        selector.register(
            sock, selectors.EVENT_READ, (Batch(_SLOTS, _SIZE, addresses=True), letter)
        )
    print("ready", flush=True)
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            batch, letter = key.data
            count = batch.receive(key.fileobj)
            if letter not in deaf:
                _answer(key.fileobj, batch, ord(letter), count)


def _answer(sock: socket.socket, batch: Batch, known: int, count: int) -> None:
    view = batch.view
    for index in range(count):
        start, length = index * _SIZE, batch.length(index)
        end = start + length
        view[start + 2] |= 0x84
        if view[start + LETTER_AT] == known:
            view[start + 3] = 0x80
            view[start + 7] = 1
            tail = _RECORD
        else:
            view[start + 3] = 0x83
            view[start + 9] = 1
            tail = _SOA
        if view[start + 11]:  # EDNS of the question: left out, as old servers do
            view[start + 11] = 0
            end -= 11
        view[end : end + len(tail)] = tail
        batch.set_length(index, end + len(tail) - start)
    batch.send(sock, 0, count)
    for index in range(count):
        batch.set_length(index, _SIZE)


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
