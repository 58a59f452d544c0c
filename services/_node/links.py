"""A small synchronous rtnetlink layer over a socket opened in the namespace.

pyroute2's own sockets enter a namespace by forking (8-34 ms) and run an event loop per object; here a
throw-away thread opens the socket and requests are sent straight, several at a time: `encoding`'s, or those that
`link` makes of pyroute2's names, for what is seldom said. pyroute2 decodes the answers. What fails says what the
kernel said. Calls block: use them from a worker thread.
"""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.marshal import MarshalRtnl

from services._node import decoding, encoding, netns
from services._node.encoding import (
    CREATE,
    DELADDR,
    DELLINK,
    DELNEIGH,
    DELROUTE,
    DELRULE,
    GETADDR,
    GETLINK,
    GETNEIGH,
    GETROUTE,
    GETRULE,
    IFF_UP,
    NEWADDR,
    NEWLINK,
    NEWNEIGH,
    NEWROUTE,
    NEWRULE,
    REPLACE,
    Request,
    address,
    family_of,
    neighbour,
    route,
    rule,
)
from services._node.netlink import (
    ACK,
    DONE,
    DUMP,
    ERROR,
    HEADER,
    REQUEST,
    SOL_NETLINK,
    NetlinkSocket,
)

__all__ = [
    "CREATE",
    "DELADDR",
    "DELLINK",
    "DELNEIGH",
    "DELROUTE",
    "DELRULE",
    "GETADDR",
    "GETLINK",
    "GETNEIGH",
    "GETROUTE",
    "GETRULE",
    "IFF_UP",
    "NEWADDR",
    "NEWLINK",
    "NEWNEIGH",
    "NEWROUTE",
    "NEWRULE",
    "REPLACE",
    "LinkError",
    "Netlink",
    "address",
    "family_of",
    "link",
    "neighbour",
    "route",
    "rule",
]

_EXT_ACK, _STRICT = 11, 12
_CAPPED, _ACK_TLVS, _ERROR_TEXT = 0x100, 0x200, 1


# pyroute2 is not typed
_Marshal: Any = MarshalRtnl
_LinkMessage: Any = ifinfmsg


class LinkError(OSError):
    """What the kernel answered to one request, or that it gave no answer (ETIMEDOUT). `errno` as usual."""


