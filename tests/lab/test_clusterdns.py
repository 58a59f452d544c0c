"""The cluster DNS: what is answered to which name."""

from typing import Any

import dnslib
import pytest

from lab import clusterdns
from lab.clusterdns import QueryLog, answer

SERVICES = {
    ("kubernetes", "default"): ["10.96.0.1"],
    ("headless", "default"): ["10.244.1.2", "10.244.2.2"],
    ("empty", "default"): [],
    ("many", "default"): [f"10.244.1.{n}" for n in range(2, 60)],
}


def ask(name: str, kind: str = "A", *, datagram: bool = True, edns: int = 0) -> Any:
    query: Any = dnslib.DNSRecord.question(name, kind)
    if edns:
        query.add_ar(dnslib.EDNS0(udp_len=edns))
    reply = answer(query.pack(), lambda s, n: SERVICES.get((s, n)), datagram=datagram)
    assert reply is not None
    parsed: Any = dnslib.DNSRecord.parse(reply)
    assert parsed.header.id == query.header.id
    return parsed


def addresses(reply: Any) -> list[str]:
    return [str(rr.rdata) for rr in reply.rr]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kubernetes.default.svc.cluster.local", ["10.96.0.1"]),
        ("KuberNetes.Default.svc.cluster.LOCAL", ["10.96.0.1"]),
        ("headless.default.svc.cluster.local", ["10.244.1.2", "10.244.2.2"]),
        ("10-244-1-2.default.pod.cluster.local", ["10.244.1.2"]),
    ],
)
def test_names_of_the_cluster_have_addresses(name, expected):
    reply = ask(name)
    assert (reply.header.rcode, addresses(reply)) == (dnslib.RCODE.NOERROR, expected)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("kubernetes.default.svc.cluster.local", "AAAA"),
        ("empty.default.svc.cluster.local", "A"),
        ("svc.cluster.local", "A"),
        ("cluster.local", "A"),
    ],
)
def test_a_name_without_that_record_is_nodata_with_a_soa(name, kind):
    reply = ask(name, kind)
    assert (reply.header.rcode, addresses(reply)) == (dnslib.RCODE.NOERROR, [])
    assert reply.auth[0].rtype == dnslib.QTYPE.SOA


@pytest.mark.parametrize(
    "name",
    [
        "nothing.default.svc.cluster.local",
        "kubernetes.default.cluster.local",
        "a.b.c.d.cluster.local",
        "10-244-1.default.pod.cluster.local",
    ],
)
def test_unknown_names_of_the_cluster_are_nxdomain(name):
    assert ask(name).header.rcode == dnslib.RCODE.NXDOMAIN


def test_there_is_no_outside():
    assert ask("example.com").header.rcode == dnslib.RCODE.REFUSED
    assert ask("notcluster.local").header.rcode == dnslib.RCODE.REFUSED


def test_an_answer_too_large_for_a_datagram_is_cut_and_whole_over_tcp():
    assert ask("many.default.svc.cluster.local").header.tc == 1
    assert len(addresses(ask("many.default.svc.cluster.local", edns=4096))) == 58
    assert len(addresses(ask("many.default.svc.cluster.local", datagram=False))) == 58


@pytest.mark.parametrize("junk", [b"", b"\0", b"\xff" * 12, b"x" * 40])
def test_junk_is_not_answered(junk):
    assert answer(junk, lambda *_: None, datagram=True) is None


def test_a_reply_is_not_answered():
    reply: Any = dnslib.DNSRecord.question("cluster.local")
    reply.header.qr = 1
    assert answer(reply.pack(), lambda *_: None, datagram=True) is None


def test_each_query_is_a_line_and_the_log_stays_small(tmp_path, monkeypatch):
    path = tmp_path / "logs" / "clusterdns.log"
    queries = QueryLog(path)
    query = bytes(dnslib.DNSRecord.question("A.Example", "AAAA").pack())
    queries.add(query, "10.244.1.2", "udp")
    assert path.read_text().split(" ", 1)[1] == "AAAA a.example. from 10.244.1.2 udp\n"
    queries.close()
    monkeypatch.setattr(clusterdns, "_LOG_BYTES", 200)
    small = QueryLog(path)
    for _ in range(50):
        small.add(query, "10.244.1.2", "udp")
    small.close()
    assert 0 < path.stat().st_size <= 260
