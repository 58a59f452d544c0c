"""DNS of network services as a Pod sees it: on a whole lab, with real packets."""

import json
import shutil
import subprocess
import time

import pytest

from schemas.annotation import ANNOTATION
from tests.e2e import names
from tests.e2e.cluster import Cluster, endpoint, endpoint_pod, pod
from tests.e2e.names import (
    address_of,
    ask,
    data,
    dns_endpoint,
    listeners,
    resolves,
    seen,
    serving,
    tables,
)

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lab"), pytest.mark.timeout(180)]

INSIDE, KUBERNETES = "www.corp.example", "kubernetes.default.svc.cluster.local"
CLUSTER_IP = "10.96.0.1"
OPT_OUT = "dns.networkservicemesh.io/capture"


@pytest.fixture
def corp(cluster: Cluster, namespace: str) -> str:
    """A namespace with Pod `app`, connected to service corp, whose DNS knows www.corp.example."""
    cluster.apply(
        *dns_endpoint("corp", namespace, "172.21.1.0/24", "www=10.20.0.5"),
        pod("app", namespace, "corp/nsm-1"),
    )
    cluster.connected("app", namespace)
    serving(cluster, namespace, "corp-1")
    return namespace


def test_one_query_reaches_the_cluster_and_every_service_whose_domains_match_at_once(
    cluster, namespace
):
    cluster.apply(
        *dns_endpoint("one", namespace, "172.21.2.0/24", "www=10.20.0.5"),
        *dns_endpoint("two", namespace, "172.21.3.0/24", "x=10.20.0.6", zone="example"),
        *dns_endpoint("three", namespace, "172.21.4.0/24", "www=10.20.0.7", zone="other.test"),
        pod("app", namespace, "one/nsm-1, two/nsm-2, three/nsm-3"),
    )
    cluster.connected("app", namespace)
    serving(cluster, namespace, "one-1", "two-1", "three-1")

    own = address_of(cluster, "app", namespace)
    apart = []
    for name in (INSIDE, INSIDE.replace("www", "ftp"), INSIDE.replace("www", "git")):
        answer = ask(cluster, "app", namespace, name)
        assert data(answer) == (["10.20.0.5"] if name == INSIDE else [])
        moments = [
            *names.seen_by_cluster(cluster, own, name),
            *seen(cluster, "one-1", namespace, name),
            *seen(cluster, "two-1", namespace, name),
        ]
        assert len(moments) == 3, moments
        apart.append(max(moments) - min(moments))
    assert min(apart) < 0.05, apart
    assert not seen(cluster, "three-1", namespace, INSIDE)


def test_ordinary_programs_of_the_pod_get_the_answers(cluster, corp):
    for name, address in ((INSIDE, "10.20.0.5"), ("kubernetes.default", CLUSTER_IP)):
        told = cluster.nsm("lab", "exec", "app", "-n", corp, "--", "getent", "hosts", name)
        assert told.split()[0] == address
    own = address_of(cluster, "app", corp)
    assert names.seen_by_cluster(cluster, own, KUBERNETES), "not over eth0 with its own address"
    for words in ([], ["--tcp"]):
        assert data(ask(cluster, "app", corp, INSIDE, *words)) == ["10.20.0.5"]
    if shutil.which("dig"):
        for words in ([], ["+tcp"]):
            told = cluster.nsm(
                "lab", "exec", "app", "-n", corp, "--", "dig", "+short", *words, INSIDE
            )
            assert told.split() == ["10.20.0.5"]


def test_a_name_is_asked_of_those_alone_whom_it_concerns(cluster, corp):
    assert ask(cluster, "app", corp, "nobody.corp.example")["status"] == "NXDOMAIN"
    assert data(ask(cluster, "app", corp, KUBERNETES)) == [CLUSTER_IP]
    assert ask(cluster, "app", corp, "www.elsewhere.test")["status"] == "REFUSED"

    assert seen(cluster, "corp-1", corp, "nobody.corp.example")
    assert not seen(cluster, "corp-1", corp, KUBERNETES)
    assert not seen(cluster, "corp-1", corp, "www.elsewhere.test")


