"""What the story of an installation does inside a Pod: `python pinging.py RATE ADDRESS…`, until its input ends.

It sends so many echoes a second to each address, and then says as JSON how many, and which were never
answered: seconds since the beginning, and what the kernel said if it did not send. Needs nothing but Python
and `net.ipv4.ping_group_range`.
"""

import json
import socket
import struct
import sys
import threading
import time

_LATE_SECONDS = 2.0
_SEQUENCES = 1 << 16


class Pinging:
    """One address: who sends, who listens, and what is missing."""

    def __init__(self, address: str, rate: float) -> None:
        six = ":" in address
        protocol = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
        self._socket = socket.socket(
            socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM, protocol
        )
        self._socket.connect((address, 0))
        self._kind = 128 if six else 8
        self._rate = rate
        self._sent: list[float] = []
        self._unsent: dict[int, str] = {}
        self._answered: set[int] = set()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._send, self._listen)]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        self._ended.set()

    def outcome(self) -> dict[str, object]:
        for each in self._threads:
            each.join()
        lost = [
            f"{at - self._sent[0]:.3f} {self._unsent.get(number, '')}".strip()
            for number, at in enumerate(self._sent)
            if number not in self._answered
        ]
        return {"sent": len(self._sent), "lost": lost}

    def _send(self) -> None:
        # Whoever was not scheduled for a second does not make up for it: a burst is lost in our own receive buffer.
        while not self._ended.wait(1 / self._rate):
            self._sent.append(time.monotonic())
            echo = struct.pack("!BBHHH", self._kind, 0, 0, 0, (len(self._sent) - 1) % _SEQUENCES)
            try:
                self._socket.send(echo)
            except OSError as exc:
                self._unsent[len(self._sent) - 1] = str(exc.strerror)

    def _listen(self) -> None:
        self._socket.settimeout(_LATE_SECONDS)
        while True:
            try:
                (sequence,) = struct.unpack("!6xH", self._socket.recv(2048)[:8])
            except OSError:
                if self._ended.is_set():
                    return
                continue
            turns = max(0, len(self._sent) - 1 - sequence) // _SEQUENCES
            self._answered.add(sequence + turns * _SEQUENCES)


def main(rate: str, *addresses: str) -> None:
    """Say `pinging` when it has begun, and the outcome when standard input has ended."""
    every = {address: Pinging(address, float(rate)) for address in addresses}
    for each in every.values():
        each.start()
    sys.stdout.write("pinging\n")
    sys.stdout.flush()
    sys.stdin.read()
    for each in every.values():
        each.stop()
    json.dump({address: each.outcome() for address, each in every.items()}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
