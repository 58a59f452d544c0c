"""`nsm status` and `nsm explain` in a lab: well while it is, and exact about what is broken."""

import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import names
from tests.e2e.cluster import Cluster, endpoint, endpoint_pod, pod

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lab"), pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def broken() -> Iterator[Cluster]:
    """A lab of its own, for things are broken in it: two nodes, a client on each, an endpoint with DNS on the first."""
    directory = Path(tempfile.mkdtemp(prefix="nsm-e2e-"))
    lab = Cluster(directory)
    lab.nsm("lab", "up", "--detach", "--nodes", "2")
    try:
        lab.apply(
            endpoint("vpn", "default", "vpn", "172.16.1.0/24", dns={"domains": ["corp.example"]}),
            endpoint_pod("vpn-1", "default", "vpn"),
            pod("near", "default", "vpn/nsm-1"),
            pod("far", "default", "vpn/nsm-1", nodeName="node2"),
        )
        lab.connected("near", "default")
        lab.connected("far", "default")
        yield lab
    finally:
        lab.nsm("lab", "down")
        shutil.rmtree(directory, ignore_errors=True)


def ask(lab: Cluster, *words: str) -> tuple[int, Any]:
    process = lab.start(*words, "-o", "json")
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (0, 1), output
    return process.returncode, json.loads(output)


def wrong(lab: Cluster) -> str:
    """All that the status finds, in one text."""
    code, status = ask(lab, "status")
    assert (code == 0) is status["well"] is (not status["wrong"])
    return "\n".join(f"{each['what']} → {each['remedy']}" for each in status["wrong"])


def first(lab: Cluster, name: str) -> str:
    code, found = ask(lab, "explain", name)
    assert (code == 0) is found["well"]
    return str(found["first"])


def settles(lab: Cluster, what: str, holds: Callable[[], bool]) -> None:
    lab.until(what, holds, seconds=60)


def test_a_healthy_lab_is_well_for_admins_and_viewers(broken, monkeypatch):
    settles(broken, "all is well", lambda: wrong(broken) == "")
    assert broken.nsm("status").endswith("all is well\n")
    token = str(broken.directory / "tokens" / "viewer")
    monkeypatch.setitem(broken.environment, "NSM_TOKEN_FILE", token)
    _, status = ask(broken, "status")
    assert status["well"]
    assert status["role"] == "viewer"
    assert {each["name"]: each["replicas"] for each in status["services"]} == {
        "watcher": 1,
        "ipam": 1,
    }
    assert [(n["name"], n["plumber"], n["dns"]) for n in status["nodes"]] == [
        ("node1", "alive", "alive"),
        ("node2", "alive", "alive"),
    ]
    assert [(n["clients"], n["endpoints"]) for n in status["nodes"]] == [(1, 2), (1, 0)]
    assert status["versions"].keys() != {"unknown"}


@pytest.mark.parametrize("name", ["near", "far", "vpn-1", "default/near", "pod/near"])
def test_a_connected_pod_is_explained_down_to_its_kernel(broken, name):
    settles(broken, f"{name} is well", lambda: first(broken, name) == "")
    _, found = ask(broken, "explain", name)
    for item in found["items"]:
        by_name = {each["name"]: each for each in item["stages"]}
        assert by_name["plumbed"]["lines"][0].startswith("kernel: nsm-1, ")
        assert by_name["resolved"]["state"] == "ok"
    assert (name != "vpn-1") is bool(found["items"])
    assert found["serves"]["state"] == ("ok" if name == "vpn-1" else "none")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on PATH")
def test_kubectl_tells_of_the_pod_what_the_lab_tells(broken):
    config = broken.nsm("lab", "kubeconfig").strip()
    _, by_lab = ask(broken, "explain", "near")
    _, by_kubectl = ask(broken, "explain", "near", "--kubeconfig", config)
    assert by_kubectl["asked"] == by_lab["asked"]
    assert by_kubectl["told"] == by_lab["told"]


def test_a_refused_pod_is_told_by_both(broken):
    broken.apply(pod("lost", "default", "nothing/nsm-1"))
    broken.refused("lost", "default", "NoEndpoint")
    _, status = ask(broken, "status")
    assert "1 request refused, NoEndpoint: default/lost nsm-1" in status["noted"][0]["what"]
    assert wrong(broken) == ""  # a typing error of a user is no fault of the mesh
    assert first(broken, "lost").startswith("nsm-1: chosen: NoEndpoint")
    broken.nsm("lab", "delete", "pod", "lost", "--now")


