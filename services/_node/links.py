"""A small synchronous rtnetlink layer: pyroute2's messages over a socket opened in the namespace.

pyroute2's own sockets enter a namespace by forking (8-34 ms) and run an event loop per object; here a
throw-away thread opens the socket and requests are sent straight, several at a time. What fails says what
the kernel said. Calls block: use them from a worker thread.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from services._node import netns

NEWLINK, DELLINK, GETLINK = 16, 17, 18
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNEIGH, DELNEIGH, GETNEIGH = 28, 29, 30

CREATE, REPLACE = 0x400 | 0x200, 0x400 | 0x100  # must be new; new or changed
IFF_UP = 1

_REQUEST, _ACK, _DUMP, _MULTI = 1, 4, 0x300, 2
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _STRICT = 270, 10, 11, 12
_CAPPED, _ACK_TLVS, _ERROR_TEXT = 0x100, 0x200, 1
_TIMEOUT_SECONDS = 10  # a removal waits for RCU, and many may wait for the same lock


# pyroute2 is not typed
_Marshal: Any = MarshalRtnl
_LinkMessage: Any = ifinfmsg
_AddressMessage: Any = ifaddrmsg
_RouteMessage: Any = rtmsg
_NeighbourMessage: Any = ndmsg


class LinkError(OSError):
    """What the kernel answered to one request, or that it gave no answer (ETIMEDOUT). `errno` as usual."""


class Netlink:
    """A netlink socket in the namespace (None: where the process lives). Use it as a context manager."""

    def __init__(self, where: netns.Target | None = None) -> None:
        self._sequence = 0
        self._marshal = _Marshal()
        self._socket = netns.open_socket(where, socket.AF_NETLINK, socket.SOCK_DGRAM)
        self._socket.settimeout(_TIMEOUT_SECONDS)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    @property
    def cookie(self) -> int:
        """Which namespace this socket lives in, see `netns.cookie`."""
        return netns.cookie_of(self._socket)

    def request(self, messages: Sequence[Any]) -> None:
        """Send all at once, in order. Raises LinkError for the first that failed; the rest were tried."""
        first_error: LinkError | None = None
        for chunk in _chunks(messages):
            first_error = first_error or self._send_chunk(chunk)
        if first_error is not None:
            raise first_error

    def get(self, message: Any) -> Any:
        """The one object that `message` asks for. Raises LinkError."""
        self._send([message], 0)
        answer: Any = None
        for kind, _, body in self._receive():
            if kind == _ERROR:
                raise _error(body, message)
            answer = next(iter(self._marshal.parse(body)))
            break
        return answer

    def dump(self, message: Any) -> list[Any]:
        """Every object that `message` filters. Raises LinkError."""
        self._send([message], _DUMP)
        found: list[Any] = []
        while True:
            for kind, _, body in self._receive():
                if kind == _DONE:
                    return found
                if kind == _ERROR:
                    raise _error(body, message)
                found.extend(self._marshal.parse(body))

    def find_link(self, name: str) -> Any | None:
        """The interface of that name, or None."""
        try:
            return self.get(link(GETLINK, attrs=[("IFLA_IFNAME", name)]))
        except LinkError as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise

    def _send_chunk(self, chunk: list[Any]) -> LinkError | None:
        first = self._send(chunk, _ACK)
        error: LinkError | None = None
        outstanding = len(chunk)
        while outstanding:
            for kind, sequence, body in self._receive():
                if kind != _ERROR:
                    continue
                outstanding -= 1
                if error is None and struct.unpack_from("=i", body, 16)[0] != 0:
                    error = _error(body, chunk[sequence - first])
        return error

    def _send(self, messages: Sequence[Any], flags: int) -> int:
        first = self._sequence + 1
        data = bytearray()
        for message in messages:
            self._sequence += 1
            header = message["header"]
            header["flags"] = header.get("flags", 0) | _REQUEST | flags
            header["sequence_number"] = self._sequence
            header["pid"] = 0
            message.encode()
            data += message.data
        self._socket.send(data)
        return first

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """(type, sequence, whole message) of each message of one datagram that answers us."""
        try:
            data = self._socket.recv(1 << 20)
        except TimeoutError as exc:
            raise LinkError(errno.ETIMEDOUT, f"no answer within {_TIMEOUT_SECONDS} s") from exc
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size:
                break
            yield kind, sequence, data[at : at + length]
            at += (length + 3) & ~3


def link(
    kind: int,
    *,
    index: int = 0,
    up: bool | None = None,
    attrs: Iterable[tuple[str, Any]] = (),
    flags: int = 0,
) -> Any:
    """A message about an interface; as a dump, about all."""
    message = _LinkMessage()
    message["index"] = index
    if up is not None:
        message["flags"], message["change"] = (IFF_UP if up else 0), IFF_UP
    return _filled(message, kind, flags, attrs)


def address(kind: int, *, index: int, address: str = "", family: int = 0, flags: int = 0) -> Any:
    """A message about an address with its length on an interface (0 in a dump: any); never waits for DAD."""
    message = _AddressMessage()
    message["index"] = index
    attrs: list[tuple[str, Any]] = []
    if address:
        ip, _, length = address.partition("/")
        family = family_of(ip)
        message["prefixlen"] = int(length)
        attrs = [("IFA_LOCAL", ip), ("IFA_ADDRESS", ip)]
        if family == socket.AF_INET6:
            message["flags"] = 0x02  # IFA_F_NODAD
    message["family"] = family
    return _filled(message, kind, flags, attrs)


def route(
    kind: int,
    *,
    index: int,
    destination: str = "",
    gateway: str = "",
    source: str = "",
    protocol: int = 0,
    family: int = 0,
    flags: int = 0,
) -> Any:
    """A message about a unicast route of the main table through an interface (0 in a dump: any)."""
    message = _RouteMessage()
    attrs: list[tuple[str, Any]] = [("RTA_OIF", index)] if index else []
    if destination:
        ip, _, length = destination.partition("/")
        family = family_of(ip)
        message["dst_len"] = int(length)
        attrs.append(("RTA_DST", ip))
    message["family"] = family
    message["proto"] = protocol
    message["table"] = 254
    if kind != GETROUTE:
        message["type"] = 1  # RTN_UNICAST
    if destination and not gateway and family == socket.AF_INET:
        message["scope"] = 253  # RT_SCOPE_LINK
    if gateway:
        attrs.append(("RTA_GATEWAY", gateway))
        message["flags"] = 4  # RTNH_F_ONLINK: a next hop need not be covered by a route
    if source:
        attrs.append(("RTA_PREFSRC", source))
    return _filled(message, kind, flags, attrs)


def neighbour(
    kind: int, *, index: int, address: str = "", mac: str = "", family: int = 0, flags: int = 0
) -> Any:
    """A message about a permanent neighbour on an interface."""
    message = _NeighbourMessage()
    message["family"] = family_of(address) if address else family
    attrs: list[tuple[str, Any]] = []
    if kind == GETNEIGH:
        attrs += [("NDA_IFINDEX", index)] if index else []  # strict dumps filter by attribute
    else:
        message["ifindex"] = index
        message["state"] = 0x80  # NUD_PERMANENT
    if address:
        attrs.append(("NDA_DST", address))
    if mac:
        attrs.append(("NDA_LLADDR", mac))
    return _filled(message, kind, flags, attrs)


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _filled(message: Any, kind: int, flags: int, attrs: Iterable[tuple[str, Any]]) -> Any:
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["attrs"] = list(attrs)
    return message


def _chunks(messages: Sequence[Any]) -> Iterator[list[Any]]:
    """At most 64 requests per datagram: their acknowledgements must fit our receive buffer."""
    for at in range(0, len(messages), 64):
        yield list(messages[at : at + 64])


def _error(body: bytes, message: Any) -> LinkError:
    code = -struct.unpack_from("=i", body, 16)[0]
    kind = message["header"]["type"]
    text = _error_text(body) or os.strerror(code)
    return LinkError(code, f"{_VERBS.get(kind, kind)}: {text}")


def _error_text(body: bytes) -> str:
    """The kernel's own words, where it has any (extended acknowledgement)."""
    _, _, flags, _, _ = _HEADER.unpack_from(body)
    if not flags & _ACK_TLVS:
        return ""
    at = 20 + (_HEADER.size if flags & _CAPPED else _HEADER.unpack_from(body, 20)[0])
    while at + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, at)
        if length < 4:
            break
        if kind == _ERROR_TEXT:
            return body[at + 4 : at + length].rstrip(b"\0").decode(errors="replace")
        at += (length + 3) & ~3
    return ""


_VERBS = {
    NEWLINK: "set interface",
    DELLINK: "delete interface",
    GETLINK: "look up interface",
    NEWADDR: "add address",
    DELADDR: "delete address",
    GETADDR: "list addresses",
    NEWROUTE: "add route",
    DELROUTE: "delete route",
    GETROUTE: "list routes",
    NEWNEIGH: "add neighbour",
    DELNEIGH: "delete neighbour",
    GETNEIGH: "list neighbours",
}
