"""Words of nftables as messages: tables, chains, sets, time-outs, rules made of expressions.

Each function returns the message, or the expression, of one line of a ruleset. Only what we use is here.
"""

import struct
from collections.abc import Sequence

from services._node.nft import (
    APPEND,
    CREATE,
    DELETE_ELEMENTS,
    DELETE_TABLE,
    EXCLUSIVE,
    INET,
    NEW_CHAIN,
    NEW_ELEMENTS,
    NEW_OBJECT,
    NEW_RULE,
    NEW_SET,
    NEW_TABLE,
    Message,
    nested,
    number,
    raw,
    text,
)

PREROUTING, LOCAL_IN, LOCAL_OUT = 0, 1, 3
MARK, SKUID, SKGID, NFPROTO, L4PROTO = 3, 10, 11, 15, 16  # keys of `meta`

_REGISTER = 1
_VERDICT_REGISTER = 0
_RETURN = -5
_CT_TIMEOUT = 7  # type of an object
_DROP, _ACCEPT = 0, 1
_INET_SERVICE = 13  # type of a set's key
_ADDRESS_TYPES = {4: (7, 4), 6: (8, 16)}  # the same, and how long a key is
_ADDRESSES_AT = {4: (12, 16), 6: (8, 24)}  # source and destination in the network header
_FAMILIES = {4: 2, 6: 10}
_SET_TIMEOUT = 0x10
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_SOURCE, _DESTINATION = 0, 2  # ports in it
_TCP_FLAGS = 13
_SYN, _ACK = 0x02, 0x10
_LIST_ITEM = 1


def table(name: str, *, flags: int = 0, exclusive: bool = True) -> Message:
    """A new table; not `exclusive`: one that stands already will do."""
    body = text(1, name) + number(2, flags)
    return Message(NEW_TABLE, INET, body, CREATE | (EXCLUSIVE if exclusive else 0))


def delete_table(name: str) -> Message:
    return Message(DELETE_TABLE, INET, text(1, name))


def base_chain(table: str, name: str, *, kind: str, hook: int, priority: int) -> Message:
    """A chain that a hook runs; `kind` is `nat` or `filter`."""
    hooked = nested(4, number(1, hook), number(2, priority))
    body = text(1, table) + text(3, name) + hooked + text(7, kind)
    return Message(NEW_CHAIN, INET, body, CREATE | EXCLUSIVE)


def chain(table: str, name: str) -> Message:
    """A chain that rules jump to."""
    return Message(NEW_CHAIN, INET, text(1, table) + text(3, name), CREATE | EXCLUSIVE)


def port_set(table: str, name: str, *, timeout_seconds: float) -> Message:
    """A set of ports, each of which leaves it by itself."""
    body = (
        text(1, table)
        + text(2, name)
        + number(3, _SET_TIMEOUT)
        + number(4, _INET_SERVICE)
        + number(5, 2)
        + number(10, 1)
        + raw(11, struct.pack(">Q", int(timeout_seconds * 1000)))
    )
    return Message(NEW_SET, INET, body, CREATE | EXCLUSIVE)


def address_set(table: str, name: str, *, version: int) -> Message:
    """A set of addresses of one family."""
    kind, size = _ADDRESS_TYPES[version]
    body = (
        text(1, table)
        + text(2, name)
        + number(3, 0)
        + number(4, kind)
        + number(5, size)
        + number(10, version)
    )
    return Message(NEW_SET, INET, body, CREATE | EXCLUSIVE)


def add_addresses(table: str, name: str, addresses: Sequence[bytes]) -> Message:
    """Packed addresses enter a set; some thousand at most: one attribute holds them all."""
    elements = (nested(_LIST_ITEM, nested(1, raw(1, each))) for each in addresses)
    body = text(1, table) + text(2, name) + nested(3, *elements)
    return Message(NEW_ELEMENTS, INET, body, CREATE)


def add_port(table: str, name: str, port: int) -> Message:
    """A port enters a set; one that is in it already keeps its time."""
    return Message(NEW_ELEMENTS, INET, _element(table, name, port), CREATE)


def delete_port(table: str, name: str, port: int) -> Message:
    return Message(DELETE_ELEMENTS, INET, _element(table, name, port))


def udp_timeout(table: str, name: str, *, seconds: int) -> Message:
    """A named life time for entries of connection tracking: this long after the last packet."""
    policy = nested(3, number(1, seconds), number(2, seconds))  # not answered yet; answered
    data = nested(4, raw(2, bytes([17])), policy)
    body = text(1, table) + text(2, name) + number(3, _CT_TIMEOUT) + data
    return Message(NEW_OBJECT, INET, body, CREATE | EXCLUSIVE)


