"""Names and records inside a packet. Whatever is cut off or runs in circles is `Broken`, nothing else is raised."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

HEADER = 12
MAX_NAME = 255
MAX_MESSAGE = 65535
CNAME, OPT, ANY = 5, 41, 255
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16
TC_BIT = 0x02  # of the third byte
_POINTER = 0xC0
_FIXED = struct.Struct("!HHIH")  # type, class, TTL, length of data
_COUNTS = struct.Struct("!HHHH")


class Broken(ValueError):
    """Bytes that are no DNS message."""


class Counts(NamedTuple):
    """Records per section."""

    questions: int
    answers: int
    authorities: int
    additionals: int


class Record(NamedTuple):
    """Where a record lies: owner from `start`, data from `data` to `end`."""

    start: int
    type: int
    rclass: int
    ttl: int
    data: int
    end: int


def counts(packet: bytes) -> Counts:
    """The four counts of the header."""
    return Counts(*_COUNTS.unpack_from(packet, 4))


def plain_name_end(packet: bytes, offset: int) -> int:
    """The end of a name that is not compressed."""
    start = offset
    try:
        while length := packet[offset]:
            if length & _POINTER:
                raise Broken("compressed where a plain name belongs")
            offset += 1 + length
    except IndexError as exc:
        raise Broken("name is cut off") from exc
    if offset + 1 - start > MAX_NAME:
        raise Broken("name is too long")
    return offset + 1


def skip_name(packet: bytes, offset: int) -> int:
    """The end of a name as it stands, compressed or not."""
    try:
        while length := packet[offset]:
            if length & _POINTER == _POINTER:
                return offset + 2
            if length & _POINTER:
                raise Broken("unknown kind of label")
            offset += 1 + length
    except IndexError as exc:
        raise Broken("name is cut off") from exc
    return offset + 1


def read_name(packet: bytes, offset: int) -> bytes:
    """A name without compression, in the case it has."""
    found = bytearray()
    before = len(packet)  # a pointer leads backwards, so that no name is endless
    try:
        while length := packet[offset]:
            if length & _POINTER == _POINTER:
                offset, before = (length & 0x3F) << 8 | packet[offset + 1], min(before, offset)
                if offset >= before:
                    raise Broken("pointer leads forward")
                continue
            if length & _POINTER or len(found) > MAX_NAME or offset + 1 + length > len(packet):
                raise Broken("bad label")
            found += packet[offset : offset + 1 + length]
            offset += 1 + length
    except IndexError as exc:
        raise Broken("name is cut off") from exc
    if len(found) >= MAX_NAME:
        raise Broken("name is too long")
    return bytes(found) + b"\0"


def records(packet: bytes, offset: int, count: int) -> Iterator[Record]:
    """`count` records from `offset` on."""
    for _ in range(count):
        fixed = skip_name(packet, offset)
        data = fixed + _FIXED.size
        if data > len(packet):
            raise Broken("record is cut off")
        kind, rclass, ttl, length = _FIXED.unpack_from(packet, fixed)
        if data + length > len(packet):
            raise Broken("data of a record is cut off")
        yield Record(offset, kind, rclass, ttl, data, data + length)
        offset = data + length


def wire_name(text: str) -> bytes | None:
    """A name as labels in lower case; None for what is no name. `.` and nothing are the root."""
    stripped = text.strip().rstrip(".").lower()
    if not stripped:
        return b"\0"
    try:
        labels = [label.encode("ascii") for label in stripped.split(".")]
    except UnicodeEncodeError:
        return None
    if any(not 0 < len(label) < 64 for label in labels):
        return None
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    return name if len(name) <= MAX_NAME else None


def text_name(name: bytes) -> str:
    """Labels as people write them, with the last dot; bytes that do not print by their number (RFC 1035, 5.1)."""
    if name == b"\0":
        return "."
    texts, offset = [], 0
    while length := name[offset]:
        label = name[offset + 1 : offset + 1 + length]
        texts.append("".join(chr(c) if 32 < c < 127 and c != 46 else f"\\{c:03d}" for c in label))
        offset += 1 + length
    return ".".join(texts) + "."
