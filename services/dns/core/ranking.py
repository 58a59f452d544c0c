"""What an answer is worth, and when enough was heard.

A positive answer ends the query at once. Anything less waits for the others: a server that does not know a
name says so faster than the one that does. Answers are never merged. Of equal ones that of the upstream
named first is given, so that what a client gets does not depend on who was quicker.
"""

import enum

from services.dns.core import wire
from services.dns.core.queries import Query

_NS, _SOA = 2, 6
_MAX_CHAIN = 32
_TO_DATA = wire.HEADER + 8  # class, TTL and length of a record are between its type and its data


class Rank(enum.IntEnum):
    """From worst to best."""

    NOTHING = 0
    REFUSED = 1
    SERVFAIL = 2
    OTHER = 3  # FORMERR, NOTIMP: it would not even try
    NXDOMAIN = 4
    NODATA = 5  # above NXDOMAIN: the name exists, and its other types are not to be denied with it
    ALIAS = 6  # a chain that ends before the asked type
    POSITIVE = 7


# Members looked up once: that takes longer than all else that is done with them, and this runs for every packet.
NOTHING, NODATA, POSITIVE = Rank.NOTHING, Rank.NODATA, Rank.POSITIVE
_NXDOMAIN = Rank.NXDOMAIN
_BY_CODE = {
    wire.SERVFAIL: Rank.SERVFAIL,
    wire.REFUSED: Rank.REFUSED,
}
_WITHOUT_QUESTION = frozenset({wire.FORMERR, wire.SERVFAIL, wire.NOTIMP, wire.REFUSED})


def is_reply(packet: bytes) -> bool:
    """Whether it replies to any query at all."""
    return len(packet) >= wire.HEADER and packet[2] & 0xF8 == 0x80


def is_reply_to(packet: bytes, query: Query) -> bool:
    """Whether a packet whose ID fits replies to the query, and not to something a stranger made up."""
    if len(packet) < wire.HEADER or packet[2] & 0xF8 != 0x80:
        return False
    if packet[4:6] == b"\0\1":
        if packet.startswith(query.question, wire.HEADER):
            return True
        found = packet[wire.HEADER : wire.HEADER + len(query.question)]
        return found[-4:] == query.question[-4:] and found[:-4].lower() == query.name
    return len(packet) == wire.HEADER and packet[3] & 0xF in _WITHOUT_QUESTION


def is_truncated(reply: bytes) -> bool:
    """Whether the server had more to say than fits a datagram."""
    return bool(reply[2] & wire.TC_BIT)


def rank_of(reply: bytes, query: Query) -> Rank:
    """The worth of what `is_reply_to` the query."""
    code = reply[3] & 0xF
    if code == wire.NXDOMAIN:
        return _NXDOMAIN
    if code:
        return _BY_CODE.get(code, Rank.OTHER)
    if reply[2] & wire.TC_BIT:
        return POSITIVE
    plain = query.plain
    if reply.startswith(plain, wire.HEADER) and reply[6:8] != b"\0\0":
        data = len(plain) + _TO_DATA
        if len(reply) >= data and len(reply) >= data + (reply[data - 2] << 8 | reply[data - 1]):
            return POSITIVE
    try:
        return _rank_of_content(reply, query)
    except wire.Broken:
        return Rank.SERVFAIL


def _rank_of_content(reply: bytes, query: Query) -> Rank:
    first, counts = wire.HEADER + len(query.question), wire.counts(reply)
    aliases: dict[bytes, bytes] = {}
    owners: set[bytes] = set()
    end = first
    for record in wire.records(reply, first, counts.answers):
        owner, end = wire.read_name(reply, record.start).lower(), record.end
        if query.type in (record.type, wire.ANY):
            owners.add(owner)
        elif record.type == wire.CNAME:
            aliases[owner] = wire.read_name(reply, record.data).lower()
    name = query.name
    for _ in range(_MAX_CHAIN):
        if name in owners:
            return Rank.POSITIVE
        if name not in aliases:
            break
        name = aliases[name]
    if name != query.name:
        return Rank.ALIAS
    return Rank.REFUSED if _is_referral(reply, end, counts) else Rank.NODATA


def _is_referral(reply: bytes, offset: int, counts: wire.Counts) -> bool:
    """`Ask somebody else`, which some servers say of every name that is not theirs. It denies nothing."""
    kinds = {record.type for record in wire.records(reply, offset, counts.authorities)}
    return not reply[2] & 0x04 and not counts.answers and _NS in kinds and _SOA not in kinds