@pytest.mark.parametrize("other", ["x=10.0.0.1", "www=2001:db8::1"], ids=["NXDOMAIN", "NODATA"])
def test_a_fast_negative_answer_never_beats_a_positive_one_that_comes_later(
    cluster, namespace, other
):
    cluster.apply(
        *dns_endpoint("fast", namespace, "172.21.5.0/24", other),
        *dns_endpoint("late", namespace, "172.21.6.0/24", "www=10.20.0.5", delay=50),
        pod("app", namespace, "fast/nsm-1, late/nsm-2"),
    )
    cluster.connected("app", namespace)
    serving(cluster, namespace, "fast-1", "late-1")

    for words in ([], ["--tcp"], []):
        answer = ask(cluster, "app", namespace, INSIDE, *words)
        assert data(answer) == ["10.20.0.5"]
        assert 50 <= answer["milliseconds"] < 3000
    assert len(seen(cluster, "fast-1", namespace, INSIDE)) == 3


def test_after_kill_9_the_next_query_resolves_and_the_pod_is_captured_again(cluster, corp):
    cluster.nsm("lab", "kill", "dns/node1", "-9", "--hold")
    try:
        answer = ask(cluster, "app", corp, KUBERNETES, "--tries", "1", "--timeout", "2s")
        assert data(answer) == [CLUSTER_IP]
        assert ask(cluster, "app", corp, INSIDE)["status"] == "REFUSED"
        assert "nsm_dns" not in tables(cluster, "app", corp)
    finally:
        cluster.nsm("lab", "start", "dns/node1")
    resolves(cluster, "app", corp, INSIDE, "10.20.0.5")
    cluster.connected("app", corp)


def test_a_stopped_process_costs_one_retry_and_after_seconds_nothing(cluster, corp):
    stub = cluster.start(
        *("lab", "exec", "app", "-n", corp, "--", "python", "-c", names.STUB),
        stdin=subprocess.PIPE,
    )
    try:
        assert _asked(stub, KUBERNETES).startswith("rcode 0"), (
            "on a socket that is used again later"
        )
        cluster.nsm("lab", "kill", "dns/node1", "--signal", "STOP")
        stopped = time.monotonic()
        told = cluster.nsm("lab", "exec", "app", "-n", corp, "--", "getent", "hosts", KUBERNETES)
        took = time.monotonic() - stopped
        assert told.split()[0] == CLUSTER_IP
        assert took < 10, f"{took:.1f} s"  # a second retry would come then
        while time.monotonic() - stopped < 4:  # what the promise is about
            time.sleep(0.05)
        answer = ask(cluster, "app", corp, KUBERNETES, "--tries", "1")
        assert data(answer) == [CLUSTER_IP]
        assert answer["milliseconds"] < 2000
        said, seconds = _asked(stub, KUBERNETES).rsplit(" ", 1)
        assert said == "rcode 0"
        assert float(seconds) < 2
    finally:
        cluster.nsm("lab", "kill", "dns/node1", "--signal", "CONT")
        stub.kill()
        stub.communicate()
    resolves(cluster, "app", corp, INSIDE, "10.20.0.5")


def _asked(stub: "subprocess.Popen[str]", name: str) -> str:
    assert stub.stdin is not None and stub.stdout is not None
    stub.stdin.write(f"{name}\n")
    stub.stdin.flush()
    return stub.stdout.readline().strip()


def test_pods_without_dns_and_pods_that_opted_out_have_nothing_of_ours(cluster, corp):
    out = pod("opted-out", corp, "corp/nsm-1")
    out["metadata"]["annotations"][OPT_OUT] = "false"
    cluster.apply(
        endpoint("plain", corp, "plain", "172.21.7.0/24"),
        endpoint_pod("plain-1", corp, "plain"),
        pod("without", corp, "plain/nsm-1"),
        pod("alone", corp),
        out,
    )
    for name in ("without", "opted-out"):
        cluster.connected(name, corp)
    cluster.nsm("lab", "wait", "pod/alone", "-n", corp)

    assert "nsm_dns" in tables(cluster, "app", corp)
    assert {line.split()[0] for line in listeners(cluster, "app", corp)} >= {"udp", "tcp"}
    for name in ("without", "opted-out", "alone"):
        assert tables(cluster, name, corp) == []
        assert listeners(cluster, name, corp) == []
    assert ask(cluster, "opted-out", corp, INSIDE)["status"] == "REFUSED"


