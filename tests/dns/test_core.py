"""Rules of the core, as tables and properties; packets by dnslib or by chance."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.state import Upstream
from services.dns.core import queries, ranking, replies, searching, wire
from services.dns.core.flights import Flight
from services.dns.core.health import Health, State
from services.dns.core.ranking import Rank
from services.dns.core.scope import Scope
from services.dns.model import Profile
from tests.dns.upstreams import a_profile, a_query, cluster, dnslib, parsed, says, service

RANKS = st.sampled_from(list(Rank)[1:])
LABELS = st.sampled_from(["a", "B", "corp", "example", "svc", "cluster", "local", "arpa", "x1"])
NAMES = st.lists(LABELS, max_size=5).map(".".join)


def read(packet: bytes) -> queries.Query:
    query = queries.parse(packet)
    assert isinstance(query, queries.Query)
    return query


def rank(packet: bytes, query: queries.Query) -> Rank:
    assert ranking.is_reply_to(packet, query)
    return ranking.rank_of(packet, query)


def a_reply(name, kind, *records, **more):
    found = says(*records, **more)(parsed(a_query(name, kind)), "udp")
    assert isinstance(found, tuple) and found[1]
    return found[1]


# --- scope -------------------------------------------------------------------------------------------------


def labels(name: str) -> list[str]:
    return [label for label in name.rstrip(".").lower().split(".") if label]


def naive(profile: Profile, name: str) -> list[str]:
    def below(domain: str) -> bool:
        wanted = labels(domain)
        return not wanted or labels(name)[-len(wanted) :] == wanted

    reserved = below(profile.cluster_domain) or below("arpa")
    found = []
    for upstream in profile.upstreams:
        explicit = any(below(d) for d in upstream.domains if labels(d))
        everything = not upstream.domains or any(not labels(d) for d in upstream.domains)
        if upstream.name == "cluster" or explicit or (everything and not reserved):
            found.append(upstream.name)
    return found


@given(
    name=NAMES,
    services=st.lists(
        st.lists(st.one_of(NAMES, NAMES.map(lambda n: n + ".")), max_size=3), max_size=4
    ),
)
def test_scope_is_what_a_naive_reading_of_the_rule_gives(name, services):
    made = [service(f"s{n}", "10.0.0.1", domains=tuple(d)) for n, d in enumerate(services)]
    profile = a_profile(*made[:1], cluster("10.0.0.2"), *made[1:])
    asked = wire.wire_name(name)
    assert asked is not None

    assert [u.name for u in Scope(profile).upstreams_for(asked)] == naive(profile, name)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("corp.example", ["cluster", "all", "corp"]),
        ("db.corp.example", ["cluster", "all", "corp"]),
        ("xcorp.example", ["cluster", "all"]),
        ("corp.example.net", ["cluster", "all"]),
        ("kubernetes.default.svc.cluster.local", ["cluster"]),
        ("x.ns.svc.cluster.local", ["cluster", "claims"]),
        ("1.0.96.10.in-addr.arpa", ["cluster"]),
        ("5.1.16.172.in-addr.arpa", ["cluster", "claims"]),
    ],
)
def test_only_an_explicit_domain_claims_what_is_the_clusters(name, expected):
    profile = a_profile(
        cluster("10.96.0.10"),
        service("all", "10.0.0.1"),
        service("corp", "10.0.0.2", domains=("Corp.Example.",)),
        service("claims", "10.0.0.3", domains=("ns.svc.cluster.local", "16.172.in-addr.arpa")),
    )
    asked = wire.wire_name(name)
    assert asked is not None

    assert [u.name for u in Scope(profile).upstreams_for(asked)] == expected


def test_a_domain_that_is_no_name_claims_nothing():
    profile = a_profile(service("x", "10.0.0.1", domains=("a..b", "é.example", "x" * 64)))

    assert Scope(profile).upstreams_for(b"\1a\0") == ()


# --- ranking -----------------------------------------------------------------------------------------------

HEARD = st.lists(RANKS.filter(lambda r: r is not Rank.POSITIVE), min_size=1, max_size=5)


@given(ranks=HEARD, data=st.data())
def test_the_best_negative_answer_does_not_depend_on_who_was_quicker(ranks, data):
    nobody: Any = None
    asked = tuple((nobody, 1 << index) for index in range(len(ranks)))
    flight = Flight(nobody, read(a_query("a.example")), asked, 0.0)
    for index, found in data.draw(st.permutations(list(enumerate(ranks)))):
        flight.ranked(1 << index, found, str(index).encode())

    best = max(ranks)
    if best is not Rank.NOTHING:
        assert (flight.rank, flight.best) == (best, str(ranks.index(best)).encode())
    assert flight.owing == 0


@pytest.mark.parametrize(
    ("kind", "records", "more", "expected"),
    [
        ("A", ["@ 5 A 10.0.0.1"], {}, Rank.POSITIVE),
        ("A", ["@ 5 CNAME b.example.", "b.example. 5 A 10.0.0.1"], {}, Rank.POSITIVE),
        ("A", ["b.example. 5 A 10.0.0.1", "@ 5 CNAME b.example."], {}, Rank.POSITIVE),
        ("CNAME", ["@ 5 CNAME b.example."], {}, Rank.POSITIVE),
        ("ANY", ["@ 5 TXT x"], {}, Rank.POSITIVE),
        ("A", ["@ 5 CNAME b.example."], {}, Rank.ALIAS),
        ("A", ["@ 5 CNAME @"], {}, Rank.NODATA),
        ("A", ["@ 5 CNAME b.example.", "c.example. 5 A 10.0.0.1"], {}, Rank.ALIAS),
        ("A", ["other.example. 5 A 10.0.0.1"], {}, Rank.NODATA),
        ("A", ["@ 5 TXT x"], {}, Rank.NODATA),
        ("A", [], {}, Rank.NODATA),
        ("A", ["@ 5 CNAME b.example."], {"rcode": "NXDOMAIN"}, Rank.NXDOMAIN),
        ("A", [], {"rcode": "SERVFAIL"}, Rank.SERVFAIL),
        ("A", [], {"rcode": "REFUSED"}, Rank.REFUSED),
        ("A", [], {"rcode": "NOTIMP"}, Rank.OTHER),
    ],
)
def test_the_worth_of_an_answer(kind, records, more, expected):
    query = read(a_query("a.Example", kind))

    assert rank(a_reply("a.Example", kind, *records, **more), query) is expected


@pytest.mark.parametrize(("aa", "expected"), [(0, Rank.REFUSED), (1, Rank.NODATA)])
def test_a_referral_denies_nothing(aa, expected):
    reply = dnslib.DNSRecord.question("a.example").reply(aa=aa)
    reply.add_auth(*dnslib.RR.fromZone("example. 5 NS ns.example."))

    assert rank(bytes(reply.pack()), read(a_query("a.example"))) is expected


def test_a_truncated_answer_is_positive_and_a_broken_one_a_failure():
    reply = bytearray(a_reply("a.example", "A", "@ 5 CNAME b.example."))
    query = read(a_query("a.example"))
    assert rank(bytes(reply[:-3]), query) is Rank.SERVFAIL
    reply[2] |= wire.TC_BIT
    assert rank(bytes(reply[:-3]), query) is Rank.POSITIVE


def test_only_the_same_question_makes_a_reply():
    query = read(a_query("A.example", "AAAA"))
    assert ranking.is_reply_to(a_reply("a.EXAMPLE", "AAAA"), query)
    assert not ranking.is_reply_to(a_reply("b.example", "AAAA"), query)
    assert not ranking.is_reply_to(a_reply("a.example", "A"), query)
    assert not ranking.is_reply_to(a_query("A.example", "AAAA"), query)
    # Types 65 and 97 differ in the bit that tells letters' cases apart.
    assert not ranking.is_reply_to(
        a_reply("a.example", "TYPE97"), read(a_query("a.example", "HTTPS"))
    )


def test_a_header_alone_replies_only_as_an_error():
    query = read(a_query("a.example"))
    for code in range(16):
        packet = b"\0\0\x80" + bytes([code]) + b"\0" * 8
        assert ranking.is_reply_to(packet, query) == (code in {1, 2, 4, 5})


# --- queries and replies -----------------------------------------------------------------------------------


def test_a_query_passes_upstreams_byte_for_byte_but_for_the_id():
    packet = a_query("a.example", "TYPE4711", edns=1232)

    assert read(packet).sent == packet[2:]


def test_signed_queries_are_not_touched():
    packet = bytearray(
        a_query("a.example", edns=65000, options=[dnslib.EDNSOption(10, b"12345678")])
    )
    packet[11] += 1
    packet += b"\0\0\xfa\0\xff\0\0\0\0\0\3abc"

    assert read(bytes(packet)).sent == bytes(packet[2:])


@pytest.mark.parametrize(("edns", "room"), [(0, 512), (100, 512), (1232, 1232), (65000, 65000)])
def test_a_datagram_has_the_room_that_the_client_says_and_at_least_512(edns, room):
    assert read(a_query("a.example", edns=edns)).room == room


def test_a_version_of_edns_that_nobody_speaks_is_told_so():
    packet = bytearray(a_query("a.example", edns=1232))
    packet[-5] = 1
    fault = queries.parse(bytes(packet))

    assert fault is queries.Fault.BADVERS
    reply = parsed(bytes(packet[:2]) + replies.to_fault(bytes(packet), fault))
    assert (reply.header.rcode, reply.ar[0].ttl >> 24) == (0, 1)


def test_a_second_opt_is_an_error():
    packet = bytearray(a_query("a.example", edns=1232))
    packet[11] += 1

    assert queries.parse(bytes(packet + packet[-11:])) is queries.Fault.FORMERR


def test_a_failure_repeats_the_question_and_says_why_where_it_may():
    for edns in (0, 1232):
        query = read(a_query("a.Example", edns=edns))
        reply = parsed(b"\1\2" + replies.failure(query))

        assert (reply.header.rcode, reply.header.ra, reply.header.rd) == (2, 1, 1)
        assert str(reply.q.qname) == "a.Example."
        assert [option.code for rr in reply.ar for option in rr.rdata] == ([15] if edns else [])


def test_a_reply_that_does_not_fit_keeps_its_code_and_says_truncated():
    query = read(a_query("a.example", "TXT"))
    body = a_reply("a.example", "TXT", *[f"@ 5 TXT {'x' * 200}{n}" for n in range(9)])[2:]
    reply = parsed(b"\1\2" + replies.fitted(body, query))

    assert (reply.header.tc, reply.header.rcode, reply.rr) == (1, 0, [])
    assert parsed(b"\1\2" + replies.untruncated(replies.fitted(body, query))).header.tc == 0


# --- search domains ----------------------------------------------------------------------------------------


def searched(*upstreams: Upstream, name: str = "db") -> list[str]:
    found = searching.candidates(read(a_query(name)), upstreams, Scope(a_profile(*upstreams)))
    return [f"{parsed(b'xx' + c.query.sent).q.qname}@{c.upstream.name}" for c in found]


def test_candidates_are_within_their_services_domains_in_the_order_given():
    first = service(
        "x",
        "10.0.0.1",
        domains=("corp.example",),
        search_domains=("b.corp.example", "corp.example"),
    )
    second = service("y", "10.0.0.2", search_domains=("net.example", "cluster.local"))
    outside = service("z", "10.0.0.3", domains=("corp.example",), search_domains=("net.example",))

    assert searched(first, outside, second) == [
        "db.b.corp.example.@x",
        "db.corp.example.@x",
        "db.net.example.@y",
    ]
    assert searched(first, second, name="db.ns") == []
    assert searched(first, second, name=".") == []


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        ("A", ["@ 5 A 10.0.0.1", "@ 5 A 10.0.0.2"]),
        ("MX", ["@ 5 MX 10 mail.corp.example."]),
        ("SOA", ["@ 5 SOA ns.corp.example. root.corp.example. 1 2 3 4 5"]),
        ("SRV", ["@ 5 SRV 1 2 3 db.corp.example."]),
        ("A", ["@ 5 CNAME x.corp.example.", "x.corp.example. 5 A 10.0.0.1"]),
    ],
)
def test_what_was_found_is_given_behind_an_alias_whole_and_readable(kind, records):
    query = read(a_query("DB", kind))
    target = searching.renamed(query, wire.wire_name("db.corp.example") or b"")
    found = a_reply("db.corp.example", kind, *records)
    body = searching.aliased(found, query, target)
    assert body is not None
    reply = parsed(b"\1\2" + body)

    assert str(reply.q.qname) == "DB."
    assert str(reply.rr[0].rname) == "DB." and str(reply.rr[0].rdata) == "db.corp.example."
    assert [str(rr) for rr in reply.rr[1:]] == [str(rr) for rr in parsed(found).rr]
    assert ranking.rank_of(b"\1\2" + body, query) is Rank.POSITIVE


# --- health ------------------------------------------------------------------------------------------------


def silent(health: Health, *asked_at: float) -> bool:
    for at in asked_at:
        health.unanswered(asked_at=at, now=at + 1)
    return health.suspect


def test_three_silent_queries_and_an_unanswered_probe_make_a_suspect_and_one_answer_heals():
    health = Health()
    assert not silent(health, 10, 11)
    assert health.doubtful
    health.answered(0.1, now=12)
    assert not health.doubtful
    assert not silent(health, 12.1, 13)
    health.probed(answered=False, now=14.1)
    assert not health.suspect
    assert silent(health, 14.2) and health.state is State.DEAD
    assert health.grace_seconds == 0.2
    health.alive(30)
    assert not health.suspect


def test_who_answers_probes_is_not_suspect_until_it_answered_no_query_for_eight_seconds():
    health = Health()
    assert not silent(health, *[10.0] * 50)
    health.probed(answered=True, now=11)
    assert not silent(health, *[12.0] * 50)
    assert silent(health, 17.0) and health.state is State.MUTE
    health.probed(answered=True, now=19)
    assert health.suspect  # a probe tells nothing new of it
    health.answered(0.1, now=20)
    assert not health.suspect


def test_an_answered_probe_heals_who_answered_none():
    for make in (Health.unreachable, lambda health: health.probed(answered=False, now=9)):
        health = Health()
        make(health)
        silent(health, 5, 6, 7)
        assert health.suspect
        health.probed(answered=True, now=10)
        assert not health.suspect


def test_a_query_is_no_sign_of_silence_if_another_was_answered_since():
    health = Health()
    for at in range(10, 60):
        health.answered(0.01, now=at + 0.5)
        assert not silent(health, at)


def test_the_grace_of_a_quick_or_unknown_server_is_50_ms():
    assert Health().grace_seconds == 0.05


# --- no bytes do harm --------------------------------------------------------------------------------------

SEEDS = [
    a_query("a.example", edns=1232, options=[dnslib.EDNSOption(10, b"12345678")]),
    a_reply("db.corp.example", "A", "@ 5 CNAME x.corp.example.", "x.corp.example. 5 A 10.0.0.1"),
    a_reply("db.corp.example", "MX", "@ 5 MX 10 mail.corp.example."),
]


@st.composite
def packets(draw):
    """Anything, or something real with a few bytes changed and an end cut off."""
    if draw(st.booleans()):
        return draw(st.binary(max_size=80))
    packet = bytearray(draw(st.sampled_from(SEEDS)))
    for at, value in draw(
        st.lists(st.tuples(st.integers(0, len(packet) - 1), st.integers(0, 255)), max_size=4)
    ):
        packet[at] = value
    return bytes(packet[: draw(st.integers(0, len(packet)))])


@given(packets())
def test_no_client_packet_breaks_the_parser_and_what_passes_is_well_formed(packet):
    found = queries.parse(packet)
    if isinstance(found, queries.Fault):
        if found is not queries.Fault.NOTHING:
            assert len(packet[:2] + replies.to_fault(packet, found)) >= wire.HEADER
        return
    again = queries.parse(b"\0\0" + found.sent)
    assert isinstance(again, queries.Query)
    assert (again.name, again.type, again.sent) == (found.name, found.type, found.sent)
    body = replies.fitted(replies.failure(found), found)
    assert body[10:].startswith(found.question)


@given(
    packets(),
    st.sampled_from(["db.corp.example", "a.example"]),
    st.sampled_from(["A", "MX", "ANY"]),
)
def test_no_upstream_packet_breaks_the_ranking(packet, name, kind):
    query = read(a_query(name, kind))
    if ranking.is_reply_to(packet, query):
        assert ranking.rank_of(packet, query) in Rank
        body = replies.from_upstream(packet, query)
        assert body[10:].startswith(query.question)
        searching.aliased(packet, read(a_query("db", kind)), query) if len(packet) > 12 else None


@given(st.binary(max_size=300), st.integers(0, 40))
def test_names_in_circles_and_cut_off_names_end(packet, offset):
    for reader, at in itertools.product(
        (wire.read_name, wire.skip_name, wire.plain_name_end), (offset, 12)
    ):
        try:
            reader(packet, at)
        except wire.Broken:
            pass
