"""DNS messages for commands: asked of a server over UDP or TCP, and put into words. Not for hot paths."""

import contextlib
import ipaddress
import secrets
import socket
import struct
import time
from typing import Any

import dnslib as untyped_dnslib
import msgspec
from dnslib.label import DNSLabelError

dnslib: Any = untyped_dnslib

PORT = 53
NAME_FORM = "labels of 1 to 63 characters joined by dots, at most 253 in all"
_BUFFER = 65535
_UDP_SIZE = 1232  # what no path cuts


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One resource record, in words."""

    name: str
    type: str
    ttl: int
    data: str


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said, or (`status` empty) that it said nothing in time."""

    name: str
    type: str
    server: str
    transport: str
    milliseconds: float
    status: str = ""  # NOERROR, NXDOMAIN, …
    answers: tuple[Record, ...] = ()
    authoritative: bool = False
    problem: str = ""  # why there is no answer


def ask(
    name: str, kind: str, server: str, *, over_tcp: bool = False, timeout_seconds: float = 5.0
) -> Answer:
    """Ask one server once; a truncated answer is asked for again over TCP."""
    transport = "tcp" if over_tcp else "udp"
    query = dnslib.DNSRecord.question(name, kind)
    query.header.id = secrets.randbelow(1 << 16)
    query.add_ar(dnslib.EDNS0(udp_len=_UDP_SIZE))
    started = time.monotonic()
    exchange = _over_tcp if over_tcp else _over_udp
    try:
        reply = exchange(bytes(query.pack()), server, started + timeout_seconds)
    except (OSError, EOFError) as exc:
        problem = "no answer" if isinstance(exc, TimeoutError) else str(exc)
        return Answer(
            name=name,
            type=kind,
            server=server,
            transport=transport,
            milliseconds=_since(started),
            problem=problem,
        )
    if reply.header.tc and not over_tcp:
        return ask(name, kind, server, over_tcp=True, timeout_seconds=timeout_seconds)
    return Answer(
        name=name,
        type=kind,
        server=server,
        transport=transport,
        milliseconds=_since(started),
        status=dnslib.RCODE.get(reply.header.rcode),
        answers=tuple(_record(rr) for rr in reply.rr),
        authoritative=bool(reply.header.aa),
    )


def is_name(text: str) -> bool:
    """Whether a query can ask for it."""
    if text != "." and not all(text.removesuffix(".").split(".")):
        return False
    try:
        dnslib.DNSRecord.question(text, "A").pack()
    except (dnslib.DNSError, DNSLabelError, UnicodeError):
        return False
    return True


def is_type(text: str) -> bool:
    """Whether it is a type of record that we can name."""
    try:
        getattr(dnslib.QTYPE, text)
    except (AttributeError, dnslib.DNSError):
        return False
    return True


def _since(started: float) -> float:
    return (time.monotonic() - started) * 1000


def _record(rr: Any) -> Record:
    kind = dnslib.QTYPE.get(rr.rtype)
    return Record(name=str(rr.rname), type=str(kind), ttl=int(rr.ttl), data=str(rr.rdata))


def _socket(server: str, kind: int) -> socket.socket:
    family = socket.AF_INET6 if ipaddress.ip_address(server).version == 6 else socket.AF_INET
    return socket.socket(family, kind)


def _over_udp(query: bytes, server: str, deadline: float) -> Any:
    with _socket(server, socket.SOCK_DGRAM) as sock:
        sock.connect((server, PORT))
        sock.send(query)
        while True:
            sock.settimeout(_left(deadline))
            reply = _parsed(sock.recv(_BUFFER), query)
            if reply is not None:
                return reply


def _over_tcp(query: bytes, server: str, deadline: float) -> Any:
    with _socket(server, socket.SOCK_STREAM) as sock:
        sock.settimeout(_left(deadline))
        sock.connect((server, PORT))
        sock.sendall(struct.pack("!H", len(query)) + query)
        while True:
            (length,) = struct.unpack("!H", _exactly(sock, 2, deadline))
            reply = _parsed(_exactly(sock, length, deadline), query)
            if reply is not None:
                return reply


def _exactly(sock: socket.socket, length: int, deadline: float) -> bytes:
    data = b""
    while len(data) < length:
        sock.settimeout(_left(deadline))
        chunk = sock.recv(length - len(data))
        if not chunk:
            raise EOFError("the server closed the connection")
        data += chunk
    return data


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _parsed(data: bytes, query: bytes) -> Any:
    """The reply to this query, or None for anything else."""
    if data[:2] != query[:2]:
        return None
    with contextlib.suppress(dnslib.DNSError, ValueError, struct.error, IndexError):
        reply = dnslib.DNSRecord.parse(data)
        return reply if reply.header.qr else None
    return None
