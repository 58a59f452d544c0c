"""DNS of network services beside routes, search domains and a Pod's own DNS settings: on a whole lab."""

import json

import pytest

from tests.e2e import names
from tests.e2e.cluster import Cluster, pod
from tests.e2e.names import address_of, ask, data, dns_endpoint, seen, serving

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lab"), pytest.mark.timeout(180)]

INSIDE, KUBERNETES = "www.corp.example", "kubernetes.default.svc.cluster.local"
CLUSTER_IP = "10.96.0.1"
PREFIX = "172.22.1.0/24"
# From which address the Pod would reach the rest of the world, its cluster's DNS server not.
SOURCE = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(("203.0.113.9", 9))
    print(sock.getsockname()[0])
"""


def getent(cluster: Cluster, namespace: str, *words: str) -> list[str]:
    """What a program of Pod `app` gets from its C library: one line per address."""
    told = cluster.nsm("lab", "exec", "app", "-n", namespace, "--", "getent", *words)
    return told.splitlines()


def test_cluster_names_go_over_eth0_also_when_a_default_route_points_into_a_service(
    cluster, namespace
):
    everywhere = [{"destination": "0.0.0.0/0"}]
    server, endpoint_pod = dns_endpoint("corp", namespace, PREFIX, "www=10.20.0.5")
    server["spec"]["routes"] = everywhere
    cluster.apply(server, endpoint_pod, pod("app", namespace, "corp/nsm-1"))
    cluster.connected("app", namespace)
    serving(cluster, namespace, "corp-1")
    leaving = names.in_pod(cluster, "app", namespace, SOURCE)
    assert leaving.startswith("172.22.1."), "what has no other way goes to the service"

    assert data(ask(cluster, "app", namespace, KUBERNETES)) == [CLUSTER_IP]
    assert data(ask(cluster, "app", namespace, INSIDE)) == ["10.20.0.5"]
    assert ask(cluster, "app", namespace, "www.notcorp.example")["status"] == "REFUSED"

    own = address_of(cluster, "app", namespace)
    for name in (KUBERNETES, INSIDE, "www.notcorp.example"):
        assert names.seen_by_cluster(cluster, own, name), f"{name}: not from the Pod's own address"
    assert seen(cluster, "corp-1", namespace, INSIDE)
    for name in (KUBERNETES, "www.notcorp.example"):
        assert not seen(cluster, "corp-1", namespace, name)


def test_a_short_name_is_found_below_a_search_domain_and_no_other_name_changes(cluster, namespace):
    cluster.apply(
        *dns_endpoint("corp", namespace, PREFIX, "www=10.20.0.5", searchDomains=["corp.example"]),
        pod("app", namespace, "corp/nsm-1"),
    )
    cluster.connected("app", namespace)
    serving(cluster, namespace, "corp-1")

    for database in ("hosts", "ahosts"):  # one kind of addresses after the other; both at once
        found = getent(cluster, namespace, database, "www")
        assert {line.split()[0] for line in found} == {"10.20.0.5"}
    assert getent(cluster, namespace, "hosts", "kubernetes.default")[0].split()[0] == CLUSTER_IP
    without_type = ask(cluster, "app", namespace, "www", "--type", "AAAA")
    assert without_type["status"] == "NOERROR", "a denial would be one of the addresses it has"
    assert ask(cluster, "app", namespace, "nobody")["status"] in {"NXDOMAIN", "REFUSED"}
    assert not seen(cluster, "corp-1", namespace, "kubernetes.corp.example")


def test_a_pod_with_dns_of_its_own_has_that_instead_of_the_clusters(cluster, namespace):
    command = ["nsm", "dns-server", "--zone", "own.test", "--log", "--record", "a=10.30.0.1"]
    dns = {"name": "c", "image": "none", "command": command}
    cluster.apply(pod("own", namespace, containers=[dns]))
    cluster.nsm("lab", "wait", "pod/own", "-n", namespace)
    serving(cluster, namespace, "own")
    server = address_of(cluster, "own", namespace)
    cluster.apply(
        *dns_endpoint("corp", namespace, PREFIX, "www=10.20.0.5"),
        pod(
            "app",
            namespace,
            "corp/nsm-1",
            dnsPolicy="None",
            dnsConfig={"nameservers": [server], "searches": ["own.test"]},
        ),
    )
    cluster.connected("app", namespace)
    serving(cluster, namespace, "corp-1")

    assert data(ask(cluster, "app", namespace, "a.own.test")) == ["10.30.0.1"]
    assert data(ask(cluster, "app", namespace, INSIDE)) == ["10.20.0.5"]
    assert getent(cluster, namespace, "hosts", "a")[0].split()[0] == "10.30.0.1"
    (resolver,) = cluster.items("resolvers", namespace)
    assert [u["servers"] for u in resolver["upstreams"]] == [[server], ["172.22.1.1"]]
    assert resolver["upstreams"][0]["search_domains"] == ["own.test"]
    own = address_of(cluster, "app", namespace)
    assert not names.seen_by_cluster(cluster, own, "a.own.test")


def test_who_is_asked_for_a_name_is_explained(cluster, namespace):
    cluster.apply(
        *dns_endpoint("corp", namespace, PREFIX, "www=10.20.0.5"),
        pod("app", namespace, "corp/nsm-1"),
    )
    cluster.connected("app", namespace)
    serving(cluster, namespace, "corp-1")
    assert data(ask(cluster, "app", namespace, INSIDE)) == ["10.20.0.5"]

    words = ("dns", "explain", "app", INSIDE, "-n", namespace)
    told = json.loads(cluster.nsm(*words, "-o", "json"))
    assert told["resolver"]["state"] == "serving"
    of_cluster, of_corp = told["answers"]["servers"]
    assert [of_cluster["asked"], of_corp["asked"]] == [True, True]
    assert (of_corp["server"], of_corp["interface"]) == ("172.22.1.1", "nsm-1")
    assert (of_corp["state"], of_corp["last"]) == ("well", "positive")
    assert of_corp["rtt_ms"] > 0
    table = cluster.nsm(*words)
    assert "the name is corp.example, or below it" in table

    elsewhere = json.loads(
        cluster.nsm("dns", "explain", "app", "notcorp.example", "-n", namespace, "-o", "json")
    )
    assert [each["asked"] for each in elsewhere["answers"]["servers"]] == [True, False]
    told = cluster.nsm("dns", "explain", "nobody", "-n", namespace, expect=1)
    assert "no such Pod" in told