@pytest.mark.parametrize(
    ("process", "told", "stage"),
    [
        ("ipam", "nobody leads ipam, and no process of ipam is there", "chosen: nobody leads ipam"),
        (
            "watcher",
            "nobody leads watcher, and no process of watcher is there",
            "asked: the watcher has not put this on the bus",
        ),
        ("plumber/node2", "no heartbeat of the plumber on node2", "plumbed: Connecting"),
        ("dns/node2", "no dns service follows the bus on node2", "resolved: ResolverPending"),
    ],
)
def test_of_a_dead_service_both_say_exactly_that(broken, process, told, stage):
    name = f"new-{process.replace('/', '-')}"
    broken.nsm("lab", "kill", process, "-9", "--hold")
    try:
        settles(broken, told, lambda: told in wrong(broken))
        assert f"process {process} of the lab does not run → nsm lab start {process}" in wrong(
            broken
        )
        broken.apply(pod(name, "default", "vpn/nsm-1", nodeName="node2"))
        settles(broken, stage, lambda: first(broken, name).startswith(f"nsm-1: {stage}"))
        if process == "dns/node2":
            assert "does not follow the bus" in first(broken, "far")
    finally:
        broken.nsm("lab", "start", process)
    broken.connected(name, "default")
    broken.nsm("lab", "delete", "pod", name, "--now")
    settles(broken, "all is well again", lambda: wrong(broken) == "")


@pytest.mark.parametrize(
    ("process", "stage"),
    [
        ("dns/node2", "nsm-1: resolved: the dns service of node node2 holds its connection"),
        ("plumber/node2", "nsm-1: plumbed: no heartbeat of the plumber of node2"),
    ],
)
def test_of_a_process_that_a_signal_stopped_both_say_that_and_how_it_goes_on(
    broken, process, stage
):
    remedy = f"nsm lab kill {process} --signal CONT"
    broken.nsm("lab", "kill", process, "--signal", "STOP")
    try:
        settles(broken, stage, lambda: first(broken, "far").startswith(stage))
        assert ask(broken, "explain", "far")[1]["remedy"] == remedy
        assert f"process {process} of the lab is stopped by a signal" in wrong(broken)
        assert f"→ {remedy}" in wrong(broken)
        processes = {each["name"]: each["state"] for each in ask(broken, "lab", "ps")[1]}
        assert processes[process] == "stopped"
        assert processes["ipam"] == "running"
        assert re.search(rf"^{process} +\d+ +stopped ", broken.nsm("lab", "ps"), re.MULTILINE)
    finally:
        broken.nsm(*remedy.split()[1:])
    settles(broken, "all is well again", lambda: wrong(broken) == "")


def test_of_a_node_that_is_off_the_remedy_is_one_that_works(broken):
    broken.nsm("lab", "node", "stop", "node2")
    try:
        settles(broken, "a silent plumber", lambda: "no heartbeat of the plumber" in wrong(broken))
        found = wrong(broken)
        assert "node node2 of the lab is stopped" in found
        assert "→ nsm lab node start node2" in found
        assert "nsm lab start" not in found
        assert ask(broken, "explain", "far")[1]["remedy"] == "nsm lab node start node2"
    finally:
        broken.nsm("lab", "node", "start", "node2")
    settles(broken, "all is well again", lambda: wrong(broken) == "")
    settles(broken, "far is connected again", lambda: first(broken, "far") == "")


@pytest.mark.parametrize("how", [("hang",), ("refuse", "--code", "503")], ids=["hangs", "refuses"])
def test_an_api_server_that_tells_nothing_is_named_by_both(broken, how):
    broken.nsm("lab", "misbehave", *how, "--times", "0")
    try:
        said = first(broken, "near")
        assert said.startswith("told: edits wait, connections stay: the API server ")
        found = wrong(broken)
        assert "edits wait, connections stay" in found
        assert "→ nsm lab behave" in found
    finally:
        broken.nsm("lab", "behave")
    settles(broken, "all is well again", lambda: wrong(broken) == "")
    settles(broken, "near is well again", lambda: first(broken, "near") == "")


def test_an_edit_that_is_refused_is_told_to_users_while_the_older_one_holds(broken):
    dns = {"domains": ["corp.example"]}
    edited = endpoint(
        "vpn",
        "default",
        "vpn",
        "172.16.1.0/24",
        dns=dns,
        routes=[{"destination": "10.20.0.1/16"}],
    )
    broken.apply(edited)

    def noted() -> str:
        _, status = ask(broken, "status")
        return "\n".join(f"{each['what']} → {each['remedy']}" for each in status["noted"])

    said = "endpoint default/vpn: its newer spec is refused, the older one holds"
    settles(broken, said, lambda: said in noted())
    assert "describe networkserviceendpoint vpn" in noted()
    assert wrong(broken) == ""
    broken.apply(endpoint("vpn", "default", "vpn", "172.16.1.0/24", dns=dns))
    settles(broken, "nothing to mend", lambda: noted() == "")


# Takes what comes to port 53, and keeps silent.
MUTE = (
    "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 53)); s.recv(1); input()"
)


