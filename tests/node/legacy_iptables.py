"""A table of iptables from before nftables, written as its own tool would: for tests only."""

import ctypes
import os
import socket
import struct

from services._node import netns

_libc = ctypes.CDLL(None, use_errno=True)
_ACCEPT = -2


def redirect(where: str, port: int, *, by_chain: bool = False) -> bool:
    """UDP of local programs to that port goes elsewhere, `by_chain` one jump later. False: not in this kernel."""
    return netns.in_netns(where, lambda: _redirect(port, by_chain=by_chain))


def _redirect(port: int, *, by_chain: bool) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 255) as made:
        info = ctypes.create_string_buffer(b"nat".ljust(84, b"\0"), 84)
        size = ctypes.c_uint32(84)
        if _libc.getsockopt(made.fileno(), 0, 64, info, ctypes.byref(size)) != 0:
            return False
        standing = struct.unpack_from("=I", info.raw, 76)[0]
        data = _table(port, by_chain=by_chain)
        counters = ctypes.create_string_buffer(16 * standing)
        head = data[:84] + struct.pack("=IQ", standing, ctypes.addressof(counters))
        body = head + data[84:]
        if _libc.setsockopt(made.fileno(), 0, 64, body, len(body)) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return True


def _table(port: int, *, by_chain: bool) -> bytes:
    policy = _entry(b"", _target(b"", struct.pack("=i", _ACCEPT)))
    output_at = 2 * len(policy)
    elsewhere = _target(b"REDIRECT", struct.pack("=IIIIHH", 1, 2, 0, 0, 1553, 1553))
    match = _udp(port)
    if by_chain:
        jump_at = len(_entry(match, _target(b"", bytes(4))))
        chain_at = output_at + jump_at + 2 * len(policy) + len(_head(b"CHAIN"))
        output = _entry(match, _target(b"", struct.pack("=i", chain_at)), protocol=17)
        back = _entry(b"", _target(b"", struct.pack("=i", -5)))
        chains = _head(b"CHAIN") + _entry(b"", elsewhere, protocol=17) + back
        count = 9
    else:
        output, chains, count = _entry(match, elsewhere, protocol=17), b"", 6
    entries = 2 * policy + output + 2 * policy + chains + _head(b"ERROR")
    ends = output_at + len(output)
    hooks = (0, len(policy), 0, output_at, ends + len(policy))
    underflows = (0, len(policy), 0, ends, ends + len(policy))
    valid = 0b11011
    return (
        struct.pack("=32sIII5I5I", b"nat", valid, count, len(entries), *hooks, *underflows)
        + entries
    )


def _udp(port: int) -> bytes:
    return struct.pack("=H29sB", 48, b"udp", 0) + struct.pack("=HHHH8x", 0, 0xFFFF, port, port)


def _target(name: bytes, data: bytes) -> bytes:
    data += bytes(-len(data) % 8)
    return struct.pack("=H29sB", 32 + len(data), name, 0) + data


def _head(name: bytes) -> bytes:
    return _entry(b"", _target(b"ERROR", name.ljust(32, b"\0")))


def _entry(match: bytes, target: bytes, *, protocol: int = 0) -> bytes:
    offset = 112 + len(match)
    ip = bytes(80) + struct.pack("=HBB", protocol, 0, 0)
    head = ip + struct.pack("=IHHI", 0, offset, offset + len(target), 0) + bytes(16)
    return head + match + target
