"""What changes in the networks of many Pods, told by one socket.

The kernel passes on the notices of every network that has an id (nsid) in that of the socket; the socket lives in an
empty network of its own, so that those that we name are all there are. An id pins nothing: a network ends as if
nobody watched, and its end is a notice, too. Notices can be lost (ENOBUFS); then everything is to be looked at.
They are hints, cheap to read and never the truth: whoever is told reads the kernel.
"""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from services._node import filtering, netns
from services._node.errors import Refused

NEWLINK, DELLINK, DELADDR, DELROUTE, DELRULE, DELNSID = 16, 17, 21, 25, 33, 89
_NEWNSID, _GETNSID = 88, 90

# RTNLGRP_*: LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, IPV6_RULE, NSID
_GROUPS = (1, 5, 7, 8, 9, 11, 19, 28)
_SOL_NETLINK, _ADD_MEMBERSHIP, _LISTEN_ALL_NSID = 270, 1, 8
_SO_RCVBUFFORCE = 33
_BUFFER_BYTES = 4 << 20  # some 5,000 notices, however long the loop is busy
_AT_ONCE = 1000  # notices per turn of the loop
_REQUEST, _ACK, _ERROR = 1, 4, 2
_ANSWER_SECONDS = 1  # the kernel answers before `send` returns
_LINKS = frozenset({NEWLINK, DELLINK})
_HEARD = (*_LINKS, DELADDR, DELROUTE, DELRULE, DELNSID)

_HEADER = struct.Struct("=IHHII")
_KIND_AT = 4
_ATTRIBUTE = struct.Struct("=HH")
_IFNAME, _MTU, _ADDRESS, _ALIAS = 3, 4, 1, 20
_IFF_UP = 1
_RTA_OIF, _FRA_PROTOCOL = 4, 21
_NETNSA_NSID, _NETNSA_FD = 1, 3


class Change(NamedTuple):
    """One notice. Of a link, as it is now; of anything else, where it was."""

    cookie: int  # of the network
    kind: int  # NEWLINK, DELLINK, DELADDR, DELROUTE, DELRULE; DELNSID: the network ended
    ifindex: int = 0
    protocol: int = 0  # of a route or a rule
    interface: str = ""
    mac: str = ""
    mtu: int = 0
    alias: str = ""
    up: bool = False


class _Notice(NamedTuple):
    """As it came: of which network, of what kind, and the message without its header."""

    nsid: int
    kind: int
    body: bytes


class Monitor:
    """`on_changes` is told what changed, `on_loss` that something was missed. `run` is the task, `close` its end.

    Raises OSError where the kernel lets us hear nothing: it asks for CAP_NET_BROADCAST.
    """

    def __init__(
        self,
        *,
        on_changes: Callable[[list[Change]], None],
        on_loss: Callable[[], None],
    ) -> None:
        self._on_changes = on_changes
        self._on_loss = on_loss
        self._cookies: dict[int, int] = {}  # by nsid
        self._watched: set[int] = set()
        self._socket, self._asking = netns.in_new_netns(lambda: (_opened(), _opened()))
        try:
            _listen(self._socket)
        except OSError:
            self.close()
            raise
        self._asking.settimeout(_ANSWER_SECONDS)

    @property
    def watched(self) -> int:
        """How many networks are watched."""
        return len(self._watched)

    async def run(self) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._socket, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                self._tell()
        finally:
            loop.remove_reader(self._socket)

    def close(self) -> None:
        """Afterwards; nothing is heard any more."""
        self._socket.close()
        self._asking.close()

    def is_watched(self, cookie: int) -> bool:
        return cookie in self._watched

    def watch(self, target: netns.Target, cookie: int) -> None:
        """Follow a network; some 50 µs, so it needs no thread. Raises Refused, OSError."""
        fd = netns.open_fd(target)
        try:
            nsid = _named(self._asking, fd)
        except OSError as exc:
            raise Refused(f"network {target} cannot be followed: {exc.strerror}") from exc
        finally:
            os.close(fd)
        former = self._cookies.get(nsid, cookie)
        self._cookies[nsid] = cookie
        self._watched.add(cookie)
        if former != cookie:  # ids are given anew: it ended, and we have not read so yet
            self._watched.discard(former)
            self._on_changes([Change(former, DELNSID)])

    def _tell(self) -> None:
        heard: list[_Notice] = []
        try:
            for _ in range(_AT_ONCE):
                heard += self._receive()
        except BlockingIOError:
            pass
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:
                raise
            self._on_loss()
        changes = [change for notice in _newest(heard) for change in self._parsed(notice)]
        if changes:
            self._on_changes(changes)

    def _receive(self) -> Iterator[_Notice]:
        data, ancillary, _, _ = self._socket.recvmsg(1 << 16, 64)
        nsid = -1
        for level, kind, value in ancillary:
            if (level, kind) == (_SOL_NETLINK, _LISTEN_ALL_NSID):
                (nsid,) = struct.unpack_from("=i", value)
        return (_Notice(nsid, kind, body) for kind, body in _messages(data))

    def _parsed(self, notice: _Notice) -> Iterator[Change]:
        nsid, kind, body = notice
        if kind == DELNSID:
            if nsid < 0:  # else it is about another network's names for networks
                yield from self._ended(body)
            return
        cookie = self._cookies.get(nsid, 0)
        if cookie and (change := _change(cookie, kind, body)) is not None:
            yield change

    def _ended(self, body: bytes) -> Iterator[Change]:
        value = _attributes(body, 4).get(_NETNSA_NSID)
        # An id is free before its end is told: by now another network may have it, which `watch` was told of.
        if value is None or _is_given(self._asking, value):
            return
        cookie = self._cookies.pop(struct.unpack("=i", value)[0], 0)
        if cookie:
            self._watched.discard(cookie)
            yield Change(cookie, DELNSID)


