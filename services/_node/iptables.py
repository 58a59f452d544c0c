"""Who else redirects a port that local programs send to: the tables of iptables before nftables, read back.

They are looked at only where the kernel says that a `nat` table exists: asking for one would make it. What
cannot be read is passed over.
"""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from services._node import netns

_libc = ctypes.CDLL(None, use_errno=True)

_NAT = b"nat"
_NAME_BYTES = 32
_GET_INFO, _GET_ENTRIES = 64, 65
_INFO = struct.Struct("=32sI5I5III")
_ENTRIES_AT = 40  # struct ipt_get_entries: name, size, padding
_LOCAL_OUT = 3
_HEAD = struct.Struct("=H29sB")  # of a match or target: size, name, revision
_EVERY_PORT = (0, 0xFFFF)
_INVERTED_DESTINATION = 2
_MULTIPORT = struct.Struct("=BB15H")  # flags, count, ports
_SOURCES = 0  # of its flags: the others are destinations, and either
_TARGETS = frozenset({"REDIRECT", "DNAT"})


class _Family(NamedTuple):
    names: str
    family: int
    level: int
    matches_at: int  # size of struct ipt_entry, ip6t_entry
    offsets_at: int  # of target_offset and next_offset in it


_FAMILIES = (
    _Family("ip_tables_names", socket.AF_INET, socket.IPPROTO_IP, 112, 88),
    _Family("ip6_tables_names", socket.AF_INET6, socket.IPPROTO_IPV6, 168, 140),
)


class _Rule(NamedTuple):
    about: bool | None  # names the port; leaves it out; says nothing of it
    target: str  # "": a verdict, or a jump
    verdict: int
    next_at: int


class _Blob(NamedTuple):
    """A table as the kernel gives it: rules one after the other, chains known by where they begin."""

    rules: dict[int, _Rule]
    output_at: int
    output_ends: int


def find_redirect(where: netns.Target, *, port: int) -> str:
    """What redirects the port, in words; empty if nothing does. Raises OSError."""
    return netns.in_netns(where, lambda: _find(port))


def _find(port: int) -> str:
    for family in _FAMILIES:
        try:
            names = Path("/proc/thread-self/net", family.names).read_bytes().split()
        except OSError:
            continue  # no such module, or not for us
        if _NAT not in names:
            continue
        with contextlib.suppress(OSError):
            blob = _read(family, port)
            if _reaches(blob, blob.output_at, named=False, seen=set()):
                return f"table 'nat' of {'ip6tables' if family.family == socket.AF_INET6 else 'iptables'}"
    return ""


def _read(family: _Family, port: int) -> _Blob:
    with socket.socket(family.family, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 255) as asked:
        info = _INFO.unpack(_ask(asked, family.level, _GET_INFO, _NAT.ljust(_INFO.size, b"\0")))
        hooks, underflows, size = info[2:7], info[7:12], info[13]
        question = _NAT.ljust(_NAME_BYTES, b"\0") + struct.pack("=I", size)
        answer = _ask(asked, family.level, _GET_ENTRIES, question.ljust(_ENTRIES_AT + size, b"\0"))
    rules = dict(_rules(answer[_ENTRIES_AT:], family, port))
    return _Blob(rules, hooks[_LOCAL_OUT], underflows[_LOCAL_OUT])


def _ask(asked: socket.socket, level: int, option: int, question: bytes) -> bytes:
    buffer = ctypes.create_string_buffer(question, len(question))
    size = ctypes.c_uint32(len(question))
    if _libc.getsockopt(asked.fileno(), level, option, buffer, ctypes.byref(size)) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"iptables: {os.strerror(code)}")
    return buffer.raw[: size.value]


def _rules(data: bytes, family: _Family, port: int) -> Iterator[tuple[int, _Rule]]:
    at = 0
    while at + family.matches_at <= len(data):
        target_offset, next_offset = struct.unpack_from("=HH", data, at + family.offsets_at)
        if next_offset < family.matches_at:
            return
        about: bool | None = None
        match_at = at + family.matches_at
        while match_at < at + target_offset:
            size, name, _ = _HEAD.unpack_from(data, match_at)
            inside = data[match_at + _HEAD.size : match_at + size]
            said = names_destination(_text(name), inside, port)
            if said is not None:
                about = said and about is not False
            match_at += max(size, _HEAD.size)
        _, name, _ = _HEAD.unpack_from(data, at + target_offset)
        verdict = struct.unpack_from("=i", data, at + target_offset + _HEAD.size)[0]
        yield at, _Rule(about, _text(name), verdict, at + next_offset)
        at += next_offset


def names_destination(match: str, data: bytes, port: int) -> bool | None:
    """Whether a match of iptables names that destination port, or leaves it out; None: neither.

    Every port is no name, nor is every port but others.
    """
    if match == "multiport":
        return _named_by_multiport(data, port)
    flags_at = {"udp": 8, "tcp": 11}.get(match)
    if flags_at is None or len(data) < 8:
        return None
    low, high = struct.unpack_from("=HH", data, 4)  # after the range of source ports
    inverted = len(data) > flags_at and bool(data[flags_at] & _INVERTED_DESTINATION)
    if (low, high) == _EVERY_PORT and not inverted:
        return None
    return _unless(low <= port <= high, inverted=inverted)


def _named_by_multiport(data: bytes, port: int) -> bool | None:
    if len(data) < _MULTIPORT.size or data[0] == _SOURCES:
        return None
    count, ports = data[1], struct.unpack_from("=15H", data, 2)
    # Its first revision knows neither ranges nor inversion.
    later = data[_MULTIPORT.size :].ljust(16, b"\0")
    named, at = False, 0
    while at < min(count, len(ports)):
        low = high = ports[at]
        if later[at] and at + 1 < count:
            at += 1
            high = ports[at]
        named |= low <= port <= high
        at += 1
    return _unless(named, inverted=bool(later[15]))


def _unless(named: bool, *, inverted: bool) -> bool | None:
    return (False if named else None) if inverted else named


def _reaches(blob: _Blob, at: int, *, named: bool, seen: set[tuple[int, bool]]) -> bool:
    """Whether a redirect follows from here to the end of the chain, the port being `named` before."""
    while (rule := blob.rules.get(at)) is not None and rule.target != "ERROR":
        if (at, named) in seen:
            return False
        seen.add((at, named))
        if rule.about is False:
            if at == blob.output_ends:
                return False
            at = rule.next_at
            continue
        now = named or rule.about is True
        if now and rule.target in _TARGETS:
            return True
        jumps = rule.target == "" and rule.verdict >= 0 and rule.verdict != rule.next_at
        if jumps and _reaches(blob, rule.verdict, named=now, seen=seen):
            return True
        if at == blob.output_ends:
            return False
        at = rule.next_at
    return False


def _text(name: bytes) -> str:
    return name.partition(b"\0")[0].decode(errors="replace")
