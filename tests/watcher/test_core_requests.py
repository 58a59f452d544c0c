"""What a Pod asks for."""

import pytest

from schemas.annotation import ANNOTATION
from services.watcher import model
from services.watcher.core import requests
from tests.watcher.builders import an_object, pod, read

NS = read(model.Namespace, an_object("default", annotations={"networkservicemesh.io": "from-ns"}))


def wanted(found, namespace=None, standing=()):
    return requests.wanted(found, namespace, node_ready=True, standing=standing)


def names(told):
    return [each.network_service for each in told.requests]


@pytest.mark.parametrize(
    ("own", "namespace", "expected"),
    [
        (None, None, []),
        (None, NS, ["from-ns"]),
        ("own", NS, ["own"]),
        ("", NS, []),
        ("  ", NS, []),
        ("a, kernel://b/nsm-2?app=foo", None, ["a", "b"]),
    ],
    ids=["none", "namespace", "own wins", "empty asks nothing", "blank asks nothing", "list"],
)
def test_the_pods_annotation_wins_over_its_namespaces(own, namespace, expected):
    assert names(wanted(pod(asks=own), namespace)) == expected


@pytest.mark.parametrize(
    ("fields", "holds"),
    [
        ({}, True),
        ({"node": ""}, False),
        ({"phase": "Succeeded"}, False),
        ({"phase": "Failed"}, False),
        ({"phase": "Pending", "ready": False}, True),
        ({"terminating": True}, True),
        ({"host_network": True}, False),
    ],
    ids=str,
)
def test_a_request_stands_from_the_node_to_the_end_of_the_pod(fields, holds):
    assert bool(names(wanted(pod(asks="svc", **fields)))) is holds


def test_a_request_carries_what_the_node_needs_to_find_the_pod():
    found = pod(
        asks="kernel://svc@team-b/nsm-1?app=foo",
        ips=("10.244.1.5", "fd00::5"),
        annotations={"kubernetes.io/config.hash": "abcdef"},
    )
    (request,) = requests.wanted(found, None, node_ready=False, standing=()).requests
    assert request.pod.uid == "uid-default-client"
    assert request.pod.cgroup_uid == "abcdef"
    assert request.pod.ips == ("10.244.1.5", "fd00::5")
    assert request.pod.node == "node1"
    assert request.pod.node_ready is False
    assert request.interface == "nsm-1"
    assert request.network_service_namespace == "team-b"
    assert request.labels == {"app": "foo"}


def test_host_network_is_a_problem_only_for_pods_that_ask_for_something():
    told = wanted(pod(asks="svc", host_network=True))
    assert told.problem is not None
    assert told.problem.reason == "HostNetwork"
    assert wanted(pod(asks="", host_network=True)).problem is None
    assert wanted(pod(host_network=True)).problem is None


def test_a_malformed_annotation_wires_nothing_new_and_keeps_what_stands_for_this_uid():
    standing = wanted(pod(asks="svc/nsm-1, other/nsm-2")).requests
    broken = pod(asks="svc/nsm-1, new/nsm-3, :", ips=("10.0.0.9",))
    told = wanted(broken, standing=standing)
    assert [each.interface for each in told.requests] == ["nsm-1", "nsm-2"]
    assert told.requests[0].pod.ips == ("10.0.0.9",)
    assert told.problem is not None
    assert told.problem.reason == "MalformedAnnotation"
    assert "column 23" in told.problem.message


def test_what_stands_for_a_predecessor_of_the_same_name_is_not_kept():
    standing = wanted(pod(asks="svc/nsm-1")).requests
    assert wanted(pod(asks=":", uid="another"), standing=standing).requests == ()


def test_a_malformed_annotation_of_an_ended_pod_keeps_nothing():
    standing = wanted(pod(asks="svc/nsm-1")).requests
    assert wanted(pod(asks=":", phase="Failed"), standing=standing).requests == ()


CAPTURE = "dns.networkservicemesh.io/capture"


@pytest.mark.parametrize(
    ("written", "wants", "wrong"),
    [
        (None, True, False),
        ("true", True, False),
        ("false", False, False),
        ("False", True, True),
        ("no", True, True),
        ("", True, True),
        ("x" * 10_000, True, True),
    ],
    ids=["none", "true", "false", "other case", "other word", "empty", "long"],
)
def test_only_a_clear_false_opts_out_of_dns_and_what_is_neither_is_told(written, wants, wrong):
    found = pod(
        asks="svc/nsm-1, b/nsm-2", annotations={CAPTURE: written} if written is not None else {}
    )
    assert {each.dns for each in wanted(found).requests} == {wants}
    problem = requests.capture_problem(found)
    assert (problem is not None) is wrong
    if problem is not None:
        assert problem.reason == "InvalidAnnotation"
        assert 'write "false"' in problem.message
        assert len(problem.message) < 500


def test_a_namespace_does_not_opt_out_for_its_pods():
    silent = an_object("default", annotations={"networkservicemesh.io": "svc", CAPTURE: "false"})
    (request,) = wanted(pod(), read(model.Namespace, silent)).requests
    assert request.dns


def test_what_a_malformed_annotation_keeps_still_opts_out_of_dns():
    standing = wanted(pod(asks="svc/nsm-1")).requests
    (kept,) = wanted(pod(asks=":", annotations={CAPTURE: "false"}), standing=standing).requests
    assert not kept.dns


def test_a_request_carries_whose_dns_the_pod_asks():
    written = an_object("client", annotations={ANNOTATION: "kernel://vpn"})
    config = {"nameservers": ["10.9.0.53"], "searches": ["corp.example"]}
    written["spec"] = {"nodeName": "node1", "dnsPolicy": "None", "dnsConfig": config}
    told = requests.pod_ref(read(model.Pod, written), node_ready=True)
    assert (told.dns_policy, told.nameservers) == ("None", ("10.9.0.53",))
    assert told.searches == ("corp.example",)
    plain = requests.pod_ref(pod("client"), node_ready=True)
    assert (plain.dns_policy, plain.nameservers, plain.searches) == ("ClusterFirst", (), ())
