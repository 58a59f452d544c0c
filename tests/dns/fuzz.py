"""Very many packets for everything that parses packets, without a socket: `python -m tests.dns.fuzz PACKETS [SEED]`.

Clients and servers send real packets, changed ones and noise, in turn with time that passes. What must hold: no
exception, no answer to a response, at most one answer per query with its ID and question, nothing kept for ever.
"""

import gc
import os
import random
import sys
from pathlib import Path
from typing import Any

from services.dns.core.queries import Fault, parse
from services.dns.model import Limits
from tests.dns.simulation import Sent, Simulation
from tests.dns.upstreams import a_profile, a_query, cluster, dnslib, service

_ROUND = 1000
_NAMES = (
    "a.example",
    "db",
    "x.corp.example",
    "b.default.svc.cluster.local",
    "1.0.0.10.in-addr.arpa",
)
_KINDS = ("A", "AAAA", "MX", "SRV", "TXT", "ANY", "TYPE4711")

_TTL = b"\0\1\0\0\0\x1e"  # class and 30 s
_ANSWER = b"\xc0\x0cTT" + _TTL + b"\0\4\x0a\0\0\1"
_ALIAS = b"\xc0\x0c\0\5" + _TTL + b"\0\x0b\1b\7example\0"
_BEHIND = b"\1b\7example\0TT" + _TTL + b"\0\4\x0a\0\0\2"
_SOA = b"\1b\7example\0\0\6" + _TTL + b"\0\x16\0\0" + b"\0\0\0\x3c" * 5
_REPLIES: list[tuple[bytes, list[bytes], list[bytes]]] = [
    (b"\x85\x80", [_ANSWER], []),
    (b"\x85\x80", [_ALIAS, _BEHIND], []),
    (b"\x85\x80", [_ALIAS], []),
    (b"\x87\x80", [], []),
    (b"\x81\x80", [], [_SOA]),
    (b"\x81\x83", [], [_SOA]),
    (b"\x81\x82", [], []),
    (b"\x81\x05", [], []),
]


def queries() -> list[bytes]:
    """Real ones."""
    option = dnslib.EDNSOption(10, b"12345678")
    plain = [a_query(name, kind) for name in _NAMES for kind in _KINDS]
    return plain + [a_query(name, edns=1232, options=[option]) for name in _NAMES]


class Fuzz:
    """One Pod under fire. `failed` never happens."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.seeds = queries()
        corp = service("x", "10.0.0.2", domains=("corp.example",), search_domains=("corp.example",))
        self.simulation = Simulation(
            a_profile(cluster("10.0.0.1"), corp, service("y", "10.0.0.3")),
            self._serve,
            limits=Limits(cached=64, in_flight=300),
        )
        self.number = 0
        self.waiting: dict[int, bytes] = {}

    def run(self, packets: int) -> None:
        for done in range(0, packets, _ROUND):
            for _ in range(min(_ROUND, packets - done)):
                self._ask()
            self.simulation.run(self.chance.choice((0.01, 0.5, 3.0)))
            self._check_answers()
        self.simulation.run(10)
        self._check_answers()
        assert not self.waiting, "a query was taken and never answered"
        self._check_nothing_is_kept()

    def _ask(self) -> None:
        packet = self._changed(self.chance.choice(self.seeds))
        packet = self.chance.randbytes(2) + packet[2:] if len(packet) > 2 else packet
        self.number += 1
        streaming = self.chance.random() < 0.1
        if self.simulation.ask(packet, self.number, streaming=streaming):
            assert not packet[2] & 0x80, "a response was taken as a query"
            self.waiting[self.number] = packet

    def _check_answers(self) -> None:
        for answered in self.simulation.answers:
            packet = self.waiting.pop(answered.client)
            message = answered.message
            assert message[:2] == packet[:2]
            assert len(message) >= 12
            assert message[2] & 0x80
            query = parse(packet)
            if not isinstance(query, Fault):
                assert message[12:].startswith(query.question)
        self.simulation.answers.clear()
        self.simulation.seen.clear()

    def _check_nothing_is_kept(self) -> None:
        resolver = self.simulation.resolver
        resolver.sweep(self.simulation.now)
        assert resolver.in_flight == 0
        assert not len(self.simulation.shared.timers)
        for server in resolver.plans.servers:
            assert not any(lane.pending for lane in server.ports.lanes())

    def _serve(self, sent: Sent) -> None:
        for _ in range(self.chance.choice((0, 1, 1, 1, 2))):
            if packet := self._changed(self._reply(sent.packet)):
                sent.answer(self.chance.choice((0.001, 0.01, 0.3, 2.5)), packet)

    def _reply(self, packet: bytes) -> bytes:
        """A real one, made of bytes: what makes packets for people is too slow, and too strict."""
        query = parse(packet)
        assert not isinstance(query, Fault), "a server was sent what is no query"
        flags, answers, authorities = self.chance.choice(_REPLIES)
        kind = query.question[-4:-2]
        tail = b"".join(record.replace(b"TT", kind) for record in (*answers, *authorities))
        counts = bytes([0, 1, 0, len(answers), 0, len(authorities), 0, 0])
        return packet[:2] + flags + counts + query.question + tail

    def _changed(self, packet: bytes) -> bytes:
        """Half of them as they are; some are noise."""
        kind = self.chance.random()
        if kind < 0.5:
            return packet
        if kind < 0.55:
            return self.chance.randbytes(self.chance.randrange(80))
        found: Any = bytearray(packet)
        for _ in range(self.chance.randrange(1, 4)):
            if found:
                found[self.chance.randrange(len(found))] = self.chance.randrange(256)
        if self.chance.random() < 0.3:
            found = found[: self.chance.randrange(len(found) + 1)]
        return bytes(found)


def main(packets: int, seed: int) -> None:
    """The soak: rounds of a tenth each; memory may not grow after the second."""
    fuzz = Fuzz(seed)
    fuzz.run(packets // 10)
    fuzz.run(packets // 10)
    before = _resident_bytes()
    for tenth in range(3, 11):
        fuzz.run(packets // 10)
        grown = _resident_bytes() - before
        sys.stdout.write(f"{tenth * packets // 10} packets, {grown / 1e6:+.1f} MB\n")
        sys.stdout.flush()
    assert grown < 80e6, "something is kept for ever"


def _resident_bytes() -> int:
    """Of this process: to trace every allocation would take twice as long as the soak itself."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32))
