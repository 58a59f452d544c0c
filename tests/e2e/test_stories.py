"""What users see, on a whole lab: real API, real bus, real kernel, real processes."""

import json
import shutil

import pytest

from schemas.annotation import default_interface
from tests.e2e.cluster import Cluster, endpoint, endpoint_pod, namespace_of, pod

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lab"), pytest.mark.timeout(180)]

VPN = "172.20.1.0/24"


@pytest.fixture
def vpn(cluster: Cluster, namespace: str) -> str:
    """A namespace with one endpoint of network service vpn."""
    cluster.apply(endpoint("vpn", namespace, "vpn", VPN), endpoint_pod("vpn-1", namespace, "vpn"))
    return namespace


def test_removing_an_item_removes_that_interface_and_adding_it_back_restores_its_address(
    cluster, vpn
):
    cluster.apply(endpoint("dmz", vpn, "dmz", "172.20.2.0/24"), endpoint_pod("dmz-1", vpn, "dmz"))
    both = "kernel://vpn/nsm-1, kernel://dmz/nsm-2"
    cluster.apply(pod("other", vpn, "dmz/nsm-2"))
    cluster.apply(pod("app", vpn, both))
    cluster.connected("other", vpn)
    cluster.connected("app", vpn)
    before = cluster.interfaces("app", vpn)
    assert set(before) == {"lo", "eth0", "nsm-1", "nsm-2"}

    with cluster.pinging("app", vpn, "nsm-1") as stop:
        cluster.apply(pod("app", vpn, "kernel://vpn/nsm-1"))
        cluster.until(
            "nsm-2 is gone", lambda: set(cluster.interfaces("app", vpn)) == set(before) - {"nsm-2"}
        )
        cluster.apply(pod("app", vpn, both))
        cluster.connected("app", vpn)
        assert ", 0% packet loss" in stop()

    after = cluster.interfaces("app", vpn)
    assert after["nsm-2"]["addresses"] == before["nsm-2"]["addresses"]
    assert after["nsm-1"]["index"] == before["nsm-1"]["index"]


def test_labels_choose_the_endpoint_and_an_unknown_one_is_refused_listing_both(cluster, namespace):
    for version, prefix in (("v1.0", "172.20.3.0/24"), ("v1.1", "172.20.4.0/24")):
        name = version.replace(".", "-")
        cluster.apply(
            endpoint(name, namespace, "svc", prefix, labels={"version": version}),
            endpoint_pod(f"pod-{name}", namespace, name),
        )
    for number in range(3):
        cluster.apply(pod(f"app{number}", namespace, "svc/nsm-1?version=v1.1"))
    cluster.apply(pod("app9", namespace, "svc/nsm-1?version=v9"))

    for number in range(3):
        cluster.connected(f"app{number}", namespace)
    chosen = [c["endpoint"] for c in cluster.items("connections", namespace)]
    assert chosen == ["v1-1"] * 3
    message = cluster.refused("app9", namespace, "NoMatchingEndpoint")
    assert "version=v1.0" in message
    assert "version=v1.1" in message


def test_a_default_name_is_the_same_after_every_restart(cluster, vpn):
    cluster.apply(pod("app", vpn, "kernel://vpn"))
    cluster.connected("app", vpn)
    name = default_interface("vpn", vpn)
    before = cluster.interfaces("app", vpn)
    assert set(before) == {"lo", "eth0", name}

    for process in ("watcher", "ipam", "plumber/node1"):
        cluster.nsm("lab", "kill", process, "-9")
    cluster.apply(pod("probe", vpn, "kernel://vpn"))
    cluster.connected("probe", vpn)

    assert cluster.interfaces("app", vpn) == before


def test_an_annotation_of_the_namespace_holds_for_pods_that_have_none(cluster, vpn):
    cluster.apply(pod("plain", vpn), pod("opted-out", vpn, ""))
    cluster.apply(namespace_of(vpn, **{"networkservicemesh.io": "vpn/nsm-1"}))

    cluster.connected("plain", vpn)
    assert "nsm-1" in cluster.interfaces("plain", vpn)
    assert "nsm-1" not in cluster.interfaces("opted-out", vpn)