def rule(table: str, chain: str, expressions: Sequence[bytes]) -> Message:
    """A rule at the end of a chain."""
    body = text(1, table) + text(2, chain) + nested(4, *expressions)
    return Message(NEW_RULE, INET, body, CREATE | APPEND)


def meta_is(key: int, value: bytes, *, mask: bytes = b"") -> list[bytes]:
    """`meta KEY and MASK == VALUE`; values in the order that the kernel keeps them in."""
    loaded = [_expression("meta", number(1, _REGISTER), number(2, key))]
    if mask:
        loaded.append(_masked(mask))
    return [*loaded, _equal(value)]


def opens_tcp() -> list[bytes]:
    """`tcp flags & (syn|ack) == syn`; the protocol must have been matched before."""
    return [_payload(_TCP_FLAGS, 1), _masked(bytes([_SYN | _ACK])), _equal(bytes([_SYN]))]


def port_is_in(name: str) -> list[bytes]:
    """`th dport @NAME`; the protocol must have been matched before."""
    return [_payload(_DESTINATION, 2), _expression("lookup", text(1, name), number(2, _REGISTER))]


def port_is_absent(name: str, port: int, *, source: bool = False) -> list[bytes]:
    """`th dport PORT th dport != @NAME`, or the same of the source port."""
    loaded = _payload(_SOURCE if source else _DESTINATION, 2)
    absent = number(5, 1)
    return [
        loaded,
        _equal(_packed(port)),
        _expression("lookup", text(1, name), number(2, _REGISTER), absent),
    ]


def port_is(port: int) -> list[bytes]:
    """`th dport PORT`."""
    return [_payload(_DESTINATION, 2), _equal(_packed(port))]


def address_is_in(name: str, *, version: int, source: bool) -> list[bytes]:
    """`ip saddr @NAME`, or the same of the destination, or of IPv6."""
    at = _ADDRESSES_AT[version][0 if source else 1]
    return [
        *meta_is(NFPROTO, bytes([_FAMILIES[version]])),
        _payload(at, _ADDRESS_TYPES[version][1], header=_NETWORK_HEADER),
        _expression("lookup", text(1, name), number(2, _REGISTER)),
    ]


def accept() -> list[bytes]:
    """`accept`, by this chain: others of the hook may still object"""
    return [_verdict(number(1, _ACCEPT))]


def drop() -> list[bytes]:
    """`drop`"""
    return [_verdict(number(1, _DROP))]


def notrack() -> list[bytes]:
    """`notrack`"""
    return [nested(_LIST_ITEM, text(1, "notrack"))]


def redirect(port: int) -> list[bytes]:
    """`redirect to :PORT`"""
    value = nested(2, raw(1, struct.pack(">H", port)))
    return [
        _expression("immediate", number(1, _REGISTER), value),
        _expression("redir", number(1, _REGISTER)),
    ]


def set_timeout(name: str) -> list[bytes]:
    """`ct timeout set NAME`"""
    return [_expression("objref", number(1, _CT_TIMEOUT), text(2, name))]


def back() -> list[bytes]:
    """`return`"""
    return [_verdict(number(1, _RETURN))]


def jump(chain: str) -> list[bytes]:
    """`jump CHAIN`"""
    return [_verdict(number(1, -3), text(2, chain))]


def _verdict(*inside: bytes) -> bytes:
    value = nested(2, nested(2, *inside))
    return _expression("immediate", number(1, _VERDICT_REGISTER), value)


def _payload(offset: int, size: int, *, header: int = _TRANSPORT_HEADER) -> bytes:
    return _expression(
        "payload",
        number(1, _REGISTER),
        number(2, header),
        number(3, offset),
        number(4, size),
    )


def _masked(mask: bytes) -> bytes:
    return _expression(
        "bitwise",
        number(1, _REGISTER),
        number(2, _REGISTER),
        number(3, len(mask)),
        nested(4, raw(1, mask)),
        nested(5, raw(1, bytes(len(mask)))),
    )


def _equal(value: bytes) -> bytes:
    return _expression("cmp", number(1, _REGISTER), number(2, 0), nested(3, raw(1, value)))


def _packed(port: int) -> bytes:
    return struct.pack(">H", port)


def _element(table: str, name: str, port: int) -> bytes:
    element = nested(_LIST_ITEM, nested(1, raw(1, struct.pack(">H", port))))
    return text(1, table) + text(2, name) + nested(3, element)


def _expression(name: str, *inside: bytes) -> bytes:
    return nested(_LIST_ITEM, text(1, name), nested(2, *inside))
