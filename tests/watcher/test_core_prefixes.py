"""Prefixes in use, from every source Kubernetes has."""

import ipaddress

import pytest

from schemas.codec import encode
from services.watcher import model
from services.watcher.core import prefixes
from tests.watcher.builders import a_node, an_object, read


def listed(told):
    return [each.prefix for each in told.prefixes]


def test_a_nodes_pod_cidrs_and_internal_addresses_are_in_use():
    node = read(
        model.Node,
        a_node(
            "node1",
            podCIDR="10.244.1.0/24",
            podCIDRs=["10.244.1.0/24", "fd00:1::/64"],
            addresses=[
                {"type": "InternalIP", "address": "172.18.0.11"},
                {"type": "InternalIP", "address": "fd00::11"},
                {"type": "Hostname", "address": "node1"},
            ],
        ),
    )
    told = prefixes.of_node(node)
    assert listed(told) == ["10.244.1.0/24", "fd00:1::/64", "172.18.0.11/32", "fd00::11/128"]
    assert told.prefixes[0].used_by == "Pod CIDR of node node1"
    assert told.prefixes[2].used_by == "address of node node1"


def test_the_single_pod_cidr_of_old_nodes_counts():
    node = read(model.Node, a_node("n", podCIDR="10.244.1.0/24"))
    assert listed(prefixes.of_node(node)) == ["10.244.1.0/24"]


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({"clusterIP": "10.96.0.1"}, ("10.96.0.1",)),
        (
            {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]},
            ("10.96.0.1", "fd00::1"),
        ),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, ()),
        ({"clusterIP": ""}, ()),
        ({}, ()),
    ],
)
def test_cluster_ips_of_services_count_and_headless_ones_have_none(spec, expected):
    found = read(model.KubeService, an_object("s", spec=spec))
    assert prefixes.service_ips(found) == expected


def test_equal_services_make_equal_messages_whatever_their_order():
    one = {("b", "x"): ("10.96.0.2",), ("a", "y"): ("10.96.0.1",)}
    other = dict(reversed(one.items()))
    assert prefixes.of_services(one) == prefixes.of_services(other)
    assert listed(prefixes.of_services(one)) == ["10.96.0.1/32", "10.96.0.2/32"]


def test_ten_thousand_services_fit_into_a_message_of_the_bus():
    first = int(ipaddress.ip_address("10.96.0.0"))
    services = {
        (f"namespace-{at % 90}", f"a-service-with-a-long-name-{at}"): (
            str(ipaddress.ip_address(first + 97 * at)),
            f"fd00:10:96::{at:x}",
        )
        for at in range(10_000)
    }
    assert len(encode(prefixes.of_services(services))) < 1_000_000
    few = dict(list(services.items())[:2000])
    assert "a-service-with-a-long-name-7" in str(prefixes.of_services(few))


def test_kubeadms_networks_are_in_use_in_both_families():
    text = "networking:\n  podSubnet: 10.244.0.0/16,fd00:1::/48\n  serviceSubnet: 10.96.0.0/12\n"
    found = read(
        model.ConfigMap,
        an_object("kubeadm-config", namespace="kube-system", data={"ClusterConfiguration": text}),
    )
    assert listed(prefixes.of_kubeadm(found)) == ["10.244.0.0/16", "fd00:1::/48", "10.96.0.0/12"]


@pytest.mark.parametrize("text", ["", "a: b", "networking: 3", "\t:", "networking: {podSubnet: 7}"])
def test_what_kubeadm_says_otherwise_means_nothing(text):
    found = read(model.ConfigMap, an_object("x", data={"ClusterConfiguration": text}))
    assert listed(prefixes.of_kubeadm(found)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("10.0.0.0/8", ["10.0.0.0/8"]),
        (
            "10.0.0.0/8\n\n# why\nfd00::/8  # all of it\n192.168.1.7\n",
            ["10.0.0.0/8", "fd00::/8", "192.168.1.7/32"],
        ),
        ("- 10.0.0.0/8\n- fd00::/8\n", ["10.0.0.0/8", "fd00::/8"]),
        ("[10.0.0.0/8, 172.16.5.9/24]", ["10.0.0.0/8", "172.16.5.0/24"]),
    ],
)
def test_the_users_exclusions_are_lines_or_a_list(text, expected):
    told, problem = prefixes.of_user(read(model.ConfigMap, an_object("x", data={"prefixes": text})))
    assert listed(told) == expected
    assert problem is None


def test_a_bad_line_is_named_and_the_others_are_in_force():
    found = read(model.ConfigMap, an_object("x", data={"prefixes": "10.0.0.0/8\nten\nfd00::/8"}))
    told, problem = prefixes.of_user(found)
    assert listed(told) == ["10.0.0.0/8", "fd00::/8"]
    assert problem is not None
    assert "line 2" in problem.message
    assert "'ten'" in problem.message
