"""Echo requests over the kernel's ping sockets: no privileges, no program. IPv4 and IPv6.

The kernel fills in identifier and checksum and gives us only our own replies.
"""

import selectors
import socket
import struct
import time
from collections.abc import Iterator, Sequence

import msgspec

_ECHO = struct.Struct("!BBHHH")
_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}
_REPLY = {socket.AF_INET: 0, socket.AF_INET6: 129}
_PROTOCOL = {socket.AF_INET: socket.IPPROTO_ICMP, socket.AF_INET6: socket.IPPROTO_ICMPV6}
_PADDING = b"networkservicemesh".ljust(48, b".")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """An address, and the interface through which it is asked (empty: as routed)."""

    address: str
    interface: str = ""
    label: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What one request came to. `milliseconds` is None without a reply; then `problem` may say why."""

    target: Target
    sequence: int
    milliseconds: float | None = None
    problem: str = ""


class _Asked:
    def __init__(self, target: Target) -> None:
        self.target = target
        self.family = socket.AF_INET6 if ":" in target.address else socket.AF_INET
        self.socket = socket.socket(self.family, socket.SOCK_DGRAM, _PROTOCOL[self.family])
        self.socket.setblocking(False)
        if target.interface:
            name = target.interface.encode()
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name)
        self.sent_at = 0.0

    def send(self, sequence: int) -> None:
        echo = _ECHO.pack(_REQUEST[self.family], 0, 0, 0, sequence & 0xFFFF) + _PADDING
        self.sent_at = time.monotonic()
        self.socket.sendto(echo, (self.target.address, 0))

    def read(self, sequence: int) -> float | None:
        """Milliseconds, if this is the reply to the request just sent. Raises OSError."""
        data = self.socket.recv(2048)
        if len(data) < _ECHO.size:
            return None
        kind, _, _, _, found = _ECHO.unpack_from(data)
        if kind != _REPLY[self.family] or found != sequence & 0xFFFF:
            return None
        return (time.monotonic() - self.sent_at) * 1000


def ping(
    targets: Sequence[Target], *, count: int, interval_seconds: float, timeout_seconds: float
) -> Iterator[Outcome]:
    """Ask all targets at once, `count` times (0: for ever), one round per interval."""
    asked = []
    for target in targets:
        try:
            asked.append(_Asked(target))
        except OSError as exc:
            yield Outcome(target=target, sequence=0, problem=_reason(exc))
    try:
        sequence = 0
        while asked and (count == 0 or sequence < count):
            sequence += 1
            began = time.monotonic()
            yield from _round(asked, sequence, timeout_seconds)
            if sequence != count:
                time.sleep(max(0.0, began + interval_seconds - time.monotonic()))
    finally:
        for one in asked:
            one.socket.close()


def _round(asked: Sequence[_Asked], sequence: int, timeout_seconds: float) -> Iterator[Outcome]:
    with selectors.DefaultSelector() as selector:
        for one in asked:
            try:
                one.send(sequence)
            except OSError as exc:
                yield Outcome(target=one.target, sequence=sequence, problem=_reason(exc))
            else:
                selector.register(one.socket, selectors.EVENT_READ, one)
        deadline = time.monotonic() + timeout_seconds
        while selector.get_map():
            events = selector.select(max(0.0, deadline - time.monotonic()))
            if not events:
                break
            for key, _ in events:
                outcome = _outcome(key.data, sequence)
                if outcome is not None:
                    selector.unregister(key.fileobj)
                    yield outcome
        for key in list(selector.get_map().values()):
            yield Outcome(target=key.data.target, sequence=sequence, problem="no reply")


def _outcome(one: _Asked, sequence: int) -> Outcome | None:
    try:
        milliseconds = one.read(sequence)
    except OSError as exc:
        return Outcome(target=one.target, sequence=sequence, problem=_reason(exc))
    if milliseconds is None:
        return None  # a late reply to an earlier request
    return Outcome(target=one.target, sequence=sequence, milliseconds=milliseconds)


def _reason(exc: OSError) -> str:
    return (exc.strerror or str(exc)).lower()
