"""Whether frames pass between two ends, both ways: an ACK of the kernel does not mean usable.

One frame with an EtherType of our own (0x88B5, reserved for local experiments) per attempt: works for
IP and ETHERNET payloads, without addresses, and through endpoints that drop ICMP.
"""

import os
import socket
import threading
import time
from typing import NamedTuple

from services._node import netns

ETHERTYPE = 0x88B5
_MAGIC = b"nsm-probe"
_MINIMUM = 60  # shortest Ethernet frame without its checksum


class Side(NamedTuple):
    """An interface in a namespace."""

    netns: netns.Target
    interface: str
    mac: str


def passes(one: Side, other: Side, *, timeout_seconds: float = 1.0) -> bool:
    """Whether a frame sent at each side arrives at the other within the time."""
    sockets: list[socket.socket] = []
    try:
        sockets.append(_opened(one))
        sockets.append(_opened(other))
        deadline = time.monotonic() + timeout_seconds
        return _crosses(sockets[0], sockets[1], (one, other), deadline) and _crosses(
            sockets[1], sockets[0], (other, one), deadline
        )
    finally:
        # closing a packet socket waits for RCU (some 15 ms each): nobody needs to wait with it
        threading.Thread(target=_close, args=(sockets,), name="probe-close", daemon=True).start()


def _close(sockets: list[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _crosses(
    sender: socket.socket, receiver: socket.socket, sides: tuple[Side, Side], deadline: float
) -> bool:
    source, target = sides
    nonce = os.urandom(8)
    frame = _mac(target.mac) + _mac(source.mac) + ETHERTYPE.to_bytes(2, "big") + _MAGIC + nonce
    wait = 0.02  # a lost first frame is repeated soon, a slow one is not drowned
    while (left := deadline - time.monotonic()) > 0:
        try:
            sender.send(frame.ljust(_MINIMUM, b"\0"))
        except OSError:
            return False  # the interface went down or away meanwhile
        if _arrives(receiver, nonce, min(left, wait)):
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


def _opened(side: Side) -> socket.socket:
    def make() -> socket.socket:
        # protocol 0: listening on every interface first would cost an RCU wait at the bind
        made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            made.bind((side.interface, ETHERTYPE))
        except BaseException:
            made.close()
            raise
        return made

    return netns.in_netns(side.netns, make)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))