def test_the_capture_goes_with_the_last_connection_that_gives_dns_and_comes_back(cluster, corp):
    cluster.apply(pod("app", corp, ""))
    cluster.until("released", lambda: "nsm_dns" not in tables(cluster, "app", corp))
    assert listeners(cluster, "app", corp) == []
    cluster.until("no resolver", lambda: not cluster.items("resolvers", corp))
    assert ask(cluster, "app", corp, INSIDE)["status"] == "REFUSED"

    cluster.apply(pod("app", corp, "corp/nsm-1"))
    cluster.connected("app", corp)
    assert data(ask(cluster, "app", corp, INSIDE)) == ["10.20.0.5"]


def test_other_domains_of_a_live_endpoint_count_at_once_and_disturb_no_packet(cluster, corp):
    with cluster.pinging("app", corp, "nsm-1") as stop:
        wider, _ = dns_endpoint("corp", corp, "172.21.1.0/24", domains=["corp.example", "new.test"])
        cluster.apply(wider)
        cluster.until(
            "its DNS is asked for the new domain",
            lambda: (
                ask(cluster, "app", corp, "a.new.test")
                and seen(cluster, "corp-1", corp, "a.new.test")
            ),
        )
        assert ", 0% packet loss" in stop()
    cluster.connected("app", corp)


def test_the_status_annotation_tells_the_servers_and_domains(cluster, corp):
    (found,) = [p for p in cluster.items("pods", corp) if p["metadata"]["name"] == "app"]
    (item,) = json.loads(found["metadata"]["annotations"][f"{ANNOTATION}/status"])
    assert item["dns"]["nameservers"] == ["172.21.1.1"]
    assert item["dns"]["domains"] == ["corp.example"]
    (resolver,) = cluster.items("resolvers", corp)
    assert resolver["state"] == "serving"


def test_another_redirect_of_port_53_is_a_conflict_told_on_the_pod_until_it_is_gone(cluster, corp):
    names.in_pod(cluster, "app", corp, names.FOREIGN)
    cluster.until(
        "the Pod says DNSCaptureConflict",
        lambda: cluster.condition("app", corp).get("reason") == "DNSCaptureConflict",
        seconds=40,
    )
    assert "sidecar" in cluster.condition("app", corp)["message"]
    cluster.until("an event says so", lambda: "DNSCaptureConflict" in cluster.events("app", corp))
    assert tables(cluster, "app", corp) == ["sidecar"]

    names.in_pod(cluster, "app", corp, names.FOREIGN_GONE)
    cluster.until(
        "it is captured again", lambda: "nsm_dns" in tables(cluster, "app", corp), seconds=40
    )
    cluster.connected("app", corp)
    assert data(ask(cluster, "app", corp, INSIDE)) == ["10.20.0.5"]


def test_a_deleted_pods_network_is_gone_at_once(cluster, corp):
    """Its end takes the other end of its link along, by the kernel alone: nobody else does it here."""
    assert data(ask(cluster, "app", corp, INSIDE)) == ["10.20.0.5"]  # sockets towards both
    cluster.nsm("lab", "kill", "plumber/node1", "-9", "--hold")
    try:
        cluster.nsm("lab", "delete", "pod", "app", "-n", corp)
        cluster.until(
            "the link is gone",
            lambda: set(cluster.interfaces("corp-1", corp)) == {"lo", "eth0"},
            seconds=5,
        )
    finally:
        cluster.nsm("lab", "start", "plumber/node1")
    cluster.until("no resolver", lambda: not cluster.items("resolvers", corp))