def test_the_bus_tells_the_story_as_readable_json(cluster, vpn):
    committed = cluster.start("tap", "log.nsm.>")
    spoken = cluster.start("tap")
    try:
        for process in (committed, spoken):
            assert process.stdout.readline()
        cluster.apply(pod("app", vpn, "vpn/nsm-1"))
        cluster.connected("app", vpn)
        cluster.nsm("lab", "delete", "pod", "app", "-n", vpn)
        cluster.nsm("lab", "wait", "pod/app", "-n", vpn, "--for", "deleted")
        kinds = ("request", "connection", "status")
        for process, root in ((committed, "log.nsm"), (spoken, "nsm")):
            wanted = {f"{root}.{kind}.": 0 for kind in kinds}
            ended = False
            while not ended:
                line = process.stdout.readline()
                assert line
                for start in wanted:
                    if f" {start}" in line and ".app.nsm-1" in line:
                        wanted[start] += 1
                        if start.endswith(".status.") and '"released"' in line:
                            ended = True
                        body = line[line.index("{") :] if "{" in line else "{}"
                        assert isinstance(json.loads(body), dict)
            assert all(wanted.values()), wanted
    finally:
        for process in (committed, spoken):
            process.kill()
            process.communicate()


def test_a_deleted_client_leaves_nothing_at_the_endpoint_and_its_address_is_free(
    cluster, namespace
):
    cluster.apply(
        endpoint("tiny", namespace, "vpn", "172.20.5.0/30"),
        endpoint_pod("vpn-1", namespace, "tiny"),
    )
    cluster.apply(pod("first", namespace, "vpn/nsm-1"))
    cluster.connected("first", namespace)
    cluster.apply(pod("second", namespace, "vpn/nsm-1"))
    message = cluster.refused("second", namespace, "PoolExhausted")
    assert "172.20.5.0/30 is full: 2 of 2 addresses taken" in message
    assert "172.20.5.2/32" in cluster.interfaces("first", namespace)["nsm-1"]["addresses"]

    cluster.nsm("lab", "delete", "pod", "first", "-n", namespace)

    cluster.connected("second", namespace)
    assert "172.20.5.2/32" in cluster.interfaces("second", namespace)["nsm-1"]["addresses"]
    cluster.nsm("lab", "delete", "pod", "second", "-n", namespace)
    cluster.until(
        "the endpoint has nothing left",
        lambda: set(cluster.interfaces("vpn-1", namespace)) == {"lo", "eth0"},
    )
    assert not cluster.items("connections", namespace)
    assert not cluster.items("statuses", namespace)


def test_a_deleted_endpoint_is_told_on_the_client_and_a_new_one_connects_it_again(cluster, vpn):
    cluster.apply(pod("app", vpn, "vpn/nsm-1"))
    cluster.connected("app", vpn)

    cluster.nsm("lab", "delete", "pod", "vpn-1", "-n", vpn)
    assert "matches no Pod that can serve" in cluster.refused("app", vpn, "NoEndpoint")
    cluster.until("nsm-1 is gone", lambda: "nsm-1" not in cluster.interfaces("app", vpn))

    cluster.apply(endpoint_pod("vpn-2", vpn, "vpn"))
    cluster.connected("app", vpn)
    cluster.nsm("ping", "app", "-n", vpn, "--count", "3")


@pytest.mark.parametrize(
    ("annotation", "reason", "texts"),
    [
        ("vpn/nsm-1, vpn:80/x", "MalformedAnnotation", ["column 15", "no port", "remove"]),
        ("memif://vpn/nsm-1", "MalformedAnnotation", ["column 1", "memif", "kernel"]),
        ("nobody-offers-this", "NoEndpoint", ["nobody-offers-this", "create"]),
    ],
)
def test_what_cannot_be_done_is_said_with_reason_and_remedy_and_others_are_unaffected(
    cluster, vpn, annotation, reason, texts
):
    cluster.apply(pod("wrong", vpn, annotation))
    cluster.apply(pod("right", vpn, "vpn/nsm-1"))

    message = cluster.refused("wrong", vpn, reason)
    for text in texts:
        assert text in message
    cluster.connected("right", vpn)


def test_a_pod_on_the_host_network_is_refused(cluster, vpn):
    cluster.apply(pod("wrong", vpn, "vpn/nsm-1", hostNetwork=True))
    assert "hostNetwork" in cluster.refused("wrong", vpn, "HostNetwork")


def test_a_malformed_edit_leaves_what_stands(cluster, vpn):
    cluster.apply(pod("app", vpn, "vpn/nsm-1"))
    cluster.connected("app", vpn)
    before = cluster.interfaces("app", vpn)

    cluster.apply(pod("app", vpn, "vpn/nsm-1,"))
    assert "column 11" in cluster.refused("app", vpn, "MalformedAnnotation")
    cluster.nsm("lab", "kill", "watcher", "-9")
    cluster.apply(pod("probe", vpn, "vpn/nsm-1"))
    cluster.connected("probe", vpn)

    assert cluster.interfaces("app", vpn) == before


