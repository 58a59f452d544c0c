"""Prefixes in use, from every source Kubernetes has."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import encode
from schemas.intent import UsedPrefix
from services.watcher import model
from services.watcher.core import prefixes
from tests.watcher.builders import a_node, an_object, read


def listed(told):
    return [each.prefix for each in told.prefixes]


def only(parts):
    (told,) = parts
    return told


def config_map(text):
    return read(
        model.ConfigMap,
        an_object("excluded-prefixes", namespace="nsm-system", data={"prefixes": text}),
    )


def scattered(count, family=4):
    """Addresses with no neighbours among them: nothing can be merged."""
    if family == 6:
        return [f"fd00:1234:5678:9abc:def0:1234:{at:x}:1" for at in range(count)]
    first = int(ipaddress.ip_address("10.96.0.0"))
    return [str(ipaddress.ip_address(first + 2 * at)) for at in range(count)]


def test_a_nodes_pod_cidrs_and_addresses_are_in_use_and_none_inside_another_is_told():
    node = read(
        model.Node,
        a_node(
            "node1",
            podCIDR="10.244.1.0/24",
            podCIDRs=["10.244.1.0/24", "fd00:1::/64"],
            addresses=[
                {"type": "InternalIP", "address": "172.18.0.11"},
                {"type": "InternalIP", "address": "fd00::11"},
                {"type": "ExternalIP", "address": "203.0.113.7"},
                {"type": "InternalIP", "address": "10.244.1.1"},
                {"type": "Hostname", "address": "node1"},
            ],
        ),
    )
    told = prefixes.of_node(node)
    assert [(each.prefix, each.used_by) for each in told.prefixes] == [
        ("10.244.1.0/24", "Pod CIDR of node node1"),
        ("172.18.0.11/32", "address of node node1"),
        ("203.0.113.7/32", "address of node node1"),
        ("fd00::11/128", "address of node node1"),
        ("fd00:1::/64", "Pod CIDR of node node1"),
    ]


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
def test_addresses_of_services_count_and_headless_ones_have_none(spec, expected):
    assert read(model.KubeService, an_object("s", spec=spec)).addresses == expected


def test_external_addresses_of_services_and_those_of_their_balancers_count():
    spec = {"clusterIP": "10.96.0.1", "externalIPs": ["198.51.100.1"]}
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}, {"hostname": "lb.example"}]}}
    found = read(model.KubeService, an_object("s", spec=spec, status=status))
    assert found.addresses == ("10.96.0.1", "198.51.100.1", "203.0.113.7")


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("count", [14_000, 30_000])
def test_any_number_of_exclusions_fits_in_messages_of_the_bus_and_none_is_lost(count, family):
    written = scattered(count, family)
    parts, problem = prefixes.of_user(config_map("\n".join(written)))
    assert problem is None
    assert len(parts) > 1
    assert max(len(encode(part)) for part in parts) < 1_000_000
    assert len({part.key for part in parts}) == len(parts)
    told = [each for part in parts for each in listed(part)]
    assert sorted(told) == sorted(f"{each}/{32 if family == 4 else 128}" for each in written)


def test_neighbours_are_merged_before_anything_is_split():
    told, _ = prefixes.of_user(
        config_map("\n".join(f"10.{at // 256}.{at % 256}.0/24" for at in range(14_000)))
    )
    assert len(listed(only(told))) < 20
    assert only(told).name == "excluded-prefixes"


@given(
    st.lists(
        st.builds(
            lambda first, length, family: (
                ipaddress.ip_network(
                    (first % 512 + (0xFFFFFE00 if first > 1024 else 0), length), strict=False
                )
                if family == 4
                else ipaddress.ip_network((first, 96 + length), strict=False)
            ),
            st.integers(0, 2048),
            st.sampled_from([32, 32, 32, 31, 30, 28, 24, 8]),
            st.sampled_from([4, 6]),
        ),
        max_size=60,
    )
)
def test_what_is_merged_covers_the_same_and_nothing_more(networks):
    used = [UsedPrefix(prefix=str(each), used_by="x") for each in networks]
    expected = [
        *ipaddress.collapse_addresses(each for each in networks if each.version == 4),
        *ipaddress.collapse_addresses(each for each in networks if each.version == 6),
    ]
    assert [each.prefix for each in prefixes.minimal(used)] == list(map(str, expected))


def test_halves_that_say_different_things_are_told_apart_unless_a_word_for_both_is_given():
    used = [UsedPrefix(prefix=f"10.0.0.{at}/32", used_by=f"Pod {at}") for at in range(3)]
    assert prefixes.minimal(used) == used
    told = prefixes.minimal(used, lambda parts: f"{len(parts)} Pods")
    assert [(each.prefix, each.used_by) for each in told] == [
        ("10.0.0.0/31", "2 Pods"),
        ("10.0.0.2/32", "Pod 2"),
    ]


def test_a_service_cidr_is_in_use_in_both_families():
    told = prefixes.of_service_cidr("kubernetes", ["10.96.0.0/16", "fd00:96::/108"])
    assert told.key == prefixes.service_cidr_key("kubernetes")
    assert listed(told) == ["10.96.0.0/16", "fd00:96::/108"]
    assert told.prefixes[0].used_by == "ServiceCIDR kubernetes"


def test_one_more_exclusion_changes_one_message():
    written = scattered(14_000)
    before, _ = prefixes.of_user(config_map("\n".join(written)))
    after, _ = prefixes.of_user(config_map("\n".join(["10.0.0.1", *written])))
    changed = [part for part in after if part not in before]
    assert len(changed) == 1
    assert changed[0].key in {part.key for part in before}


def test_what_is_nested_beyond_reason_is_malformed_and_harms_nobody():
    deep = "[" * 50_000
    assert (
        listed(
            prefixes.of_kubeadm(
                read(model.ConfigMap, an_object("x", data={"ClusterConfiguration": deep}))
            )
        )
        == []
    )
    told, problem = prefixes.of_user(config_map(deep))
    assert listed(only(told)) == []
    assert problem is not None
    bomb = "a: &a [x]\n" + "".join(
        f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
        for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )
    nested = "- &a [x]\n" + "".join(
        f"- &{name} [{', '.join([f'*{before}'] * 9)}]\n"
        for before, name in zip("abcdefghijk", "bcdefghijkl", strict=True)
    )
    for text in (bomb, nested):
        told, problem = prefixes.of_user(config_map(text))
        assert listed(only(told)) == []
        assert problem is not None


def test_of_many_bad_lines_a_few_are_named_and_the_remedy_is_not_cut_off():
    _, problem = prefixes.of_user(config_map("\n".join(["nonsense"] * 1000)))
    assert problem is not None
    assert "and 995 more" in problem.message
    assert len(problem.message) < 1024
    assert "write one prefix" in problem.message


def test_kubeadms_networks_are_in_use_in_both_families():
    text = "networking:\n  podSubnet: 10.244.0.0/16,fd00:1::/48\n  serviceSubnet: 10.96.0.0/12\n"
    found = read(
        model.ConfigMap,
        an_object("kubeadm-config", namespace="kube-system", data={"ClusterConfiguration": text}),
    )
    assert listed(prefixes.of_kubeadm(found)) == ["10.96.0.0/12", "10.244.0.0/16", "fd00:1::/48"]


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
            ["10.0.0.0/8", "192.168.1.7/32", "fd00::/8"],
        ),
        ("- 10.0.0.0/8\n- fd00::/8\n", ["10.0.0.0/8", "fd00::/8"]),
        ("[10.0.0.0/8, 172.16.5.0/24]", ["10.0.0.0/8", "172.16.5.0/24"]),
        ("10.0.1.0/24\n10.0.0.0/24\n10.0.0.0/25\n10.0.1.0/24", ["10.0.0.0/23"]),
    ],
)
def test_the_users_exclusions_are_lines_or_a_list(text, expected):
    told, problem = prefixes.of_user(read(model.ConfigMap, an_object("x", data={"prefixes": text})))
    assert listed(only(told)) == expected
    assert problem is None


def test_a_bad_line_is_named_and_the_others_are_in_force():
    found = read(model.ConfigMap, an_object("x", data={"prefixes": "10.0.0.0/8\nten\nfd00::/8"}))
    told, problem = prefixes.of_user(found)
    assert listed(only(told)) == ["10.0.0.0/8", "fd00::/8"]
    assert problem is not None
    assert "line 2" in problem.message
    assert "'ten'" in problem.message


@pytest.mark.parametrize(
    ("text", "meant"), [("10.1.2.3/8", "10.0.0.0/8"), ("2001:db8::1/64", "2001:db8::/64")]
)
def test_a_line_with_host_bits_is_not_widened_but_told_with_what_may_be_meant(text, meant):
    told, problem = prefixes.of_user(config_map(f"{text}\n192.168.0.0/16\nfd00::0/64"))
    assert listed(only(told)) == ["192.168.0.0/16", "fd00::/64"]
    assert problem is not None
    assert "line 1" in problem.message
    assert f"has host bits: {meant}, or {text.partition('/')[0]} alone?" in problem.message


def test_another_key_is_told_with_the_keys_that_are_there():
    found = read(model.ConfigMap, an_object("x", data={"prefix": "10.0.0.0/8"}))
    told, problem = prefixes.of_user(found)
    assert listed(only(told)) == []
    assert problem is not None
    assert "key prefixes: there is no such key, there is prefix" in problem.message


@pytest.mark.parametrize("data", [None, {}, {"prefixes": ""}])
def test_a_config_map_without_anything_excludes_nothing(data):
    told, problem = prefixes.of_user(read(model.ConfigMap, an_object("x", data=data)))
    assert listed(only(told)) == []
    assert problem is None
