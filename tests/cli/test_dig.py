"""`nsm dig` against the server of `nsm dns-server`: real packets on loopback."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dnslib
import pytest

from cli import dig, dnsserver, dnswire
from cli.dnswire import Answer
from cli.output import OutputFormat
from cli.problems import Problem

ROOT = Path(__file__).parent.parent.parent
ZONE = dnsserver.read_zone(
    ["corp.example"], ["www=10.20.0.5", "www=2001:db8::5", "a.deep=10.20.0.6", "@=10.20.0.1"]
)
MANY = dnsserver.read_zone(["x.example"], [f"many=10.0.0.{n}" for n in range(1, 200)])


def asked(name: str, kind: str = "A", zone: dnsserver.Zone = ZONE, *, datagram: bool = True):
    found = dnsserver.answer(dnslib.DNSRecord.question(name, kind).pack(), zone, datagram=datagram)
    assert found is not None
    reply = dnslib.DNSRecord.parse(found[0])
    return dnslib.RCODE.get(reply.header.rcode), [str(rr.rdata) for rr in reply.rr], reply


@pytest.mark.parametrize(
    ("name", "kind", "status", "data"),
    [
        ("www.corp.example", "A", "NOERROR", ["10.20.0.5"]),
        ("WWW.Corp.Example", "AAAA", "NOERROR", ["2001:db8::5"]),
        ("corp.example", "A", "NOERROR", ["10.20.0.1"]),
        ("www.corp.example", "TXT", "NOERROR", []),
        ("deep.corp.example", "A", "NOERROR", []),
        ("nope.corp.example", "A", "NXDOMAIN", []),
        ("xcorp.example", "A", "REFUSED", []),
    ],
)
def test_the_server_answers_for_its_zone_alone(name, kind, status, data):
    assert asked(name, kind)[:2] == (status, data)


@pytest.mark.parametrize(
    ("name", "kind", "status", "data"),
    [
        ("www", "A", "NOERROR", ["10.20.0.5"]),
        ("www.corp.example", "A", "NOERROR", ["10.20.0.6"]),
        (".", "A", "NOERROR", []),
        ("nope.example", "A", "NXDOMAIN", []),
    ],
)
def test_the_root_is_a_zone_of_every_name(name, kind, status, data):
    zone = dnsserver.read_zone(["."], ["www=10.20.0.5", "www.corp.example.=10.20.0.6"])
    found = asked(name, kind, zone)
    assert found[:2] == (status, data)
    if not data:
        assert [str(rr.rname) for rr in found[2].auth] == ["."]


def test_the_top_of_a_zone_without_records_exists():
    assert asked("corp.example", "A", dnsserver.read_zone(["corp.example"], []))[0] == "NOERROR"


@pytest.mark.parametrize("zone", ["", "a..b", "..", "x" * 70])
def test_a_zone_that_is_no_name_is_refused(zone):
    with pytest.raises(Problem, match="--zone"):
        dnsserver.read_zone([zone], [])


def test_an_answer_too_large_for_a_datagram_is_cut_and_whole_over_tcp():
    assert asked("many.x.example", zone=MANY)[2].header.tc
    assert len(asked("many.x.example", zone=MANY, datagram=False)[1]) == 199


@pytest.mark.parametrize("junk", [b"", b"\0", b"\xff" * 12, b"x" * 40])
def test_junk_is_not_answered(junk):
    assert dnsserver.answer(junk, ZONE, datagram=True) is None


@pytest.mark.parametrize("record", ["www", "www=", "=10.0.0.1", "www=host"])
def test_a_record_without_name_or_address_is_refused_with_the_form(record):
    with pytest.raises(Problem, match="NAME=ADDRESS"):
        dnsserver.read_zone(["x"], [record])


@pytest.fixture
def served(monkeypatch):
    """The server as a process; every answer comes 20 ms late."""
    port = _free_port()
    words = ["--zone", "corp.example", "--record", "www=10.20.0.5", "--listen", "127.0.0.1"]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "cli.main", "dns-server", *words),
            *("--port", str(port), "--delay", "20", "--log"),
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "serving corp.example" in process.stdout.readline()
    monkeypatch.setattr(dnswire, "PORT", port)
    yield process
    process.send_signal(signal.SIGTERM)
    process.stdout.close()
    assert process.wait(10) == 0


@pytest.mark.parametrize("over_tcp", [False, True], ids=["udp", "tcp"])
def test_a_name_is_asked_answered_late_and_logged(served, over_tcp):
    found = dnswire.ask("www.corp.example", "A", "127.0.0.1", over_tcp=over_tcp)
    assert (found.status, [record.data for record in found.answers]) == ("NOERROR", ["10.20.0.5"])
    assert found.milliseconds >= 20
    line = served.stdout.readline()
    assert f"A www.corp.example. NOERROR from 127.0.0.1 {'tcp' if over_tcp else 'udp'}" in line


def test_nobody_there_is_told_as_no_answer():
    started = time.monotonic()
    found = dnswire.ask("x", "A", "127.0.0.1", timeout_seconds=0.2)
    assert (found.status, bool(found.problem)) == ("", True)
    assert time.monotonic() - started < 4  # not the usual five


def test_a_resolv_conf_is_read_as_the_c_library_does(tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 10.0.0.1\nnameserver ::1\nsearch a.b b\noptions x ndots:5\n")
    config = dig.read_resolv_conf(path)
    assert config == dig.ResolvConf(servers=("10.0.0.1", "::1"), searches=("a.b", "b"), ndots=5)
    assert dig.completed("x", config) == ["x.a.b", "x.b", "x"]
    assert dig.completed("x.", config) == ["x."]
    few = dig.ResolvConf(searches=("b",))
    assert dig.completed("x.y", few) == ["x.y", "x.y.b"]


def test_searching_ends_with_the_first_name_that_has_records():
    record = dnswire.Record(name="x.b.", type="A", ttl=1, data="10.0.0.1")

    def ask(name: str, server: str) -> Answer:
        answers = (record,) if name == "x.b" else ()
        return _answer(name, server, "NOERROR" if answers else "NXDOMAIN", answers)

    found = dig.resolve(["x.a", "x.b", "x"], ["s"], ask, tries=2)
    assert [answer.name for answer in found] == ["x.a", "x.b"]


def test_the_next_server_is_asked_when_one_is_silent():
    def ask(name: str, server: str) -> Answer:
        return _answer(name, server, "NXDOMAIN" if server == "good" else "")

    found = dig.resolve(["x"], ["dead", "good"], ask, tries=2)
    assert [answer.server for answer in found] == ["dead", "good"]
    silent = dig.resolve(["x", "y"], ["dead"], ask, tries=2)
    assert [answer.name for answer in silent] == ["x", "x"]


def test_the_exit_code_says_whether_anybody_answered(capsys):
    assert dig._tell([_answer("x", "s", "NXDOMAIN")], OutputFormat.JSON) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "NXDOMAIN"
    assert dig._tell([_answer("x", "s", "")], OutputFormat.TABLE) == 9
    assert capsys.readouterr().out.startswith("; x A @s")


def _answer(
    name: str, server: str, status: str, answers: tuple[dnswire.Record, ...] = ()
) -> Answer:
    return Answer(
        name=name,
        type="A",
        server=server,
        transport="udp",
        milliseconds=1.0,
        status=status,
        answers=answers,
    )


def _free_port() -> int:
    async def find() -> int:
        server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
        port = int(server.sockets[0].getsockname()[1])
        server.close()
        await server.wait_closed()
        return port

    return asyncio.run(find())


@pytest.mark.parametrize(
    "name", ["www..blue.test", ".x", "a" * 64 + ".x", ".".join(["a" * 60] * 5)]
)
def test_what_is_no_name_is_told_before_anybody_is_asked(name):
    with pytest.raises(Problem, match="joined by dots") as caught:
        dig.dig("client", [name])
    assert caught.value.exit_code == 2


def test_a_completed_name_that_nobody_can_ask_for_is_left_out():
    config = dig.ResolvConf(searches=("c" * 60 + ".example",), ndots=5)
    long = ".".join(["a" * 60] * 4)
    assert dig.completed(long, config) == [long]
    assert dnswire.is_name(".")
    assert dnswire.is_name("_dns.x.")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--zone", "x", "--port", "99999"], "65535"),
        (["--zone", "a..b"], "--zone 'a..b'"),
        (["--zone", ""], "--zone ''"),
        (["--zone", "x", "--record", "a..b=10.0.0.1"], "--record 'a..b=10.0.0.1'"),
    ],
    ids=str,
)
def test_a_server_that_cannot_serve_says_so_without_a_traceback(options, said):
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "dns-server", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("status", ["NXDOMAIN", "REFUSED"])
def test_a_name_that_the_pod_would_complete_hints_at_the_search_list(status, capsys):
    answers = [_answer("kubernetes.default", "s", status)]
    dig._tell(answers, OutputFormat.TABLE, is_short=True)
    assert "--search" in capsys.readouterr().out
    dig._tell(answers, OutputFormat.TABLE)
    assert "--search" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "is_short"),
    [("db", True), ("db.team", True), ("www.corp.example", False), ("db.", False)],
)
def test_only_a_short_name_is_completed_before_it_is_asked_for(name, is_short):
    config = dig.ResolvConf(searches=("team.svc.cluster.local",), ndots=2)
    assert dig.is_completed_first(name, config) == is_short
