"""Who may speak on a lab's bus, and that the end of a token ends nothing."""

import base64
import json
import secrets
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import nats
from tests.e2e.cluster import Cluster, endpoint, endpoint_pod, pod

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lab"), pytest.mark.timeout(180)]

SYSTEM = "nsm-system"
TOKEN_SECONDS = 10


@pytest.fixture
def brief() -> Iterator[Cluster]:
    """A lab of its own whose tokens live some seconds."""
    directory = Path(tempfile.mkdtemp(prefix="nsm-e2e-"))
    lab = Cluster(directory)
    lab.nsm("lab", "up", "--detach", "--nodes", "1", "--token-seconds", str(TOKEN_SECONDS))
    try:
        yield lab
    finally:
        lab.nsm("lab", "down")
        shutil.rmtree(directory, ignore_errors=True)


def test_connections_go_on_over_the_end_of_every_token(brief):
    brief.apply(
        endpoint("vpn", "default", "vpn", "172.22.1.0/24"),
        endpoint_pod("vpn-1", "default", "vpn"),
        pod("app", "default", "vpn/nsm-1"),
    )
    brief.connected("app", "default")
    before = _restarts(brief)
    first = _expiry(brief, "watcher")

    heard = brief.directory / "tap.txt"
    with heard.open("w") as file:
        tap = brief.start("tap", "log.nsm.>", stdout=file)
    try:
        brief.until("the tap listens", lambda: "listening" in heard.read_text())
        with brief.pinging("app", "default", "nsm-1") as stop:
            # Every token and every login of the beginning has ended by then.
            brief.until(
                "tokens have ended",
                lambda: _expiry(brief, "watcher") > first + 2 * TOKEN_SECONDS,
                seconds=60,
            )
            number = 0

            def is_heard() -> bool:
                nonlocal number
                number += 1
                brief.apply(pod(f"late{number}", "default", "vpn/nsm-1"))
                brief.connected(f"late{number}", "default", timeout="20s")
                return ".late" in heard.read_text()

            # A tap may miss what passes while it logs in anew; nothing else may.
            brief.until("the tap still listens", is_heard)
            assert ", 0% packet loss" in stop()
    finally:
        tap.kill()
        tap.communicate()
    assert _restarts(brief) == before


def test_the_bus_is_closed_to_who_is_nobody_or_somebody_else(cluster):
    port = _port(cluster)
    good = _token(cluster, "plumber-node1")
    name = f"plumber-node1-{secrets.token_hex(4)}"
    assert nats.lets_in(port, token=good, name=name), "the right one is let in"

    foreign = _request_token(cluster, "nsm-plumber", audience="elsewhere")
    stranger = _request_token(cluster, "default")
    homeless = _request_token(cluster, "nsm-plumber")  # bound to no node
    refused = {
        "no token": ("", name),
        "garbage": ("garbage", name),
        "changed": (_changed(good), name),
        "of another audience": (foreign, name),
        "of another account": (stranger, name),
        "of no node": (homeless, name),
        "under another node's name": (good, f"plumber-node2-{secrets.token_hex(4)}"),
        "under another role's name": (good, f"ipam-{secrets.token_hex(4)}"),
        "under no name": (good, ""),
    }
    let_in = [why for why, (token, as_) in refused.items() if _is_let_in(port, token, as_)]
    assert not let_in


def test_a_token_of_a_pod_that_is_gone_is_refused(cluster):
    uid = _pod_uid(cluster, "plumber-node2")
    token = _request_token(cluster, "nsm-plumber", pod="plumber-node2")
    cluster.nsm("lab", "delete", "pod", "plumber-node2", "-n", SYSTEM, "--now")
    port, name = _port(cluster), f"plumber-node2-{secrets.token_hex(4)}"
    assert not _is_let_in(port, token, name)

    cluster.until(
        "its Pod is made anew", lambda: _pod_uid(cluster, "plumber-node2") not in ("", uid)
    )
    cluster.until(
        "with a token that is good",
        lambda: _is_let_in(port, _token(cluster, "plumber-node2"), name),
    )


def test_without_auth_connections_go_on_and_new_logins_wait_for_it(cluster, namespace):
    cluster.apply(
        endpoint("vpn", namespace, "vpn", "172.22.2.0/24"),
        endpoint_pod("vpn-1", namespace, "vpn"),
    )
    cluster.nsm("lab", "kill", "auth", "-9", "--hold")
    try:
        cluster.apply(pod("app", namespace, "vpn/nsm-1"))
        cluster.connected("app", namespace)
        cluster.nsm("lab", "kill", "plumber/node1", "-9")
        cluster.apply(pod("late", namespace, "vpn/nsm-1"))
    finally:
        cluster.nsm("lab", "start", "auth")
    cluster.connected("late", namespace)


def test_services_are_pods_of_the_system_namespace(cluster):
    ready = {
        p["metadata"]["name"]
        for p in cluster.items("pods", SYSTEM)
        if any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"]["conditions"])
    }
    assert ready >= {"watcher", "ipam", "plumber-node1", "plumber-node2", "dns-node1", "dns-node2"}


def _state(lab: Cluster) -> dict[str, Any]:
    return dict(json.loads((lab.directory / "lab.json").read_text()))


def _port(lab: Cluster) -> int:
    return int(_state(lab)["nats_url"].rsplit(":", 1)[1])


def _token(lab: Cluster, holder: str) -> str:
    return (lab.directory / "tokens" / holder).read_text()


def _is_let_in(port: int, token: str, name: str) -> bool:
    return nats.lets_in(port, token=token, name=name)


def _expiry(lab: Cluster, holder: str) -> int:
    payload = _token(lab, holder).split(".")[1]
    return int(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])


def _changed(token: str) -> str:
    """The same claims for another role, under the old signature."""
    head, payload, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    claims["sub"] = claims["sub"].replace("nsm-plumber", "nsm-ipam")
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"{head}.{body}.{signature}"


def _request_token(lab: Cluster, account: str, *, audience: str = "nats.nsm", pod: str = "") -> str:
    spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 600}
    if pod:
        spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod}
    request = urllib.request.Request(
        f"{_state(lab)['api_url']}/api/v1/namespaces/{SYSTEM}/serviceaccounts/{account}/token",
        data=json.dumps({"spec": spec}).encode(),
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return str(json.load(response)["status"]["token"])


def _pod_uid(lab: Cluster, name: str) -> str:
    found = [p for p in lab.items("pods", SYSTEM) if p["metadata"]["name"] == name]
    return str(found[0]["metadata"]["uid"]) if found else ""


def _restarts(lab: Cluster) -> dict[str, int]:
    listed = json.loads(lab.nsm("lab", "ps", "-o", "json"))
    return {process["name"]: process.get("restarts", 0) for process in listed}
