"""What a client asked, and the form in which upstreams may hear it.

EDNS is between neighbours: options for the next hop stay here, the size is what we can receive. Everything
else, of unknown types too, passes as it came, so that both sides can use what we do not know.
"""

import enum
import struct

import msgspec

from services.dns.core import wire

MAX_DATAGRAM = 4096  # what we receive at once
MIN_DATAGRAM = 512
MAX_QUERY = 4096  # over TCP, too: no question needs more, and one Pod asks many at a time
_HOP_BY_HOP = frozenset({10, 11, 12})  # COOKIE, TCP-KEEPALIVE, PADDING
_SIGNATURES = frozenset({24, 250})  # SIG(0), TSIG: cover the bytes, which then must not change
_TRANSFERS = frozenset({251, 252})  # IXFR, AXFR: many messages, nothing to fan out


class Fault(enum.IntEnum):
    """Why a packet is not asked on: the reply's code."""

    NOTHING = -1  # no reply: not a query at all
    FORMERR = wire.FORMERR
    NOTIMP = wire.NOTIMP
    REFUSED = wire.REFUSED
    BADVERS = wire.BADVERS


class Query(msgspec.Struct, frozen=True):
    """One question. All clients whose packets agree but for the ID share it."""

    name: bytes  # labels, in lower case
    type: int
    question: bytes  # as the client wrote it, with type and class
    sent: bytes  # what upstreams get behind the ID
    room: int  # the largest datagram that the client takes
    edns: bool

    @property
    def is_single_label(self) -> bool:
        return len(self.name) > 1 and self.name[0] + 2 == len(self.name)


class _Edns(msgspec.Struct, frozen=True):
    version: int
    room: int
    record: bytes


def parse(packet: bytes) -> Query | Fault:
    """The question of a client's packet."""
    if len(packet) < wire.HEADER or packet[2] & 0x80:
        return Fault.NOTHING
    if packet[2] & 0x78:
        return Fault.NOTIMP
    if len(packet) > MAX_QUERY:
        return Fault.FORMERR
    try:
        return _parse(packet)
    except wire.Broken:
        return Fault.FORMERR


def _parse(packet: bytes) -> Query | Fault:
    counts = wire.counts(packet)
    if counts.questions != 1:
        return Fault.FORMERR
    name_end = wire.plain_name_end(packet, wire.HEADER)
    end = name_end + 4
    if end > len(packet):
        return Fault.FORMERR
    kind = int.from_bytes(packet[name_end : name_end + 2], "big")
    if kind in _TRANSFERS:
        return Fault.REFUSED
    sent, edns = _sanitised(packet, end, sum(counts[1:]))
    if edns is not None and edns.version:
        return Fault.BADVERS
    return Query(
        name=packet[wire.HEADER : name_end].lower(),
        type=kind,
        question=packet[wire.HEADER : end],
        sent=sent,
        room=edns.room if edns else MIN_DATAGRAM,
        edns=edns is not None,
    )


def _sanitised(packet: bytes, end: int, count: int) -> tuple[bytes, _Edns | None]:
    """What follows the ID, as upstreams may see it; trailing bytes that belong to no record are cut off."""
    parts, edns, signed = [packet[2:end]], None, False
    for record in wire.records(packet, end, count):
        end, signed = record.end, signed or record.type in _SIGNATURES
        if record.type != wire.OPT:
            parts.append(packet[record.start : record.end])
            continue
        if edns is not None or packet[record.start]:
            raise wire.Broken("a second OPT, or one with a name")
        edns = _edns(packet, record)
        parts.append(edns.record)
    return packet[2:end] if signed else b"".join(parts), edns


def _edns(packet: bytes, record: wire.Record) -> _Edns:
    options, offset = bytearray(), record.data
    while offset < record.end:
        if offset + 4 > record.end:
            raise wire.Broken("option is cut off")
        code, length = struct.unpack_from("!HH", packet, offset)
        if offset + 4 + length > record.end:
            raise wire.Broken("option is cut off")
        if code not in _HOP_BY_HOP:
            options += packet[offset : offset + 4 + length]
        offset += 4 + length
    size = min(max(record.rclass, MIN_DATAGRAM), MAX_DATAGRAM)
    head = struct.pack("!BHHIH", 0, wire.OPT, size, record.ttl, len(options))
    room = max(record.rclass, MIN_DATAGRAM)
    return _Edns(version=record.ttl >> 16 & 0xFF, room=room, record=head + options)
