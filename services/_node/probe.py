"""Whether frames pass between two ends, both ways: an ACK of the kernel does not mean usable.

One frame with an EtherType of our own (0x88B5, reserved for local experiments) per attempt: works for
IP and ETHERNET payloads, without addresses, and through endpoints that drop ICMP.
"""

import os
import socket
import time
from collections.abc import Collection
from typing import NamedTuple

ETHERTYPE = 0x88B5
_MAGIC = b"nsm-probe"
_MINIMUM = 60  # shortest Ethernet frame without its checksum


class Side(NamedTuple):
    """An interface, and a socket of `open_socket` in its namespace."""

    opened: socket.socket
    interface: str
    mac: str


def open_socket() -> socket.socket:
    """A socket for a probe, in the namespace of the calling thread; it hears nothing yet."""
    # protocol 0: listening on every interface first would cost an RCU wait at the bind
    return socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def close(opened: Collection[socket.socket]) -> None:
    """Waits for RCU (some 15 ms) when they were bound: in a thread of its own, nobody waits with it."""
    for each in opened:
        each.close()


def passes(one: Side, other: Side, *, timeout_seconds: float = 1.0) -> bool:
    """Whether a frame sent at each side arrives at the other within the time."""
    for side in (one, other):
        side.opened.bind((side.interface, ETHERTYPE))
    deadline = time.monotonic() + timeout_seconds
    return _crosses(one, other, deadline) and _crosses(other, one, deadline)


def _crosses(source: Side, target: Side, deadline: float) -> bool:
    nonce = os.urandom(8)
    frame = _mac(target.mac) + _mac(source.mac) + ETHERTYPE.to_bytes(2, "big") + _MAGIC + nonce
    wait = 0.02  # a lost first frame is repeated soon, a slow one is not drowned
    while (left := deadline - time.monotonic()) > 0:
        try:
            source.opened.send(frame.ljust(_MINIMUM, b"\0"))
        except OSError:
            return False  # the interface went down or away meanwhile
        if _arrives(target.opened, nonce, min(left, wait)):
            return True
        wait *= 2
    return False


def _arrives(receiver: socket.socket, nonce: bytes, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        receiver.settimeout(left)
        try:
            frame = receiver.recv(2048)
        except TimeoutError:
            return False
        except OSError:
            return False  # ENETDOWN: the interface went away
        if frame[14 : 14 + len(_MAGIC) + len(nonce)] == _MAGIC + nonce:
            return True
    return False


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