def test_a_route_reaches_what_is_behind_the_endpoint(cluster, namespace):
    behind = (
        "import fcntl, signal, socket, struct\n"
        "for code, address in (0x8916, '10.21.0.5'), (0x891C, '255.255.255.255'):\n"
        "    request = struct.pack('16sH2x4s8x', b'lo:1', 2, socket.inet_aton(address))\n"
        "    fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), code, request)\n"
        "signal.pause()\n"
    )
    container = {"name": "c", "image": "none", "command": ["python3", "-c", behind]}
    cluster.apply(
        endpoint("gw", namespace, "gw", "172.20.6.0/24", routes=[{"destination": "10.21.0.0/16"}]),
        endpoint_pod("gw-1", namespace, "gw", containers=[container]),
        pod("app", namespace, "gw/nsm-1"),
    )
    cluster.connected("app", namespace)

    routes = [r["destination"] for r in cluster.interfaces("app", namespace)["nsm-1"]["routes"]]
    assert "10.21.0.0/16" in routes
    cluster.nsm("ping", "app", "10.21.0.5", "-n", namespace, "--count", "3")


@pytest.mark.parametrize(
    ("prefix", "routes", "named"),
    [
        ("10.244.1.0/25", [], ["10.244.1.0/25", "10.244.1.0/24"]),
        ("172.20.7.0/24", ["10.96.0.0/24"], ["10.96.0.0/24", "10.96.0.0/16"]),
        ("172.20.7.0/24", ["10.244.0.0/16"], ["10.244.0.0/16", "10.244."]),
    ],
)
def test_addresses_and_routes_that_overlap_cluster_prefixes_are_refused_naming_both(
    cluster, namespace, prefix, routes, named
):
    cluster.apply(
        endpoint("bad", namespace, "bad", prefix, routes=[{"destination": r} for r in routes]),
        endpoint_pod("bad-1", namespace, "bad"),
        pod("app", namespace, "bad/nsm-1"),
    )
    message = cluster.refused("app", namespace, "PrefixCollision")
    for text in named:
        assert text in message


@pytest.mark.parametrize("process", ["watcher", "ipam", "plumber/node1", "nats"])
def test_kill_9_of_a_process_loses_no_packet_and_new_pods_connect_when_it_is_back(
    cluster, vpn, process
):
    cluster.apply(pod("app", vpn, "vpn/nsm-1"))
    cluster.connected("app", vpn)
    before = cluster.interfaces("app", vpn)

    with cluster.pinging("app", vpn, "nsm-1") as stop:
        cluster.nsm("lab", "kill", process, "-9", "--hold")
        cluster.apply(pod("late", vpn, "vpn/nsm-1"))
        cluster.nsm("lab", "start", process)
        cluster.connected("late", vpn)
        summary = stop()

    assert ", 0% packet loss" in summary
    assert cluster.interfaces("app", vpn) == before


def test_a_wiped_bus_tears_nothing_down(cluster, vpn):
    cluster.apply(pod("app", vpn, "vpn/nsm-1"))
    cluster.connected("app", vpn)
    before = cluster.interfaces("app", vpn)

    with cluster.pinging("app", vpn, "nsm-1") as stop:
        cluster.nsm("lab", "kill", "nats", "-9", "--hold")
        shutil.rmtree(cluster.directory / "nats" / "store" / "jetstream")
        cluster.nsm("lab", "start", "nats")
        cluster.apply(pod("late", vpn, "vpn/nsm-1"))
        cluster.connected("late", vpn)
        summary = stop()

    assert ", 0% packet loss" in summary
    assert cluster.interfaces("app", vpn) == before
    cluster.connected("app", vpn)


def test_a_bus_wiped_while_ipam_and_plumber_were_dead_is_filled_again_from_the_kernel(cluster, vpn):
    # Names in the order that a fresh allocation would not take.
    for name in ("zoe", "mia", "ann"):
        cluster.apply(pod(name, vpn, "vpn/nsm-1"))
        cluster.connected(name, vpn)
    before = {name: cluster.interfaces(name, vpn) for name in ("zoe", "mia", "ann")}

    with cluster.pinging("zoe", vpn, "nsm-1") as stop:
        for process in ("ipam", "plumber/node1", "nats"):
            cluster.nsm("lab", "kill", process, "-9", "--hold")
        shutil.rmtree(cluster.directory / "nats" / "store" / "jetstream")
        for process in ("nats", "ipam", "plumber/node1"):
            cluster.nsm("lab", "start", process)
        cluster.apply(pod("late", vpn, "vpn/nsm-1"))
        cluster.connected("late", vpn)
        summary = stop()

    assert ", 0% packet loss" in summary
    assert {name: cluster.interfaces(name, vpn) for name in before} == before
