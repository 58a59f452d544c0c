"""Captured flows in connection tracking: found and forgotten.

A flow keeps its translation for as long as packets renew it, also when the rule that made it is gone, or makes
another one by now. Without this part of the kernel (`nf_conntrack_netlink`) nothing is forgotten.
"""

import contextlib
import struct
from collections.abc import Callable

from services._node import nft
from services._node.nft import Message, Nft

_GET, _DELETE = 1, 2
_ORIGINAL, _REPLY, _STATUS, _ID, _FILTER = 1, 2, 3, 12, 25
_PROTOCOL, _NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 2, 1, 2, 3
_BY_NUMBER_AND_DESTINATION = 1 << 3 | 1 << 5
_TRANSLATED = 0x20  # its destination
_UDP = 17


def forget(socket: Nft, *, port: int, sent_to: Callable[[int], bool]) -> None:
    """Forget UDP flows to `port` whose destination was translated to a port that is meant."""
    for family in (nft.IPV4, nft.IPV6):
        try:
            found = socket.dump(_question(family, port))
        except OSError:
            return  # not in this kernel
        for _, flow in found:
            if _is_to(flow, port) and sent_to(_port(flow[_REPLY], _SOURCE_PORT)):
                _delete(socket, family, flow)


def _delete(socket: Nft, family: int, flow: nft.Attributes) -> None:
    body = nft.nested(_ORIGINAL, flow[_ORIGINAL]) + nft.raw(_ID, flow[_ID])
    with contextlib.suppress(OSError):  # it ended meanwhile
        socket.request(Message(_DELETE, family, body, subsystem=nft.CONNTRACK))


def _question(family: int, port: int) -> Message:
    """Kernels before 5.8 do not filter, and tell of every flow."""
    protocol = nft.nested(
        _PROTOCOL,
        nft.raw(_NUMBER, bytes([_UDP])),
        nft.raw(_DESTINATION_PORT, struct.pack(">H", port)),
    )
    # In the order of this machine, unlike all else.
    flags = nft.raw(1, struct.pack("=I", _BY_NUMBER_AND_DESTINATION)) + nft.raw(2, bytes(4))
    body = nft.nested(_ORIGINAL, protocol) + nft.nested(_FILTER, flags)
    return Message(_GET, family, body, subsystem=nft.CONNTRACK)


def _is_to(flow: nft.Attributes, port: int) -> bool:
    if not {_ORIGINAL, _REPLY, _STATUS, _ID} <= flow.keys():
        return False
    protocol = _part(flow[_ORIGINAL])
    return (
        protocol.get(_NUMBER) == bytes([_UDP])
        and _port(flow[_ORIGINAL], _DESTINATION_PORT) == port
        and bool(nft.read_number(flow[_STATUS]) & _TRANSLATED)
    )


def _port(tuple_: bytes, which: int) -> int:
    return nft.read_number(_part(tuple_).get(which, b""))


def _part(tuple_: bytes) -> nft.Attributes:
    return nft.attributes(nft.attributes(tuple_).get(_PROTOCOL, b""))
