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
_REMEMBERED = 65_536  # packets of all Pods together, twice: some 60 MB at the very most
_REMEMBERED_BYTES = 512  # of a packet: a Pod cannot fill our memory with large ones
_QUESTION_ONLY = b"\0\1\0\0\0\0\0\0"
_QUESTIONS_NAME = b"\xc0\x0c"
_TRANSFERS = frozenset({251, 252})  # IXFR, AXFR: many messages, nothing to fan out


class Fault(enum.IntEnum):
    """Why a packet is not asked on: the reply's code."""

    NOTHING = -1  # no reply: not a query at all
    FORMERR = wire.FORMERR
    NOTIMP = wire.NOTIMP
    REFUSED = wire.REFUSED
    BADVERS = wire.BADVERS


class Query(msgspec.Struct, gc=False, eq=False):
    """One question. All clients whose packets agree but for the ID share it, whichever Pods they are in.

    Read once and not changed, but for the last two: whom the latest scope would ask.
    """

    name: bytes  # labels, in lower case
    type: int
    question: bytes  # as the client wrote it, with type and class
    sent: bytes  # what upstreams get behind the ID
    room: int  # the largest datagram that the client takes
    edns: bool
    plain: bytes  # how nearly every positive answer goes on behind its header
    mask: int = 0
    scope: object = None

    @property
    def is_single_label(self) -> bool:
        return len(self.name) > 1 and self.name[0] + 2 == len(self.name)


class _Edns(msgspec.Struct, frozen=True):
    version: int
    room: int
    record: bytes


def parse(packet: bytes) -> Query | Fault:
    """The question of a client's packet."""
    try:
        if packet[4:12] == _QUESTION_ONLY and not packet[2] & 0xF8 and len(packet) <= MAX_QUERY:
            return _query(packet, wire.plain_name_end(packet, wire.HEADER))
        return _parse(packet)
    except wire.Broken:
        return Fault.FORMERR


def _parse(packet: bytes) -> Query | Fault:
    if len(packet) < wire.HEADER or packet[2] & 0x80:
        return Fault.NOTHING
    if packet[2] & 0x78:
        return Fault.NOTIMP
    if len(packet) > MAX_QUERY or packet[4:6] != b"\0\1":
        return Fault.FORMERR
    name_end = wire.plain_name_end(packet, wire.HEADER)
    query = _query(packet, name_end)
    if isinstance(query, Fault):
        return query
    query.sent, edns = _sanitised(packet, name_end + 4, sum(wire.counts(packet)[1:]))
    if edns is not None:
        if edns.version:
            return Fault.BADVERS
        query.edns, query.room = True, edns.room
    return query


def _query(packet: bytes, name_end: int) -> Query | Fault:
    """The query, as far as the question says it."""
    end = name_end + 4
    if end > len(packet):
        return Fault.FORMERR
    kind = packet[name_end] << 8 | packet[name_end + 1]
    if kind in _TRANSFERS:
        return Fault.REFUSED
    question = packet[wire.HEADER : end]
    return Query(
        packet[wire.HEADER : name_end].lower(),
        kind,
        question,
        packet[2:end],
        MIN_DATAGRAM,
        False,
        question + _QUESTIONS_NAME + packet[name_end : name_end + 2],
    )


def plain_answer(question: bytes) -> bytes:
    """The question once more, and a first record that has its name and its type."""
    return question + _QUESTIONS_NAME + question[-4:-2]


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


class Readings:
    """Packets read before: names repeat. Of two generations the older one is let go when the younger is full."""

    def __init__(self) -> None:
        self._young: dict[bytes, Query] = {}
        self._old: dict[bytes, Query] = {}
        self.find = self._young.get

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def read(self, packet: bytes) -> Query | Fault:
        """What `find` did not know."""
        behind_id = packet[2:]
        query: Query | Fault | None = self._old.get(behind_id)
        if query is None:
            query = parse(packet)
        if isinstance(query, Query) and len(packet) <= _REMEMBERED_BYTES:
            if len(self._young) >= _REMEMBERED:
                self._old, self._young = self._young, {}
                self.find = self._young.get
            if query.sent == behind_id:
                query.sent = behind_id  # one copy is enough
            self._young[behind_id] = query
        return query