class Netlink(NetlinkSocket):
    """A netlink socket in the namespace (None: where the process lives). Use it as a context manager.

    `also` is done by the thread that opens it, in the namespace: each thread costs as much as a request.
    """

    def __init__(
        self, where: netns.Target | None = None, *, also: Callable[[], None] | None = None
    ) -> None:
        super().__init__(_opened(where, also))
        self._marshal = _Marshal()
        for option in (_EXT_ACK, _STRICT):
            self._socket.setsockopt(SOL_NETLINK, option, 1)

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
            if kind == ERROR:
                raise _error(body, message)
            answer = next(iter(self._marshal.parse(body)))
            break
        return answer

    def look_up(self, *, name: str = "", index: int = 0) -> decoding.Link | None:
        """The interface of that name or index, or None: `find_link`, but quick. Raises LinkError."""
        request = encoding.get_link(name=name, index=index)
        self._send([request], 0)
        found: decoding.Link | None = None
        for kind, _, body in self._receive():
            if kind == ERROR:
                error = _error(body, request)
                if error.errno == errno.ENODEV:
                    return None
                raise error
            found = decoding.link(body)
        return found

    def is_local(self, address: str) -> bool:
        """Whether packets for the address would be taken in here. Raises LinkError."""
        request = encoding.ask_way(address)
        self._send([request], 0)
        answers = list(self._receive())
        return any(kind == NEWROUTE and decoding.is_local(body) for kind, _, body in answers)

    def rules(self) -> list[decoding.Rule]:
        """Every rule of both families that leads to a table. Raises LinkError."""
        found = (decoding.rule(body) for body in self._dump(encoding.rule(GETRULE)))
        return [each for each in found if each.family in {socket.AF_INET, socket.AF_INET6}]

    def routes(self, question: Request) -> list[decoding.Route]:
        """Every route that `question` filters. Raises LinkError."""
        return [decoding.route(body) for body in self._dump(question)]

    def addresses(self, *, index: int = 0) -> list[decoding.Address]:
        """Of an interface, or of all. Raises LinkError."""
        question = address(GETADDR, index=index)
        return [decoding.address(body) for body in self._dump(question)]

    def neighbours(self, *, index: int) -> list[decoding.Neighbour]:
        """Behind an interface. Raises LinkError."""
        question = neighbour(GETNEIGH, index=index)
        return [decoding.neighbour(body) for body in self._dump(question)]

    def links(self) -> list[decoding.Link]:
        """Every interface: 3,000 take 60 ms. Raises LinkError."""
        return [decoding.link(body) for body in self._dump(encoding.get_link())]

    def dump(self, message: Any) -> list[Any]:
        """Every object that `message` filters. Raises LinkError."""
        found: list[Any] = []
        for body in self._dump(message):
            found.extend(self._marshal.parse(body))
        return found

    def find_link(self, name: str) -> Any | None:
        """The interface of that name, or None."""
        try:
            return self.get(link(GETLINK, attrs=[("IFLA_IFNAME", name)]))
        except LinkError as exc:
            if exc.errno == errno.ENODEV:
                return None
            raise

    def _dump(self, message: Any) -> Iterator[bytes]:
        self._send([message], DUMP)
        while True:
            for kind, _, body in self._receive():
                if kind == DONE:
                    return
                if kind == ERROR:
                    raise _error(body, message)
                yield body

    def _send_chunk(self, chunk: list[Any]) -> LinkError | None:
        """Errors are told in any case, and in order; that the last one is done says that all are."""
        first = self._send(chunk, ACK)
        error: LinkError | None = None
        at = -1
        while at < len(chunk) - 1:
            for kind, sequence, body in self._receive():
                if kind != ERROR:
                    continue
                at = sequence - first
                if error is None and struct.unpack_from("=i", body, 16)[0] != 0:
                    error = _error(body, chunk[at])
        return error

    def _send(self, messages: Sequence[Any], flags: int) -> int:
        """The number of the first. The flags are those of the last."""
        first = self._sequence + 1
        last = first + len(messages) - 1
        data = bytearray()
        for message in messages:
            self._sequence += 1
            kind, body, own = _request(message)
            size = HEADER.size + len(body)
            more = flags if self._sequence == last else 0
            data += HEADER.pack(size, kind, own | REQUEST | more, self._sequence, 0)
            data += body + b"\0" * (-size % 4)
        self._socket.send(data)
        return first

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """(type, sequence, whole message) of each message of one datagram that answers us."""
        try:
            data = self._read()
        except TimeoutError as exc:
            raise LinkError(errno.ETIMEDOUT, str(exc)) from exc
        at = 0
        while at + HEADER.size <= len(data):
            length, kind, _, sequence, _ = HEADER.unpack_from(data, at)
            if length < HEADER.size:
                break
            yield kind, sequence, data[at : at + length]
            at += (length + 3) & ~3


def _opened(where: netns.Target | None, also: Callable[[], None] | None) -> socket.socket:
    if where is None or also is None:
        return netns.open_socket(where, socket.AF_NETLINK, socket.SOCK_DGRAM)

    def make() -> socket.socket:
        also()
        return netns.open_socket(None, socket.AF_NETLINK, socket.SOCK_DGRAM)

    return netns.visit(where, make)


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
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message["attrs"] = list(attrs)
    return message


def _request(message: Any) -> Request:
    if isinstance(message, Request):
        return message
    header = message["header"]
    message.encode()
    return Request(header["type"], bytes(message.data[HEADER.size :]), header.get("flags", 0))


def _chunks(messages: Sequence[Any]) -> Iterator[list[Any]]:
    """At most 64 requests per datagram: their acknowledgements must fit our receive buffer."""
    for at in range(0, len(messages), 64):
        yield list(messages[at : at + 64])


def _error(body: bytes, message: Any) -> LinkError:
    code = -struct.unpack_from("=i", body, 16)[0]
    kind = message.kind if isinstance(message, Request) else message["header"]["type"]
    text = _error_text(body) or os.strerror(code)
    return LinkError(code, f"{_VERBS.get(kind, kind)}: {text}")


def _error_text(body: bytes) -> str:
    """The kernel's own words, where it has any (extended acknowledgement)."""
    _, _, flags, _, _ = HEADER.unpack_from(body)
    if not flags & _ACK_TLVS:
        return ""
    at = 20 + (HEADER.size if flags & _CAPPED else HEADER.unpack_from(body, 20)[0])
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
    NEWRULE: "add rule",
    DELRULE: "delete rule",
    GETRULE: "list rules",
}
