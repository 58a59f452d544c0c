"""The cache: TTLs count down, denials hold as RFC 2308 says, and nothing is kept that somebody may know better."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.dns.core.cache import Cache
from services.dns.core.queries import Query, parse
from services.dns.model import Limits
from tests.dns.behaviours import reply_of
from tests.dns.simulation import Sent, Simulation
from tests.dns.upstreams import a_profile, a_query, cluster, dnslib, outcome, parsed, service

SOA = "example. 600 SOA ns.example. root.example. 1 2 3 4 60"


def a_simulation(*scripts: str, cached: int = 100) -> tuple[Simulation, list[Sent]]:
    """One server per script: records separated by `|`, `!CODE` for the code, or the name of a behaviour."""
    asked: list[Sent] = []
    by_address = {f"10.0.0.{n}": script for n, script in enumerate(scripts)}

    def act(sent: Sent) -> None:
        asked.append(sent)
        script = by_address[sent.address]
        if "|" not in script and "!" not in script:
            if packet := reply_of(script, sent.packet):
                sent.answer(0.01, packet)
            return
        records, _, code = script.partition("!")
        reply = parsed(sent.packet).reply(ra=1)
        reply.header.rcode = getattr(dnslib.RCODE, code or "NOERROR")
        for record in filter(None, records.split("|")):
            rr = dnslib.RR.fromZone(record.replace("@", str(reply.q.qname)))[0]
            (reply.add_auth if rr.rtype == dnslib.QTYPE.SOA else reply.add_answer)(rr)
        sent.answer(0.01, bytes(reply.pack()))

    servers = [
        cluster(address) if n == 0 else service(f"s{n}", address)
        for n, address in enumerate(by_address)
    ]
    return Simulation(a_profile(*servers), act, limits=Limits(cached=cached)), asked


def asks_again(simulation: Simulation, asked: list[Sent], seconds: float) -> bool:
    """Whether a second query, that much after the first was answered, reaches a server."""
    packet = a_query("a.example", number=1)
    simulation.ask(packet)
    simulation.run(9, until=lambda: simulation.answers)
    before = len([s for s in asked if b"server" not in s.packet])
    simulation.now += seconds
    simulation.ask(a_query("a.example", number=2))
    simulation.run(9, until=lambda: len(simulation.answers) == 2)
    first, second = simulation.answers
    assert (first.message[:2], second.message[:2]) == (b"\0\1", b"\0\2")
    assert outcome(first.message) == outcome(second.message)
    return len([s for s in asked if b"server" not in s.packet]) > before


@pytest.mark.parametrize(
    ("script", "holds_seconds"),
    [
        ("@ 30 A 10.0.0.1|@ 20 A 10.0.0.2", 20),  # the smallest
        ("@ 0 A 10.0.0.1|", 0),
        ("@ 90000 A 10.0.0.1|", 3600),  # at most an hour
        (f"{SOA}|!NXDOMAIN", 60),  # the SOA's own minimum
        (f"{SOA}|", 60),
        ("example. 7 SOA ns.example. root.example. 1 2 3 4 60|!NXDOMAIN", 7),
        ("example. 9000 SOA ns.example. root.example. 1 2 3 4 9000|", 300),  # at most five minutes
        ("!NXDOMAIN", 0),  # without a SOA nobody knows for how long
        ("!SERVFAIL", 1),
        ("!REFUSED", 0),
        ("truncated", 0),
    ],
)
def test_an_answer_is_kept_for_as_long_as_it_says(script, holds_seconds):
    if holds_seconds:
        assert not asks_again(*a_simulation(script), holds_seconds - 0.1)
    assert asks_again(*a_simulation(script), holds_seconds + 0.1)


@pytest.mark.parametrize("other", ["servfail", "silent", "garbage"])
def test_a_denial_is_not_kept_if_a_server_that_may_know_better_was_not_heard(other):
    assert asks_again(*a_simulation(f"{SOA}|!NXDOMAIN", other), 0.1)


def test_a_positive_answer_is_kept_whoever_was_silent():
    assert not asks_again(*a_simulation("@ 30 A 10.0.0.1|", "silent"), 5)


def test_what_is_handed_out_has_the_seconds_that_are_left_and_opt_is_no_ttl():
    query = parse(a_query("a.example"))
    assert isinstance(query, Query)
    reply = parsed(a_query("a.example")).reply()
    reply.add_answer(*dnslib.RR.fromZone("a.example. 30 A 10.0.0.1"))
    reply.add_ar(dnslib.EDNS0(udp_len=1232, flags="do"))
    cache = Cache(10)
    cache.keep(b"key", bytes(reply.pack())[2:], query, 100.0, certain=True)

    for now, left in ((100.5, 30), (103.2, 27), (129.9, 1)):
        body = cache.find(b"key", now)
        assert body is not None
        found = parsed(b"xx" + body)
        assert [rr.ttl for rr in found.rr] == [left]
        assert found.ar[0].ttl == reply.ar[0].ttl
    assert cache.find(b"key", 130.0) is None


def test_another_profile_empties_the_cache():
    simulation, asked = a_simulation("@ 30 A 10.0.0.1|")
    simulation.ask(a_query("a.example"))
    simulation.run(0.1)
    simulation.resolver.replace(a_profile(cluster("10.0.0.0")), simulation.now)
    simulation.ask(a_query("a.example"))
    simulation.run(0.1)

    assert len(asked) == 2


def test_what_differs_in_any_bit_but_the_id_is_another_question():
    simulation, asked = a_simulation("@ 30 A 10.0.0.1|")
    for packet in (a_query("a.example"), a_query("A.example"), a_query("a.example", edns=1232)):
        simulation.ask(packet)
        simulation.run(0.1)

    assert len(asked) == 3


@given(st.lists(st.integers(0, 30), max_size=200), st.integers(1, 9))
def test_the_cache_never_holds_more_than_its_limit_and_keeps_what_is_used(names, limit):
    query = parse(a_query("a.example"))
    assert isinstance(query, Query)
    reply = parsed(a_query("a.example")).reply()
    reply.add_answer(*dnslib.RR.fromZone("a.example. 30 A 10.0.0.1"))
    body = bytes(reply.pack())[2:]
    cache = Cache(limit)
    for name in names:
        cache.keep(bytes([name]), body, query, 1.0, certain=True)
        assert cache.find(bytes([name]), 1.0) == body
        assert len(cache) <= max(2, limit)


@given(st.binary(max_size=80))
def test_no_answer_breaks_the_cache(body):
    query = parse(a_query("a.example"))
    assert isinstance(query, Query)
    if len(body) >= 10:
        cache = Cache(2)
        cache.keep(b"k", body, query, 1.0, certain=True)
        cache.find(b"k", 2.5)
