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
    names_port: bool
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
        names_port = False
        match_at = at + family.matches_at
        while match_at < at + target_offset:
            size, name, _ = _HEAD.unpack_from(data, match_at)
            names_port |= names_destination(_text(name), data[match_at + _HEAD.size :], port)
            match_at += max(size, _HEAD.size)
        _, name, _ = _HEAD.unpack_from(data, at + target_offset)
        verdict = struct.unpack_from("=i", data, at + target_offset + _HEAD.size)[0]
        yield at, _Rule(names_port, _text(name), verdict, at + next_offset)
        at += next_offset


def names_destination(match: str, data: bytes, port: int) -> bool:
    """Whether a match of iptables is about that destination port, and not about every one."""
    if match == "multiport":  # flags, count, ports
        count = data[1] if len(data) > 1 else 0
        return port in struct.unpack_from("=15H", data.ljust(32, b"\0"), 2)[:count]
    if match not in {"udp", "tcp"} or len(data) < 8:
        return False
    low, high = struct.unpack_from("=HH", data, 4)  # after the range of source ports
    return (low, high) != _EVERY_PORT and low <= port <= high


def _reaches(blob: _Blob, at: int, *, named: bool, seen: set[tuple[int, bool]]) -> bool:
    """Whether a redirect follows from here to the end of the chain, the port being `named` before."""
    while (rule := blob.rules.get(at)) is not None and rule.target != "ERROR":
        if (at, named) in seen:
            return False
        seen.add((at, named))
        now = named or rule.names_port
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
