"""What a client gets, behind its ID: the question exactly as it wrote it, and never more than it can take."""

import struct

from services.dns.core import wire
from services.dns.core.queries import MAX_DATAGRAM, Fault, Query

_RD, _RA, _CD = 0x01, 0x80, 0x10
_QR = 0x80
_NO_REACHABLE_AUTHORITY = struct.pack("!HHH", 15, 2, 22)  # extended error


def to_fault(packet: bytes, fault: Fault) -> bytes:
    """The reply to a packet that is not asked on. Its question is not repeated: it may be none."""
    head = bytes([_QR | packet[2] & (0x78 | _RD), _RA | fault & 0xF])
    edns = fault is Fault.BADVERS
    counts = struct.pack("!HHHH", 0, 0, 0, edns)
    return head + counts + (opt(extended=fault >> 4) if edns else b"")


def failure(query: Query, code: int = wire.SERVFAIL) -> bytes:
    """The reply when nobody gave one."""
    tail = opt(options=_NO_REACHABLE_AUTHORITY) if query.edns else b""
    return _bare(query, second=_RA | code, tail=tail)


def from_upstream(reply: bytes, query: Query) -> bytes:
    """An upstream's reply behind the ID, with the client's own spelling of the name."""
    if reply[3] & _RA and reply.startswith(query.question, wire.HEADER):
        return reply[2:]
    if len(reply) == wire.HEADER:
        return failure(query, reply[3] & 0xF)
    flags = bytes([reply[2], reply[3] | _RA])  # we do recurse, whoever it was that knew
    rest = reply[wire.HEADER + len(query.question) :]
    return flags + reply[4 : wire.HEADER] + query.question + rest


def fitted(body: bytes, query: Query) -> bytes:
    """The body as a datagram: too large, and it says `come back over TCP`."""
    if len(body) + 2 <= query.room:
        return body
    tail = opt() if query.edns else b""
    return _bare(query, second=body[1], tail=tail, first=body[0] | wire.TC_BIT)


def untruncated(body: bytes) -> bytes:
    """The body for a stream, where nothing is ever cut off."""
    return bytes([body[0] & ~wire.TC_BIT]) + body[1:]


def _bare(query: Query, *, second: int, tail: bytes, first: int | None = None) -> bytes:
    if first is None:
        first = _QR | query.sent[0] & _RD
        second |= query.sent[1] & _CD
    counts = struct.pack("!HHHH", 1, 0, 0, bool(tail))
    return bytes([first, second]) + counts + query.question + tail


def opt(*, extended: int = 0, options: bytes = b"") -> bytes:
    """Our own EDNS record, for clients that sent theirs."""
    return (
        struct.pack("!BHHBBHH", 0, wire.OPT, MAX_DATAGRAM, extended, 0, 0, len(options)) + options
    )
