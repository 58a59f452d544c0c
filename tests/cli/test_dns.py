"""`nsm dns explain`: what it says where there is nobody to ask about."""

import asyncio
from pathlib import Path

import pytest
from aiohttp import web

from cli import dns, labs, pods
from cli.dns import Service
from cli.output import OutputFormat
from cli.problems import Problem


def explain(pod: str, at: str = "") -> None:
    dns.explain(pod, ".", "default", at, OutputFormat.TABLE)


def test_a_pod_that_is_not_there_is_told_apart_from_one_without_dns(monkeypatch):
    monkeypatch.setattr(pods, "found_in_lab", lambda *_: {})
    with pytest.raises(Problem, match="no such Pod: team/nosuch; see: nsm lab get pods -n team"):
        explain("team/nosuch")


def test_where_a_node_is_named_its_service_alone_is_asked(monkeypatch):
    monkeypatch.setattr(pods, "found_in_lab", lambda *_: {})
    with pytest.raises(Problem, match=r"dns service at 127\.0\.0\.1:1: .*--at HOST:PORT"):
        explain("nosuch", at="127.0.0.1:1")


@pytest.fixture
def the_lab(monkeypatch, tmp_path):
    """A lab of two nodes: the dns service of node1 is dead, that of node2 knows no Pod."""

    class Layout:
        @staticmethod
        def log(name: str) -> Path:
            return Path(tmp_path, name.replace("/", "-"))

    def process(name: str, *, running: bool) -> dict[str, object]:
        return {"name": name, "running": running, "held": not running}

    def made(port: int, pod: dict[str, object]) -> None:
        for node in ("node1", "node2"):
            Layout.log(f"dns/{node}").write_text(f"health served port={port}\n")
        told = [process("dns/node1", running=False), process("dns/node2", running=True)]
        monkeypatch.setattr(labs, "running", lambda: (Layout, None))
        monkeypatch.setattr(labs, "ask", lambda *_: told)
        monkeypatch.setattr(pods, "found_in_lab", lambda *_: pod)

    return made


async def ignorant(_: web.Request) -> web.Response:
    return web.json_response({"error": "nothing is granted to it here"}, status=404)


@pytest.fixture
async def port():
    app = web.Application()
    app.add_routes([web.get("/explain", ignorant)])
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


UNHEARD = r"^the dns service of node1 does not answer; nsm lab start dns/node1"


async def test_a_dead_dns_service_is_the_reason_and_not_what_another_node_says(the_lab, port):
    the_lab(port, {"metadata": {}, "spec": {"nodeName": "node1"}})
    with pytest.raises(Problem, match=UNHEARD):
        await asyncio.to_thread(explain, "c1")
    both = dns.lab_services()  # as where nobody tells the node of the Pod
    assert [each.node for each in both] == ["node1", "node2"]
    with pytest.raises(Problem, match=UNHEARD):
        await asyncio.to_thread(dns.ask_all, both, "pod=c1")


async def test_of_a_pod_on_a_node_whose_service_answers_its_word_counts(the_lab, port):
    the_lab(port, {"metadata": {}, "spec": {"nodeName": "node2"}})
    with pytest.raises(Problem, match=r"^nothing is granted to it here$"):
        await asyncio.to_thread(explain, "c1")


def test_a_service_of_the_lab_that_hangs_is_named_with_its_node():
    with pytest.raises(Problem, match=r"dns service of node1 does not answer \(.*refused"):
        dns.ask_all([Service("127.0.0.1:1", "node1")], "pod=c1")


def test_a_pod_that_opted_out_is_told_so(monkeypatch):
    pod = {"metadata": {"annotations": {"dns.networkservicemesh.io/capture": "false"}}}
    monkeypatch.setattr(pods, "found_in_lab", lambda *_: pod)
    with pytest.raises(Problem, match=r"opted out: its annotation dns\.networkservicemesh\.io"):
        explain("c1")


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ({"state": "unused"}, "unused"),
        ({"state": "unheard", "unanswered": 0}, "unheard"),
        ({"state": "unheard", "unanswered": 1}, "unheard: 1 of 1 queries unanswered"),
        ({"state": "well", "unanswered": 2, "last_seconds_ago": 9.0}, "well, 2 unanswered since"),
        ({"state": "dead"}, "dead"),  # as a dns service of before tells it
    ],
)
def test_how_a_server_is_tells_what_it_leaves_unanswered(server, said):
    assert dns.health(server) == said
