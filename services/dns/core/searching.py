"""Names below a service's search domains, for names of one label that nobody knows as they are.

The Pod's own search list comes before: some ask for a name as it is first, others go on when a server failed, and
what that list finds, or may find, keeps its meaning. Only if all of it is denied a service is asked.

The Pod's own resolver knows nothing of a service's domains. So the answer to the longer name is given as that of an
alias: a CNAME of the name that was asked, then the records.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from schemas.state import Upstream
from services.dns.core import replies, wire
from services.dns.core.queries import Query, plain_answer
from services.dns.core.scope import Scope
from services.dns.model import CLUSTER

MAX_CANDIDATES = 8
_MOST_OWN = 32  # as many as a Pod may have
_ALIAS_TTL = 5  # ours, not the zone's: ends soon after the connection that gave it
# Types whose data holds names that may be compressed (RFC 3597, 4): bytes before the names, names, bytes behind.
_NAMES_IN = {2: (0, 1), 5: (0, 1), 6: (0, 2), 12: (0, 1), 15: (2, 1)}


class Candidate(NamedTuple):
    """A longer name, and the only upstream that is asked for it."""

    query: Query
    upstream: Upstream


def candidates(query: Query, upstreams: tuple[Upstream, ...], scope: Scope) -> list[Candidate]:
    """What else the query may mean, best first. Nothing for longer names."""
    if not query.is_single_label:
        return []
    found: list[Candidate] = []
    for upstream in upstreams:
        if upstream.name == CLUSTER:
            continue
        for domain in upstream.search_domains:
            name = _below(query, domain)
            if name and len(found) < MAX_CANDIDATES and scope.covers(upstream, name):
                found.append(Candidate(renamed(query, name), upstream))
    return found


def own(query: Query, upstreams: tuple[Upstream, ...]) -> list[Query]:
    """What a name of one label means by the Pod's own search list."""
    domains = [
        d for upstream in upstreams if upstream.name == CLUSTER for d in upstream.search_domains
    ]
    names = [_below(query, domain) for domain in domains[:_MOST_OWN]]
    return [renamed(query, name) for name in names if name]


def _below(query: Query, domain: str) -> bytes | None:
    suffix = wire.wire_name(domain)
    if suffix is None or suffix == b"\0" or len(query.name) + len(suffix) > wire.MAX_NAME + 1:
        return None
    return query.name[:-1] + suffix


def renamed(query: Query, name: bytes) -> Query:
    """The same query for another name."""
    question = name + query.question[-4:]
    flags_and_counts, tail = query.sent[:10], query.sent[10 + len(query.question) :]
    return msgspec.structs.replace(
        query,
        name=name,
        question=question,
        sent=flags_and_counts + question + tail,
        plain=plain_answer(question),
        scope=None,
    )


def aliased(reply: bytes, query: Query, target: Query) -> bytes | None:
    """The reply to `target`, behind the ID, as a reply to `query`; None if that cannot be made of it.

    Only the answer section is taken, its names written out: every offset has moved.
    """
    try:
        counts = wire.counts(reply)
        found = list(wire.records(reply, wire.HEADER + len(target.question), counts.answers))
        body = b"".join(_written_out(reply, record) for record in found)
    except wire.Broken:
        return None
    alias = b"\xc0\x0c" + struct.pack("!HHIH", wire.CNAME, 1, _ALIAS_TTL, len(target.name))
    flags = bytes([reply[2] & ~0x04, reply[3] & ~0x20 | 0x80])  # not authoritative or authenticated
    head = flags + struct.pack("!HHHH", 1, len(found) + 1, 0, query.edns)
    tail = replies.opt() if query.edns else b""
    whole = head + query.question + alias + target.name + body + tail
    return whole if len(whole) + 2 <= wire.MAX_MESSAGE else None


def _written_out(reply: bytes, record: wire.Record) -> bytes:
    data = b"".join(_data(reply, record))
    fixed = struct.pack("!HHIH", record.type, record.rclass, record.ttl, len(data))
    return wire.read_name(reply, record.start) + fixed + data


def _data(reply: bytes, record: wire.Record) -> Iterator[bytes]:
    offset = record.data
    if record.type in _NAMES_IN:
        before, names = _NAMES_IN[record.type]
        yield reply[offset : offset + before]
        offset += before
        for _ in range(names):
            yield wire.read_name(reply, offset)
            offset = wire.skip_name(reply, offset)
        if offset > record.end:
            raise wire.Broken("names reach beyond their record")
    yield reply[offset : record.end]
