"""Whether the other end of a link is there: its kernel is asked, and nobody else.

The question is who has the peer's address, sent to the peer's MAC: ARP, or for IPv6 a neighbour solicitation. No
process answers it, so a peer's agents may be down or restarting; no filter of IP packets stops it where there is
IPv4. Frames leave through the interface whatever it is part of, and answers are known by the MAC that they are
for. One socket asks for all interfaces of a network; it keeps the network alive: close it when the Pod ends.
"""

import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from services._node import filtering, netns
from services._node.filtering import JUMP_EQUAL, LOAD_BYTE, LOAD_HALF, NOTHING, RETURN, WHOLE

_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_ICMPV6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_REQUEST, _REPLY = 1, 2
_BUFFER_BYTES = 1 << 16
_ETHERNET = struct.Struct("!6s6sH")
_ARP_BODY = struct.Struct("!HHBBH6s4s6s4s")
_IPV6_HEADER = struct.Struct("!IHBB16s16s")

# On whole frames: questions and answers pass.
_PASS_ARP = (
    (LOAD_HALF, 0, 0, 20),  # the operation
    (JUMP_EQUAL, 1, 0, _REQUEST),
    (JUMP_EQUAL, 0, 1, _REPLY),
    (RETURN, 0, 0, WHOLE),
    (RETURN, 0, 0, NOTHING),
)
_PASS_NEIGHBOURS = (
    (LOAD_BYTE, 0, 0, 20),  # the next header
    (JUMP_EQUAL, 0, 4, _ICMPV6),
    (LOAD_BYTE, 0, 0, 54),  # the type
    (JUMP_EQUAL, 1, 0, _SOLICITATION),
    (JUMP_EQUAL, 0, 1, _ADVERTISEMENT),
    (RETURN, 0, 0, WHOLE),
    (RETURN, 0, 0, NOTHING),
)


class Question(NamedTuple):
    """Is the one who has `peer_mac` and `peer` there? Both addresses are of one family."""

    interface: str
    mac: str
    own: str
    peer_mac: str
    peer: str


class Heard(NamedTuple):
    """What a frame says: for which MAC it is, whose address its sender has, and whether it answers us."""

    mac: bytes
    peer: str
    is_answer: bool


def open_socket(target: netns.Target, *, version: int) -> socket.socket:
    """A socket for questions of that family of addresses, in the namespace; it never blocks."""

    def make() -> socket.socket:
        protocol = socket.htons(_ARP if version == 4 else _IPV6)
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        made = socket.socket(socket.AF_PACKET, kind, protocol)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            filtering.attach(made, _PASS_ARP if version == 4 else _PASS_NEIGHBOURS)
        except BaseException:
            made.close()
            raise
        return made

    return netns.visit(target, make)


def ask(asking: socket.socket, question: Question) -> None:
    """Raises OSError, say because the interface is not there or down."""
    family = _ARP if ip_address(question.peer).version == 4 else _IPV6
    asking.sendto(render(question), (question.interface, family))


def render(question: Question) -> bytes:
    """The frame of a question."""
    peer_mac, mac = packed_mac(question.peer_mac), packed_mac(question.mac)
    own, peer = ip_address(question.own), ip_address(question.peer)
    if isinstance(own, IPv4Address):
        body = _ARP_BODY.pack(1, _IPV4, 6, 4, _REQUEST, mac, own.packed, bytes(6), peer.packed)
        return _ETHERNET.pack(peer_mac, mac, _ARP) + body
    assert isinstance(peer, IPv6Address)
    message = struct.pack("!BBHI", _SOLICITATION, 0, 0, 0) + peer.packed + b"\x01\x01" + mac
    checksum = _checksum(own, peer, message)
    message = message[:2] + struct.pack("!H", checksum) + message[4:]
    header = _IPV6_HEADER.pack(6 << 28, len(message), _ICMPV6, 255, own.packed, peer.packed)
    return _ETHERNET.pack(peer_mac, mac, _IPV6) + header + message


def understand(frame: bytes) -> Heard | None:
    """What a frame says, if it is about who is there."""
    if len(frame) < _ETHERNET.size:
        return None
    mac, _, kind = _ETHERNET.unpack_from(frame)
    if kind == _ARP and len(frame) >= _ETHERNET.size + _ARP_BODY.size:
        fields = _ARP_BODY.unpack_from(frame, _ETHERNET.size)
        return Heard(mac, str(IPv4Address(fields[6])), is_answer=fields[4] == _REPLY)
    if kind == _IPV6 and len(frame) >= 78 and frame[54] in {_SOLICITATION, _ADVERTISEMENT}:
        is_answer = frame[54] == _ADVERTISEMENT
        peer = frame[62:78] if is_answer else frame[22:38]  # the target; the sender
        return Heard(mac, str(IPv6Address(peer)), is_answer=is_answer)
    return None


def packed_mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _checksum(own: IPv6Address, peer: IPv6Address, message: bytes) -> int:
    data = own.packed + peer.packed + struct.pack("!II", len(message), _ICMPV6) + message
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