def _newest(heard: Iterable[_Notice]) -> list[_Notice]:
    """Of several notices of one interface the last one counts: it is how the interface is now."""
    newest: dict[tuple[int, ...], _Notice] = {}
    for number, notice in enumerate(heard):
        about = (notice.nsid, _index(notice.body)) if notice.kind in _LINKS else (number,)
        newest.pop(about, None)
        newest[about] = notice
    return list(newest.values())


def _opened() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def _listen(opened: socket.socket) -> None:
    opened.setblocking(False)
    # Most of what is told of a connection that is made are new addresses and routes: nobody here asks for those.
    kinds = [socket.htons(kind) for kind in _HEARD]
    filtering.attach(opened, filtering.one_of(kinds, half_at=_KIND_AT))
    try:
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    except PermissionError:  # root of a user namespace only: as much as everybody
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    opened.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)
    opened.bind((0, 0))
    for group in _GROUPS:
        opened.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)


def _named(asking: socket.socket, fd: int) -> int:
    """The id of a network in that of the socket, given if it has none. Raises OSError."""
    target = struct.pack("=HHI", 8, _NETNSA_FD, fd)
    free = struct.pack("=HHi", 8, _NETNSA_NSID, -1)
    asking.send(_nsid_message(_NEWNSID, target + free, _ACK))
    if (code := _error(asking.recv(4096))) not in {0, errno.EEXIST}:
        raise OSError(code, os.strerror(code))
    asking.send(_nsid_message(_GETNSID, target, 0))
    data = asking.recv(4096)
    if code := _error(data):
        raise OSError(code, os.strerror(code))
    value = _attributes(data[_HEADER.size :], 4)[_NETNSA_NSID]
    return int(struct.unpack("=i", value)[0])


def _is_given(asking: socket.socket, nsid: bytes) -> bool:
    """Whether a network has this id now. Kernels before 5.0 do not tell: as if none had."""
    asking.send(_nsid_message(_GETNSID, struct.pack("=HH", 8, _NETNSA_NSID) + nsid, 0))
    return not _error(asking.recv(4096))


def _nsid_message(kind: int, attributes: bytes, flags: int) -> bytes:
    body = struct.pack("=Bxxx", socket.AF_UNSPEC) + attributes
    return _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, 1, 0) + body


def _error(data: bytes) -> int:
    """The error that an answer is; 0 for none."""
    _, kind, _, _, _ = _HEADER.unpack_from(data)
    return -int(struct.unpack_from("=i", data, _HEADER.size)[0]) if kind == _ERROR else 0


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _change(cookie: int, kind: int, body: bytes) -> Change | None:
    if kind in _LINKS:
        (flags,) = struct.unpack_from("=I", body, 8)
        attributes = _attributes(body, 16)
        return Change(
            cookie,
            kind,
            _index(body),
            interface=_text(attributes.get(_IFNAME, b"")),
            mac=attributes.get(_ADDRESS, b"").hex(":"),
            mtu=_number(attributes.get(_MTU)),
            alias=_text(attributes.get(_ALIAS, b"")),
            up=bool(flags & _IFF_UP),
        )
    if kind == DELADDR:
        return Change(cookie, kind, struct.unpack_from("=I", body, 4)[0])
    if kind == DELROUTE:
        return Change(cookie, kind, _number(_attributes(body, 12).get(_RTA_OIF)), body[5])
    if kind == DELRULE:
        protocol = _attributes(body, 12).get(_FRA_PROTOCOL, b"\0")
        return Change(cookie, kind, protocol=protocol[0])
    return None


def _index(body: bytes) -> int:
    """Which interface a notice of one is about."""
    return int(struct.unpack_from("=i", body, 4)[0])


def _attributes(body: bytes, at: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while at + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, at)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = body[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(value: bytes | None) -> int:
    return int(struct.unpack_from("=I", value)[0]) if value else 0
