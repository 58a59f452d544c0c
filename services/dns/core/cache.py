"""Answers of one Pod kept for as long as their TTLs say, and denials as RFC 2308 has it; off unless asked for.

A denial counts only if every server in scope was heard, and if it names how long it holds (SOA). A failure is
kept for a second (RFC 9520). What is handed out has the TTLs that are left.
"""

import struct
from typing import NamedTuple

from services.dns.core import wire
from services.dns.core.queries import Query

_MOST_SECONDS = 3600
_MOST_NEGATIVE_SECONDS = 300
_FAILURE_SECONDS = 1
_MOST_BYTES = 1500  # of an answer, or of what was asked
_SOA = 6


class Kept(NamedTuple):
    """An answer behind its ID."""

    body: bytes
    stored_at: float
    until: float
    ttls: tuple[int, ...]  # where in the body
    aged: int = 0  # seconds that are taken off already


class Cache:
    """At most `limit` answers; when it is full, the older half goes."""

    def __init__(self, limit: int) -> None:
        self._half = max(1, limit // 2)
        self._young: dict[bytes, Kept] = {}
        self._old: dict[bytes, Kept] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def find(self, behind_id: bytes, now: float) -> bytes | None:
        """The answer to a packet, if it still holds."""
        kept = self._young.get(behind_id)
        if kept is None:
            kept = self._old.get(behind_id)
            if kept is None:
                return None
            self._add(behind_id, kept)
        if now >= kept.until:
            del self._young[behind_id]
            return None
        age = int(now - kept.stored_at)
        if age != kept.aged:
            kept = self._young[behind_id] = _aged(kept, age)
        return kept.body

    def keep(
        self, behind_id: bytes, body: bytes, query: Query, now: float, *, certain: bool
    ) -> None:
        """Remember an answer, if it may be. `certain`: no server could know better."""
        if body[0] & wire.TC_BIT or len(body) > _MOST_BYTES or len(behind_id) > _MOST_BYTES:
            return
        code = body[1] & 0xF
        try:
            seconds, ttls = _lifetime(body, code, len(query.question))
        except (wire.Broken, struct.error):
            return
        if seconds > 0 and (certain or code == wire.SERVFAIL):
            self._add(behind_id, Kept(body, now, now + seconds, ttls))

    def clear(self) -> None:
        self._young.clear()
        self._old.clear()

    def _add(self, behind_id: bytes, kept: Kept) -> None:
        self._old.pop(behind_id, None)
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[behind_id] = kept


def _lifetime(body: bytes, code: int, question: int) -> tuple[int, tuple[int, ...]]:
    """How many seconds a body holds, and where its TTLs lie."""
    packet = b"\0\0" + body
    counts = wire.counts(packet)
    if code in {wire.SERVFAIL, wire.REFUSED} or counts.questions != 1:
        return (_FAILURE_SECONDS if code == wire.SERVFAIL else 0), ()
    if code not in {wire.NOERROR, wire.NXDOMAIN}:
        return 0, ()
    seconds, places, denial = _MOST_SECONDS, [], None
    total = counts.answers + counts.authorities + counts.additionals
    for record in wire.records(packet, wire.HEADER + question, total):
        if record.type == wire.OPT:
            continue
        places.append(
            record.data - 6 - 2
        )  # behind the TTL come two bytes of length; no ID in a body
        seconds = min(seconds, record.ttl if record.ttl < 1 << 31 else 0)
        if record.type == _SOA and record.end - record.data >= 22:
            minimum = int.from_bytes(packet[record.end - 4 : record.end], "big")
            denial = min(minimum, _MOST_NEGATIVE_SECONDS)
    if code == wire.NXDOMAIN or not counts.answers:
        seconds = min(seconds, denial) if denial is not None else 0
    return seconds, tuple(places)


def _aged(kept: Kept, age: int) -> Kept:
    body, passed = bytearray(kept.body), age - kept.aged
    for at in kept.ttls:
        ttl = int.from_bytes(body[at : at + 4], "big")
        body[at : at + 4] = max(0, ttl - passed).to_bytes(4, "big")
    return kept._replace(body=bytes(body), aged=age)