def test_a_dns_server_is_not_called_well_before_it_has_answered(broken):
    command = ["sh", "-c", f'sleep infinity | {Path(sys.executable).name} -c "{MUTE}"']
    containers = [{"name": "c", "image": "none", "command": command}]
    broken.apply(
        endpoint("mute", "default", "mute", "172.16.2.0/24", dns={"domains": ["mute.example"]}),
        endpoint_pod("mute-1", "default", "mute", containers=containers),
        pod("asks", "default", "mute/nsm-2"),
    )
    broken.connected("asks", "default")
    names.serving(broken, "default", "mute-1")
    assert "REFUSED" in broken.nsm("dig", "asks", "x.mute.example")  # the cluster does not know it

    def server() -> dict[str, Any]:
        _, found = ask(broken, "dns", "explain", "asks")
        return next(s for s in found["answers"]["servers"] if s["server"] == "172.16.2.1")

    settles(broken, "a silence", lambda: server()["unanswered"] > 0)
    assert server()["state"] == "unheard"
    count = server()["unanswered"]
    assert f"unheard: {count} of {count} queries unanswered" in broken.nsm("dns", "explain", "asks")
    assert first(broken, "asks").startswith(
        "nsm-2: resolved: DNS server 172.16.2.1 of the network service is unheard"
    )
    for name in ("asks", "mute-1"):
        broken.nsm("lab", "delete", "pod", name, "--now")
    broken.nsm("lab", "delete", "nse", "mute")
    settles(broken, "all is well again", lambda: wrong(broken) == "")


def test_a_firewall_between_the_nodes_is_told_with_its_port_until_it_is_open(broken):
    broken.nsm("lab", "node", "block", "node2")
    try:
        settles(broken, "a silent tunnel", lambda: "PeerSilent" in wrong(broken))
        assert first(broken, "far").startswith("nsm-1: plumbed: PeerSilent")
        assert "UDP 14789" in wrong(broken)
        broken.apply(pod("farther", "default", "vpn/nsm-1", nodeName="node2"))
        settles(broken, "no tunnel", lambda: "PeerNotReady" in first(broken, "farther"))
        assert first(broken, "near") == ""  # nothing is in the way of what stays on one node
    finally:
        broken.nsm("lab", "node", "unblock", "node2")
    broken.connected("farther", "default")
    broken.nsm("lab", "delete", "pod", "farther", "--now")
    settles(broken, "all is well again", lambda: wrong(broken) == "")


@pytest.mark.parametrize("process", ["nats", "auth"])
def test_where_nothing_can_be_read_that_is_the_status(broken, process):
    broken.nsm("lab", "kill", process, "-9", "--hold")
    try:
        found = wrong(broken)
        assert f"process {process} of the lab does not run → nsm lab start {process}" in found
        assert "nothing can be read: NATS at nats://127.0.0.1" in found
        assert "Traceback" not in broken.nsm("explain", "near", expect=1)
    finally:
        broken.nsm("lab", "start", process)
    settles(broken, "all is well again", lambda: wrong(broken) == "")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["explain", "nobody"], 1, "no such Pod: default/nobody"),
        (["explain", "near", "-n", "kube-system"], 1, "of that name: default/near"),
        (["explain", "a/b/c"], 2, "is no name of a Pod"),
        (["explain", "near", "--url", "nats://127.0.0.1:1"], 1, "is it running?"),
        (["status", "--url", "nats://127.0.0.1:1"], 1, "is it running?"),
    ],
)
def test_a_mistake_is_told_in_a_line(broken, words, code, said):
    output = broken.nsm(*words, expect=code)
    assert said in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("no token at all", "is no token of a ServiceAccount"),
        ("", "is empty"),
        (None, "No such file"),
        ("of ipam", "use the token of nsm-viewer or nsm-admin"),
        ("forged", "is it still valid"),
    ],
)
def test_a_token_of_no_use_is_told_with_how_to_get_one(broken, token, said, tmp_path, monkeypatch):
    path = tmp_path / "token"
    tokens = broken.directory / "tokens"
    if token == "of ipam":
        path = tokens / "ipam"
    elif token == "forged":
        head, body, _ = (tokens / "viewer").read_text().split(".")
        path.write_text(f"{head}.{body}.{'A' * 86}")
    elif token is not None:
        path.write_text(token)
    monkeypatch.setitem(broken.environment, "NSM_TOKEN_FILE", str(path))
    for words in (["status"], ["explain", "near"]):
        output = " ".join(broken.nsm(*words, expect=1).split())
        assert said in output
        assert "Traceback" not in output


def test_no_lab_is_told_with_what_to_do(tmp_path):
    nowhere = Cluster(tmp_path / "lab")
    nowhere.environment = {k: v for k, v in os.environ.items() if not k.startswith("NSM_")}
    nowhere.environment["NSM_LAB_DIR"] = str(tmp_path / "lab")
    for words in (["status"], ["explain", "x"]):
        assert "no lab runs" in nowhere.nsm(*words, expect=1)
