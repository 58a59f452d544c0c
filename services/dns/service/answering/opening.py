"""Sockets in a Pod's network: made by the opener, listening on one port number of both families and transports."""

import errno
import socket
import struct
from ipaddress import ip_address
from typing import NamedTuple, Protocol

_TRIES = 32  # a port free for UDP may be taken for TCP
_BACKLOG = 64
_SO_RCVBUFFORCE = 33
_ROOM_BYTES = 1 << 20
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})

Address = tuple[str, int] | tuple[str, int, int, int]


class Opener(Protocol):
    """Opens a socket in the Pod's network; raises OSError.

    `upstream`: "" for a listener, else the interface that leads to the upstream, or `cluster`.
    """

    def __call__(self, family: int, kind: int, *, upstream: str) -> socket.socket: ...


class Listeners(NamedTuple):
    """The open sockets, not yet listened on by anybody of ours."""

    port: int
    datagram: tuple[socket.socket, ...]
    stream: tuple[socket.socket, ...]


def family_of(server: str) -> int | None:
    """The address family of a server; None for what is no address."""
    try:
        return socket.AF_INET6 if ip_address(server).version == 6 else socket.AF_INET
    except ValueError:
        return None


def reset(sock: socket.socket) -> None:
    """Close a connection without a farewell: one that lingers would keep a dead Pod's network alive."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _make_room(sock: socket.socket) -> None:
    """For bursts: what finds no room is lost, and a client asks again after five seconds."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM_BYTES)
    except OSError:  # only who rules the whole machine may pass its limit
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM_BYTES)


def open_listeners(opener: Opener) -> Listeners:
    """UDP and TCP on loopback, v4 and, where the Pod has it, v6: one port number, chosen by the kernel."""
    for _ in range(_TRIES):
        try:
            return _open_once(opener)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"no port is free for both UDP and TCP after {_TRIES} tries")


def _open_once(opener: Opener) -> Listeners:
    opened: list[socket.socket] = []
    try:
        first = _bound(opener, opened, socket.AF_INET, socket.SOCK_DGRAM, 0)
        port = int(first.getsockname()[1])
        datagram = [first]
        stream = [_bound(opener, opened, socket.AF_INET, socket.SOCK_STREAM, port)]
        try:
            datagram.append(_bound(opener, opened, socket.AF_INET6, socket.SOCK_DGRAM, port))
            stream.append(_bound(opener, opened, socket.AF_INET6, socket.SOCK_STREAM, port))
        except OSError as exc:
            if exc.errno not in _NO_IPV6:
                raise
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return Listeners(port, tuple(datagram), tuple(stream))


def _bound(
    opener: Opener, opened: list[socket.socket], family: int, kind: int, port: int
) -> socket.socket:
    sock = opener(family, kind, upstream="")
    opened.append(sock)
    sock.setblocking(False)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if kind == socket.SOCK_DGRAM:
        _make_room(sock)
    sock.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
    if kind == socket.SOCK_STREAM:
        sock.listen(_BACKLOG)
    return sock
