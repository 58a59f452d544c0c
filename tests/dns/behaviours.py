"""What a server can do to a query, as bytes; and what is right to answer when several of them do."""

from collections.abc import Sequence
from typing import NamedTuple

from services.dns.core.ranking import Rank
from tests.dns.upstreams import dnslib, parsed

BUDGET, LAST, RETRANSMIT = 2.0, 2.8, 0.4
LATE = 2.3  # after the budget for a better answer, before that for any


class Behaviour(NamedTuple):
    """`rank` of what it says in the end, `after` so long; nothing for who never says anything that counts."""

    name: str
    rank: Rank | None
    after: float = 0.0


BEHAVIOURS = [
    Behaviour("positive", Rank.POSITIVE),
    Behaviour("elsewhere", Rank.POSITIVE),  # a CNAME, and what it leads to
    Behaviour("truncated", Rank.POSITIVE),
    Behaviour("barecname", Rank.ALIAS),
    Behaviour("nodata", Rank.NODATA),
    Behaviour("nxdomain", Rank.NXDOMAIN),
    Behaviour("servfail", Rank.SERVFAIL),
    Behaviour("refused", Rank.REFUSED),
    Behaviour("lossy", Rank.POSITIVE, RETRANSMIT),  # the first packet is lost
    Behaviour("late", Rank.POSITIVE, LATE),
    Behaviour("silent", None),
    Behaviour("wrongid", None),
    Behaviour("wrongport", None),
    Behaviour("wrongquestion", None),
    Behaviour("wrongqr", None),
    Behaviour("runt", None),
    Behaviour("garbage", None),
]
BY_NAME = {behaviour.name: behaviour for behaviour in BEHAVIOURS}


def reply_of(behaviour: str, packet: bytes) -> bytes:
    """What such a server sends, but for when; empty: nothing."""
    match behaviour:
        case "silent":
            return b""
        case "runt":
            return packet[:2] + b"\x80"
        case "garbage":
            return packet[:2] + b"\xff" * 40
    query = parsed(packet)
    if behaviour == "wrongquestion":
        query.q.qname = "other.example"
    reply = query.reply(ra=1)
    codes = {"nxdomain": 3, "servfail": 2, "refused": 5}
    reply.header.rcode = codes.get(behaviour, 0)
    if behaviour in {"elsewhere", "barecname"}:
        reply.add_answer(*dnslib.RR.fromZone(f"{query.q.qname} 5 CNAME b.other.example."))
    if behaviour == "elsewhere":
        reply.add_answer(*dnslib.RR.fromZone("b.other.example. 5 A 10.0.0.2"))
    if behaviour in {"positive", "lossy", "late", "wrongid", "wrongport", "wrongqr"}:
        reply.add_answer(*dnslib.RR.fromZone(f"{query.q.qname} 5 A 10.0.0.1"))
    if behaviour == "truncated":
        reply.header.tc = 1
    packed = bytearray(reply.pack())
    if behaviour == "wrongid":
        packed[0] ^= 0xFF
    if behaviour == "wrongqr":
        packed[2] &= 0x7F
    return bytes(packed)


def right_answer(servers: Sequence[tuple[str, float]]) -> tuple[Rank, float]:
    """What a client is to get, and after how long, if these servers answer so after so many seconds."""
    said = []
    for name, delay in servers:
        behaviour = BY_NAME[name]
        if behaviour.rank is not None:
            said.append((behaviour.after + delay, behaviour.rank))
    said.sort()
    negative = [rank for at, rank in said if rank is not Rank.POSITIVE and at <= BUDGET]
    limit = BUDGET if negative else LAST
    positive = [at for at, rank in said if rank is Rank.POSITIVE and at <= limit]
    if positive:
        return Rank.POSITIVE, positive[0]
    if len(negative) == len(servers):
        return max(negative), max(at for at, _ in said)
    return (max(negative), BUDGET) if negative else (Rank.NOTHING, LAST)
