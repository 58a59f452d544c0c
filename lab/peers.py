"""Who is at the other end of a loopback connection: the user whose socket it is, as the kernel's tables say.

The tables show users as they are known where they were opened. A lab of an ordinary user lives in a user
namespace that knows only its owner, so they are opened before it is entered, and read again for each peer.
"""

import os
import sys
import threading
from ipaddress import IPv4Address

Address = tuple[str, int]

_ROOT = 0
_TABLES = ("/proc/self/net/tcp", "/proc/self/net/tcp6")
_CHUNK = 1 << 16
_LINE = 200
_LOOKS = 3  # a table read while it changes may miss a line


class Peers:
    """The users of the sockets in the network namespace we are made in."""

    def __init__(self) -> None:
        self.owner = os.geteuid()
        self._one_at_a_time = threading.Lock()  # a file has one place where it is read
        self._tables = [
            os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            for path in _TABLES
            if os.access(path, os.R_OK)
        ]

    def close(self) -> None:
        while self._tables:
            os.close(self._tables.pop())

    def is_trusted(self, peer: Address, here: Address) -> bool:
        """Whether the socket `peer`, connected to our `here`, is the owner's or root's. Both are IPv4."""
        for _ in range(_LOOKS):
            # A socket that nobody holds any more is shown as root's, with inode 0. The kernel looks at one
            # after the other: only what two looks agree on was held all the time.
            with self._one_at_a_time:
                first, second = self._find(peer, here), self._find(peer, here)
            if first is not None and first == second:
                return first[0] in (self.owner, _ROOT)
        return False

    def _find(self, peer: Address, here: Address) -> tuple[int, int] | None:
        """User and inode of an open socket."""
        ends = [f" {form(peer)} {form(here)} ".encode() for form in (_shown, _shown_mapped)]
        for table in self._tables:
            shown = _read(table)
            for at in (shown.find(end) for end in ends):
                if at >= 0:
                    uid, inode = map(int, shown[at : at + _LINE].split()[6:9:2])
                    return (uid, inode) if inode else None
        return None


def _shown(address: Address) -> str:
    """As the kernel prints it: words of this machine."""
    return _hex(IPv4Address(address[0]).packed, address[1])


def _shown_mapped(address: Address) -> str:
    """The same for an IPv6 socket that talks IPv4."""
    return _hex(bytes(10) + b"\xff\xff" + IPv4Address(address[0]).packed, address[1])


def _hex(packed: bytes, port: int) -> str:
    words = [packed[at : at + 4] for at in range(0, len(packed), 4)]
    text = "".join(f"{int.from_bytes(word, sys.byteorder):08X}" for word in words)
    return f"{text}:{port:04X}"


def _read(table: int) -> bytes:
    """A table as it is now: thousands of lines on some machines."""
    os.lseek(table, 0, os.SEEK_SET)
    chunks = []
    while chunk := os.read(table, _CHUNK):
        chunks.append(chunk)
    return b"".join(chunks)
