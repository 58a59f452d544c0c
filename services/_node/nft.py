"""nftables over netlink, in a socket that lives in a Pod's namespace: transactions, dumps, small builders.

Own encoding, because the only Python one at hand refuses the messages we need and costs milliseconds. A
transaction happens as a whole or not at all. A table made with `OWNER` belongs to its socket: the kernel
removes it when the socket is closed, however the process ended. An open socket pins its namespace: close it
when the Pod ends. Calls return after tens of microseconds: the kernel answers before `send` returns.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from services._node import netns
from services._node.netlink import (
    ACK,
    DONE,
    DUMP,
    ERROR,
    HEADER,
    REQUEST,
    NetlinkSocket,
)

INET, IPV4, IPV6 = 1, 2, 10
NFTABLES, CONNTRACK = 10, 1  # subsystems that one socket speaks to

NEW_TABLE, GET_TABLE, DELETE_TABLE = 0, 1, 2
NEW_CHAIN, GET_CHAIN = 3, 4
NEW_RULE, GET_RULE = 6, 7
NEW_SET, GET_SET = 9, 10
NEW_ELEMENTS, GET_ELEMENTS, DELETE_ELEMENTS = 12, 13, 14
NEW_OBJECT = 18

CREATE, EXCLUSIVE, APPEND = 0x400, 0x200, 0x800
OWNER = 2  # a flag of tables, since Linux 5.12

_NETFILTER = 12
_BATCH_BEGIN, _BATCH_END = 16, 17
_INTERRUPTED = 0x10
_FAMILY = struct.Struct(">BBH")  # struct nfgenmsg; the resource id is in network order
_ATTRIBUTE = struct.Struct("=HH")
_NESTED = 0x8000
_DUMP_TRIES = 5

_PADDINGS = (b"", b"\0\0\0", b"\0\0", b"\0")

Attributes = dict[int, bytes]


class NftError(OSError):
    """What the kernel answered to a transaction or a dump. `errno` as usual."""


class Message(NamedTuple):
    """One change of a transaction, or the question of a dump."""

    kind: int
    family: int
    body: bytes = b""
    flags: int = 0
    subsystem: int = NFTABLES


class Nft(NetlinkSocket):
    """A nftables socket in the namespace (None: where the process lives). Use it as a context manager.

    Tables made with OWNER go with it.
    """

    def __init__(self, where: netns.Target | None = None) -> None:
        super().__init__(netns.open_socket(where, socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER))

    def transact(self, messages: Sequence[Message]) -> None:
        """All of it or nothing, some hundred messages at most: their answers wait in our receive buffer.

        Raises NftError for the first message that the kernel refused.
        """
        bounds = _FAMILY.pack(0, 0, NFTABLES)
        data = self._packed(_BATCH_BEGIN, bounds, 0)
        first = self._sequence + 1
        for message in messages:
            data += self._packed_change(message)
        data += self._packed(_BATCH_END, bounds, 0)
        self._socket.send(data)
        outstanding = len(messages)
        error: NftError | None = None
        while outstanding > 0:
            for kind, sequence, body in self._receive():
                if kind != ERROR:
                    continue
                outstanding -= 1
                code = -struct.unpack_from("=i", body)[0]
                at = sequence - first
                if not 0 <= at < len(messages):  # the batch as such was refused: no more answers
                    raise NftError(code, f"nftables: {os.strerror(code)}")
                if code and error is None:
                    error = _error(code, messages[at])
        if error is not None:
            raise error

    def request(self, message: Message) -> None:
        """One change on its own, as connection tracking takes them. Raises NftError."""
        self._socket.send(self._packed_change(message))
        while True:
            for kind, sequence, body in self._receive():
                if kind != ERROR or sequence != self._sequence & 0xFFFFFFFF:
                    continue
                if code := -struct.unpack_from("=i", body)[0]:
                    raise _error(code, message)
                return

    def dump(self, question: Message) -> list[tuple[int, Attributes]]:
        """(family, attributes) of every object that is asked for. Raises NftError."""
        for _ in range(_DUMP_TRIES):
            found = self._dump(question)
            if found is not None:
                return found
        raise NftError(errno.EAGAIN, "nftables: the rules change faster than they can be read")

    def _dump(self, question: Message) -> list[tuple[int, Attributes]] | None:
        body = _FAMILY.pack(question.family, 0, 0) + question.body
        self._socket.send(self._packed(question.subsystem << 8 | question.kind, body, DUMP))
        found: list[tuple[int, Attributes]] = []
        whole = True
        while True:
            for kind, sequence, body in self._receive():
                if sequence != self._sequence & 0xFFFFFFFF:
                    continue  # the rest of an answer that nobody waited for
                if kind in {DONE, ERROR}:
                    code = -struct.unpack_from("=i", body)[0]
                    if code not in {0, errno.EINTR}:
                        raise _error(code, question)
                    return found if whole and not code else None
                whole = whole and not self._interrupted
                found.append((body[0], attributes(body[4:])))

    def _packed_change(self, message: Message) -> bytes:
        body = _FAMILY.pack(message.family, 0, 0) + message.body
        return self._packed(message.subsystem << 8 | message.kind, body, ACK | message.flags)

    def _packed(self, kind: int, body: bytes, flags: int) -> bytes:
        self._sequence += 1
        size = HEADER.size + len(body)
        return (
            HEADER.pack(size, kind, REQUEST | flags, self._sequence, 0) + body + _PADDINGS[size & 3]
        )

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """(type, sequence, body) of each message of one datagram."""
        try:
            data = self._read()
        except TimeoutError as exc:
            raise NftError(errno.ETIMEDOUT, f"nftables: {exc}") from exc
        except OSError as exc:
            raise NftError(exc.errno, f"nftables: {exc.strerror}") from exc
        at = 0
        while at + HEADER.size <= len(data):
            length, kind, flags, sequence, _ = HEADER.unpack_from(data, at)
            if length < HEADER.size:
                return
            self._interrupted = bool(flags & _INTERRUPTED)
            yield kind, sequence, data[at + HEADER.size : at + length]
            at += (length + 3) & ~3


def raw(kind: int, value: bytes) -> bytes:
    """An attribute."""
    size = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(size, kind) + value + _PADDINGS[size & 3]


def number(kind: int, value: int) -> bytes:
    """A 32-bit number, in network order as nftables wants it."""
    return raw(kind, struct.pack(">I", value & 0xFFFFFFFF))


def text(kind: int, value: str) -> bytes:
    return raw(kind, value.encode() + b"\0")


def nested(kind: int, *inside: bytes) -> bytes:
    return raw(kind | _NESTED, b"".join(inside))


def attributes(data: bytes) -> Attributes:
    """Attributes by kind; of equal kinds the last one."""
    return dict(items(data))


def items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(kind, value) of each attribute, in order."""
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


def read_text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def read_number(value: bytes) -> int:
    """A number of any length in network order."""
    return int.from_bytes(value, "big")


def _error(code: int, message: Message) -> NftError:
    verb = _VERBS.get(message.kind, "nftables")
    if message.subsystem == CONNTRACK:
        verb = "connection tracking"
    return NftError(code, f"{verb}: {os.strerror(code)}")


_VERBS = {
    NEW_TABLE: "add nftables table",
    DELETE_TABLE: "delete nftables table",
    NEW_CHAIN: "add nftables chain",
    NEW_RULE: "add nftables rule",
    NEW_SET: "add nftables set",
    NEW_ELEMENTS: "add nftables element",
    DELETE_ELEMENTS: "delete nftables element",
    NEW_OBJECT: "add nftables ct timeout",
    GET_TABLE: "list nftables tables",
    GET_CHAIN: "list nftables chains",
    GET_RULE: "list nftables rules",
    GET_SET: "list nftables sets",
    GET_ELEMENTS: "list nftables elements",
}
