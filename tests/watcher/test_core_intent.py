"""Intent: incremental and from scratch are the same, and each change touches only what it should."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.intent import Endpoint, NetworkService, Request
from schemas.subjects import EndpointKey, NetworkServiceKey, PrefixKey, RequestKey
from services.watcher import model
from services.watcher.core import specs
from services.watcher.core.intent import Intent, Touched
from tests.watcher.builders import a_node, a_pod, an_endpoint, an_object, read

SYSTEM = "nsm-system"


def an_intent(*found: Any) -> Intent:
    intent = Intent(system_namespace=SYSTEM)
    for each in found:
        intent.put(type(each), each.ref, each)
    return intent


def pod(*args, **fields):
    return read(model.Pod, a_pod(*args, **fields))


def endpoint(*args, **fields):
    return read(model.NetworkServiceEndpoint, an_endpoint(*args, **fields))


def node(*args, **fields):
    return read(model.Node, a_node(*args, **fields))


VPN = {"app": "vpn"}
NSM1 = RequestKey("default", "client", "nsm-1")


def test_a_pod_with_an_annotation_is_a_request_until_it_is_gone():
    intent = an_intent()
    client = pod(asks="svc/nsm-1")
    assert intent.put(model.Pod, client.ref, client).keys == {NSM1}
    assert isinstance(intent.message(NSM1), Request)
    assert intent.put(model.Pod, client.ref, None).keys == {NSM1}
    assert intent.message(NSM1) is None
    assert intent.desired == {}


def test_editing_the_annotation_touches_only_what_changed():
    intent = an_intent(pod(asks="svc/nsm-1, other/nsm-2"))
    edited = pod(asks="svc/nsm-1, third/nsm-3")
    assert intent.put(model.Pod, edited.ref, edited).keys == {
        RequestKey("default", "client", "nsm-2"),
        RequestKey("default", "client", "nsm-3"),
    }


def test_our_own_status_coming_back_touches_no_message():
    intent = an_intent(pod(asks="svc/nsm-1"), endpoint())
    shown = pod(asks="svc/nsm-1", annotations={model.STATUS_ANNOTATION: "[]"})
    touched = intent.put(model.Pod, shown.ref, shown)
    assert touched.keys == set()
    assert touched.pods == {shown.ref}


def test_a_pod_whose_own_annotation_has_no_effect_is_unheeded_until_it_ends():
    intent = an_intent(pod(asks="svc?x"))
    assert set(intent.unheeded) == {("default", "client")}
    ended = pod(asks="svc?x", phase="Succeeded")
    intent.put(model.Pod, ended.ref, ended)
    assert not intent.unheeded


def test_an_ended_pod_with_a_typing_error_never_was_unheeded():
    assert not an_intent(pod(asks="svc?x", phase="Failed")).unheeded


@pytest.mark.parametrize("asks", ["svc/nsm-1", "svc?x"])
def test_what_a_namespace_asks_for_in_vain_is_no_annotation_of_the_pod(asks):
    below = read(
        model.Namespace,
        {"metadata": {"name": "default", "annotations": {"networkservicemesh.io": asks}}},
    )
    on_its_node = pod(host_network=True)
    intent = an_intent(below, on_its_node)
    assert intent.wanted[on_its_node.ref].problem is not None
    assert not intent.unheeded


def test_every_matching_pod_of_the_namespace_is_an_endpoint():
    intent = an_intent(
        pod("vpn-0", labels=VPN),
        pod("vpn-1", labels=VPN, ready=False),
        pod("other"),
        pod("vpn-0", labels=VPN, namespace="elsewhere"),
        endpoint(),
    )
    one = intent.message(EndpointKey("default", "vpn", "vpn-0"))
    two = intent.message(EndpointKey("default", "vpn", "vpn-1"))
    assert isinstance(one, Endpoint)
    assert (one.ready, two.ready) == (True, False)
    assert len(intent.desired) == 2


def test_an_endpoint_pod_that_ends_is_dropped_so_that_clients_move():
    cases: list[dict[str, Any]] = [
        {"phase": "Failed"},
        {"node": ""},
        {"host_network": True},
        {"labels": {}},
    ]
    for fields in cases:
        intent = an_intent(pod("vpn-0", labels=VPN), endpoint())
        ended = pod("vpn-0", **{"labels": VPN, **fields})
        key = EndpointKey("default", "vpn", "vpn-0")
        assert intent.put(model.Pod, ended.ref, ended).keys == {key}
        assert intent.message(key) is None


def test_an_endpoint_pod_that_is_being_deleted_serves_until_it_ends_and_gets_nothing_new():
    intent = an_intent(pod("vpn-0", labels=VPN), endpoint())
    key = EndpointKey("default", "vpn", "vpn-0")
    leaving = pod("vpn-0", labels=VPN, terminating=True)
    assert intent.put(model.Pod, leaving.ref, leaving).keys == {key}
    told = intent.message(key)
    assert (told.ready, told.leaving) == (False, True)
    ended = pod("vpn-0", labels=VPN, terminating=True, phase="Succeeded")
    intent.put(model.Pod, ended.ref, ended)
    assert intent.message(key) is None


def test_a_typo_in_an_endpoint_withdraws_nothing_and_says_that_it_has_no_effect():
    intent = an_intent(node("node1"), pod("vpn-0", labels=VPN), endpoint())
    key = EndpointKey("default", "vpn", "vpn-0")
    offered = intent.message(key)
    bad = endpoint(ipam={"prefixes": ["172.16.1.0/33"]})
    touched = intent.put(model.NetworkServiceEndpoint, bad.ref, bad)
    assert touched.keys == {key}
    (about,) = touched.notices
    assert "has no effect as it is written" in intent.notices[about].message
    # Its clients look at their own Pods, not at the endpoint's object.
    offered = msgspec.structs.replace(offered, refused=intent.notices[about].message)
    assert intent.message(key) == offered
    more = pod("vpn-1", labels=VPN)
    assert intent.put(model.Pod, more.ref, more).keys == {EndpointKey("default", "vpn", "vpn-1")}
    unready = pod("vpn-0", labels=VPN, ready=False)
    intent.put(model.Pod, unready.ref, unready)
    assert intent.message(key) == msgspec.structs.replace(offered, ready=False)
    good = endpoint()
    intent.put(model.NetworkServiceEndpoint, good.ref, good)
    assert not intent.message(key).refused
    assert intent.put(model.NetworkServiceEndpoint, bad.ref, None).keys
    assert not [each for each in intent.desired if isinstance(each, EndpointKey)]


def test_after_a_restart_what_stands_of_a_bad_endpoint_goes_on_and_is_kept_fresh():
    intent = an_intent(node("node1"), pod("vpn-0", labels=VPN), endpoint())
    key = EndpointKey("default", "vpn", "vpn-0")
    standing = intent.message(key)
    bad = endpoint(ipam={"prefixes": ["172.16.1.0/33"]})
    for bad_first in (True, False):
        intent = an_intent(node("node1"), pod("vpn-0", labels=VPN), pod("vpn-1", labels=VPN))
        if bad_first:
            intent.put(model.NetworkServiceEndpoint, bad.ref, bad)
            assert intent.stand(key, standing).keys == {key}
        else:
            intent.stand(key, standing)
            assert intent.put(model.NetworkServiceEndpoint, bad.ref, bad).keys == {key}
        refused = intent.message(key).refused
        assert "172.16.1.0/33" in refused
        assert intent.message(key) == msgspec.structs.replace(standing, refused=refused)
        assert intent.message(EndpointKey("default", "vpn", "vpn-1")) is None
        unready = pod("vpn-0", labels=VPN, ready=False, ips=["10.244.1.9"])
        address = PrefixKey("pod", "10-244-1-0")
        assert intent.put(model.Pod, unready.ref, unready).keys == {key, address}
        assert intent.message(key).ready is False
        assert intent.message(key).pod.ips == ("10.244.1.9",)
        born_again = pod("vpn-0", labels=VPN, uid="another")
        assert intent.put(model.Pod, born_again.ref, born_again).keys == {key, address}
        assert intent.message(key) is None


def test_a_message_knows_the_object_it_comes_from():
    intent = an_intent(
        node("node1"),
        pod("vpn-0", labels=VPN),
        pod(asks="svc/nsm-1"),
        endpoint(),
        read(model.NetworkService, an_object("svc", spec={})),
        read(model.ConfigMap, an_object("excluded-prefixes", namespace=SYSTEM)),
        read(model.ConfigMap, an_object("kubeadm-config", namespace="kube-system")),
        read(model.KubeService, an_object("s", spec={"clusterIP": "10.96.0.1"})),
        read(model.ServiceCidr, an_object("more", namespace="", spec={"cidrs": ["10.97.0.0/16"]})),
    )
    owners = {key.subject: intent.owner(key) for key in intent.desired}
    assert {subject: about and (about.kind, about.name) for subject, about in owners.items()} == {
        "nsm.prefix.node.node1": ("Node", "node1"),
        "nsm.endpoint.default.vpn.vpn-0": ("NetworkServiceEndpoint", "vpn"),
        "nsm.request.default.client.nsm-1": ("Pod", "client"),
        "nsm.networkservice.default.svc": ("NetworkService", "svc"),
        "nsm.prefix.user.excluded-prefixes": ("ConfigMap", "excluded-prefixes"),
        "nsm.prefix.cluster.kubeadm": ("ConfigMap", "kubeadm-config"),
        "nsm.prefix.cluster.servicecidr-more": None,
        "nsm.prefix.service.10-96-0-0": None,
    }
    assert intent.owner(RequestKey("default", "nobody", "nsm-1")) is None


def test_parts_of_exclusions_come_and_go_and_are_remembered():
    def excluded(count):
        lines = "\n".join(f"10.{at // 100}.{at % 100}.1" for at in range(count))
        return read(
            model.ConfigMap,
            an_object("excluded-prefixes", namespace=SYSTEM, data={"prefixes": lines}),
        )

    intent = an_intent(excluded(6000))
    many = set(intent.desired)
    assert len(many) == 4
    few = excluded(3)
    assert intent.put(model.ConfigMap, few.ref, few).keys == many
    assert set(intent.desired) == {PrefixKey("user", "excluded-prefixes")}
    assert intent.exclusions == many
    intent.put(model.ConfigMap, few.ref, None)
    assert intent.desired == {}


def told(intent, source):
    """Prefixes of a source, over all its messages."""
    keys = (key for key in intent.desired if isinstance(key, PrefixKey) and key.source == source)
    return sorted(each.prefix for key in keys for each in intent.desired[key].prefixes)


def a_kube_service(name, address):
    return read(model.KubeService, an_object(name, spec={"clusterIP": address}))


def a_service_cidr(*cidrs):
    return read(model.ServiceCidr, an_object("kubernetes", namespace="", spec={"cidrs": cidrs}))


def test_a_service_is_told_where_no_service_cidr_covers_it_and_touches_one_message():
    intent = an_intent(a_kube_service("a", "10.96.0.1"), a_kube_service("b", "10.96.9.1"))
    assert told(intent, "service") == ["10.96.0.1/32", "10.96.9.1/32"]
    cidr = a_service_cidr("10.96.0.0/21")
    assert intent.put(model.ServiceCidr, cidr.ref, cidr).keys == {
        PrefixKey("cluster", "servicecidr-kubernetes"),
        PrefixKey("service", "10-96-0-0"),
    }
    assert told(intent, "cluster") == ["10.96.0.0/21"]
    assert told(intent, "service") == ["10.96.9.1/32"]
    intent.put(model.ServiceCidr, cidr.ref, None)
    assert told(intent, "service") == ["10.96.0.1/32", "10.96.9.1/32"]


def test_a_pods_address_is_told_where_no_pod_cidr_covers_it():
    away = pod("away", ips=["10.9.0.7", "fd00:9::7"])
    at_home = pod("home", ips=["10.244.1.7"])
    host = pod("host", host_network=True, ips=["172.18.0.11"])
    done = pod("done", phase="Succeeded", ips=["10.9.0.8"])
    intent = an_intent(read(model.Node, a_node("node1", podCIDR="10.244.1.0/24")))
    for each in (away, at_home, host, done):
        intent.put(model.Pod, each.ref, each)
    assert told(intent, "pod") == ["10.9.0.7/32", "fd00:9::7/128"]
    busy = pod("away", ips=["10.9.0.7", "fd00:9::7"], labels={"a": "b"})
    assert not any(isinstance(key, PrefixKey) for key in intent.put(model.Pod, busy.ref, busy).keys)
    intent.put(model.Node, ("", "node1"), None)
    assert told(intent, "pod") == ["10.244.1.7/32", "10.9.0.7/32", "fd00:9::7/128"]


def test_a_bad_endpoint_is_not_published_and_its_owner_is_told_once():
    intent = an_intent(pod("vpn-0", labels=VPN))
    bad = endpoint(ipam={"prefixes": ["nonsense"]})
    touched = intent.put(model.NetworkServiceEndpoint, bad.ref, bad)
    (about,) = touched.notices
    assert about.kind == "NetworkServiceEndpoint"
    assert about.uid == bad.uid
    assert intent.notices[about].reason == "InvalidSpec"
    assert intent.desired == {}
    assert intent.put(model.NetworkServiceEndpoint, bad.ref, bad).notices == set()
    good = endpoint()
    assert intent.put(model.NetworkServiceEndpoint, good.ref, good).keys
    assert intent.notices == {}


def notices(intent):
    return {(about.kind, about.name): each.reason for about, each in intent.notices.items()}


def test_an_endpoint_pod_on_its_nodes_network_is_told_on_both_and_serves_nobody():
    intent = an_intent(endpoint())
    on_host = pod("vpn-0", labels=VPN, host_network=True)
    touched = intent.put(model.Pod, on_host.ref, on_host)
    assert {(about.kind, about.name) for about in touched.notices} == {
        ("Pod", "vpn-0"),
        ("NetworkServiceEndpoint", "vpn"),
    }
    assert set(notices(intent).values()) == {"HostNetwork"}
    assert all("remove hostNetwork" in each.message for each in intent.notices.values())
    assert intent.desired == {}
    another = pod("vpn-1", labels=VPN, host_network=True)
    touched = intent.put(model.Pod, another.ref, another)
    assert {about.name for about in touched.notices} == {"vpn-1"}  # the endpoint said it already
    assert intent.put(model.Pod, another.ref, another).notices == set()
    for each in (on_host, another):
        intent.put(model.Pod, each.ref, None)
    assert intent.notices == {}


def test_a_pod_on_its_nodes_network_that_nobody_selects_is_left_alone():
    quiet = [
        pod("other", host_network=True),
        pod("ended", labels=VPN, host_network=True, phase="Succeeded"),
        pod("a", labels=VPN, host_network=True, namespace="elsewhere"),
    ]
    assert an_intent(endpoint(), *quiet).notices == {}


def test_a_successor_on_its_nodes_network_is_told_itself():
    one = pod("vpn-0", labels=VPN, host_network=True, uid="one")
    two = pod("vpn-0", labels=VPN, host_network=True, uid="two")
    intent = an_intent(endpoint(), one)
    touched = intent.put(model.Pod, two.ref, two)
    assert [about.uid for about in touched.notices if about.kind == "Pod"] == ["two"]


def test_a_bad_edit_is_told_before_what_its_pods_are():
    intent = an_intent(endpoint(), pod("vpn-0", labels=VPN, host_network=True))
    bad = endpoint(ipam={"prefixes": ["nonsense"]})
    intent.put(model.NetworkServiceEndpoint, bad.ref, bad)
    assert notices(intent)["NetworkServiceEndpoint", "vpn"] == "InvalidSpec"
    good = endpoint()
    intent.put(model.NetworkServiceEndpoint, good.ref, good)
    assert notices(intent)["NetworkServiceEndpoint", "vpn"] == "HostNetwork"


def test_the_namespaces_annotation_holds_for_its_pods():
    intent = an_intent(pod("a"), pod("b", asks="own/nsm-1"), pod("c", namespace="elsewhere"))
    namespace = read(
        model.Namespace,
        an_object("default", namespace="", annotations={"networkservicemesh.io": "svc/nsm-9"}),
    )
    touched = intent.put(model.Namespace, namespace.ref, namespace)
    assert touched.keys == {RequestKey("default", "a", "nsm-9")}
    assert intent.put(model.Namespace, namespace.ref, None).keys == touched.keys


def test_a_node_that_falls_ill_is_told_in_everything_of_its_pods():
    intent = an_intent(
        node("node1"),
        pod(asks="svc/nsm-1"),
        pod("vpn-0", labels=VPN),
        pod("x", asks="svc/nsm-1", node="node2"),
        endpoint(),
    )
    ill = node("node1", ready="Unknown")
    touched = intent.put(model.Node, ill.ref, ill)
    assert touched.keys == {NSM1, EndpointKey("default", "vpn", "vpn-0")}
    assert intent.message(NSM1).pod.node_ready is False


def test_a_node_without_word_counts_as_ready():
    intent = an_intent(node("node1", ready=None), pod(asks="svc/nsm-1"))
    assert intent.message(NSM1).pod.node_ready is True


def test_a_node_that_is_not_there_is_not_ready():
    intent = an_intent(pod(asks="svc/nsm-1"))
    assert intent.message(NSM1).pod.node_ready is False
    born = node("node1")
    assert NSM1 in intent.put(model.Node, born.ref, born).keys
    assert intent.message(NSM1).pod.node_ready is True
    assert NSM1 in intent.put(model.Node, born.ref, None).keys
    assert intent.message(NSM1).pod.node_ready is False


def test_a_malformed_edit_keeps_what_stands_and_follows_it():
    intent = an_intent(pod(asks="svc/nsm-1"))
    standing = intent.message(NSM1)
    intent = an_intent(pod(asks="svc/nsm-1, :"))
    assert intent.desired == {}
    assert intent.stand(NSM1, standing).keys == {NSM1}
    assert intent.desired == {NSM1: standing}
    assert intent.stand(NSM1, None).keys == {NSM1}
    assert intent.desired == {}


def test_malformed_rules_leave_the_standing_rules_in_force():
    rules = an_object("svc", spec={"matches": [{"routes": []}]})
    intent = an_intent(read(model.NetworkService, rules))
    key = NetworkServiceKey("default", "svc")
    standing = intent.message(key)
    assert isinstance(standing, NetworkService)
    bad = read(model.NetworkService, {**rules, "spec": {"matches": "all"}})
    intent = an_intent()
    intent.stand(key, standing)
    assert intent.put(model.NetworkService, bad.ref, bad).notices
    assert intent.message(key) == standing


def test_services_near_each_other_are_gathered_in_one_message():
    intent = an_intent(
        read(model.KubeService, an_object("b", spec={"clusterIP": "10.96.0.4"})),
        read(model.KubeService, an_object("a", spec={"clusterIP": "10.96.0.1"})),
        read(model.KubeService, an_object("c", spec={"clusterIP": "None"})),
    )
    key = PrefixKey("service", "10-96-0-0")
    assert [each.prefix for each in intent.message(key).prefixes] == [
        "10.96.0.1/32",
        "10.96.0.4/32",
    ]
    assert intent.put(model.KubeService, ("default", "c"), None).keys == set()
    intent.put(model.KubeService, ("default", "a"), None)
    assert intent.put(model.KubeService, ("default", "b"), None).keys == {key}
    assert intent.desired == {}


def test_only_the_two_config_maps_we_know_count():
    data = {
        "prefixes": "10.0.0.0/8",
        "ClusterConfiguration": "networking: {podSubnet: 10.1.0.0/16}",
    }
    intent = an_intent(
        read(model.ConfigMap, an_object("excluded-prefixes", namespace=SYSTEM, data=data)),
        read(model.ConfigMap, an_object("kubeadm-config", namespace="kube-system", data=data)),
        read(model.ConfigMap, an_object("excluded-prefixes", namespace="default", data=data)),
    )
    assert set(intent.desired) == {
        PrefixKey("user", "excluded-prefixes"),
        PrefixKey("cluster", "kubeadm"),
    }


def excluding(text, key="prefixes"):
    data = {key: text}
    return read(model.ConfigMap, an_object("excluded-prefixes", namespace=SYSTEM, data=data))


EXCLUDED = PrefixKey("user", "excluded-prefixes")


def excluded_by(intent):
    return [each.prefix for each in intent.message(EXCLUDED).prefixes]


@pytest.mark.parametrize(
    ("mistake", "kept"),
    [
        (excluding("10.1.2.3/8\n172.16.0.0/16"), ["10.0.0.0/8", "172.16.0.0/16"]),
        (excluding("172.16.0.0/16", key="prefix"), ["10.0.0.0/8"]),
    ],
    ids=["host bits", "another key"],
)
def test_a_mistake_in_the_exclusions_opens_nothing_and_is_told(mistake, kept):
    intent = an_intent(excluding("10.0.0.0/8"))
    standing = intent.message(EXCLUDED)
    intent = an_intent(mistake)
    intent.stand(EXCLUDED, standing)

    assert excluded_by(intent) == kept
    (problem,) = intent.notices.values()
    assert problem.reason == "MalformedPrefix"
    assert "what was excluded before stays so" in problem.message
    # Its own writes come back: nothing changes by that.
    assert intent.stand(EXCLUDED, intent.message(EXCLUDED)).keys == set()

    mended = excluding("172.16.0.0/16")
    intent.put(model.ConfigMap, mended.ref, mended)
    assert excluded_by(intent) == ["172.16.0.0/16"]
    assert intent.notices == {}


def test_exclusions_are_withdrawn_with_their_config_map_however_it_was_written():
    intent = an_intent(excluding("10.0.0.0/8"))
    standing = intent.message(EXCLUDED)
    wrong = excluding("", key="prefix")
    intent.stand(EXCLUDED, standing)
    intent.put(model.ConfigMap, wrong.ref, wrong)
    assert excluded_by(intent) == ["10.0.0.0/8"]

    intent.put(model.ConfigMap, wrong.ref, None)
    assert intent.message(EXCLUDED) is None


def test_opting_out_of_dns_touches_the_requests_of_that_pod_alone():
    intent = an_intent(pod(asks="svc/nsm-1"), pod("other", asks="svc/nsm-1"))
    edited = pod(asks="svc/nsm-1", annotations={model.CAPTURE_ANNOTATION: "false"})
    assert intent.put(model.Pod, edited.ref, edited).keys == {NSM1}
    assert not intent.message(NSM1).dns
    back = pod(asks="svc/nsm-1")
    assert intent.put(model.Pod, back.ref, back).keys == {NSM1}
    assert intent.message(NSM1).dns


def test_an_opt_out_that_is_neither_true_nor_false_is_told_until_it_is_mended():
    odd = pod(asks="svc/nsm-1", annotations={model.CAPTURE_ANNOTATION: "off"})
    intent = an_intent()
    (about,) = intent.put(model.Pod, odd.ref, odd).notices
    assert (about.kind, about.name) == ("Pod", "client")
    assert intent.notices[about].reason == "InvalidAnnotation"
    assert intent.message(NSM1).dns
    assert intent.put(model.Pod, odd.ref, odd).notices == set()
    mended = pod(asks="svc/nsm-1", annotations={model.CAPTURE_ANNOTATION: "true"})
    assert intent.put(model.Pod, mended.ref, mended).keys == set()
    assert intent.notices == {}


def test_editing_what_an_endpoint_says_of_dns_touches_its_pods_alone():
    intent = an_intent(pod("vpn-0", labels=VPN), pod(asks="svc/nsm-1"), endpoint())
    edited = endpoint(dns={"domains": ["corp.example"]})
    key = EndpointKey("default", "vpn", "vpn-0")
    assert intent.put(model.NetworkServiceEndpoint, edited.ref, edited).keys == {key}
    assert intent.message(key).dns.domains == ("corp.example",)


# Few names and many changes: what matters are chains of changes that meet. Drawn from ready-made objects,
# because drawn field by field the objects seldom met at all.
ASKS = [None, "", "svc/nsm-1", "svc/nsm-1, other/nsm-2", "svc/nsm-1, :", ":"]
STATES: list[dict[str, Any]] = [
    {},
    {"ready": False},
    {"node": "node2"},
    {"node": ""},
    {"labels": {}},
    {"phase": "Succeeded"},
    {"terminating": True},
    {"host_network": True},
    {"uid": "two"},
    {"annotations": {model.CAPTURE_ANNOTATION: "false"}},
    {"annotations": {model.CAPTURE_ANNOTATION: "off"}},
]
PODS = [
    pod(name, **{"namespace": namespace, "uid": "one", "asks": asks, "labels": VPN, **state})
    for name, namespace in [("a", "default"), ("b", "default"), ("a", "team")]
    for asks in ASKS
    for state in STATES
]
OTHERS: list[Any] = [
    *(node("node1", ready=ready) for ready in ("True", "False", None, "False", "True", "False")),
    *(node("node2", ready=ready) for ready in ("True", "False")),
    *(
        endpoint(
            name,
            namespace=namespace,
            networkServices=["svc", name],
            ipam={"prefixes": [prefix]},
            podSelector=selector,
        )
        for name in "ab"
        for namespace in ("default", "team")
        for prefix in ("172.16.1.0/24", "bad")
        for selector in ({}, {"matchLabels": VPN})
    ),
    *(
        read(model.NetworkService, an_object(name, spec={"payload": payload}))
        for name in "ab"
        for payload in ("IP", "ETHERNET", "bad")
    ),
    *(
        read(model.KubeService, an_object(name, spec={"clusterIP": ip}))
        for name in "ab"
        for ip in ("None", "10.96.0.1", "10.96.0.2")
    ),
    *(
        read(
            model.Namespace,
            an_object(
                "default",
                namespace="",
                annotations={} if asks is None else {"networkservicemesh.io": asks},
            ),
        )
        for asks in ASKS
    ),
]
STANDING = {
    **an_intent(
        *(pod(name, uid="one", asks="svc/nsm-1, other/nsm-2", labels=VPN) for name in "ab"),
        endpoint("a"),
        *(read(model.NetworkService, an_object(name, spec={})) for name in "ab"),
    ).desired
}
GOOD_ENDPOINTS = [
    each
    for each in OTHERS
    if isinstance(each, model.NetworkServiceEndpoint)
    and each.spec["ipam"]["prefixes"] == ["172.16.1.0/24"]
]
KEYS = sorted(STANDING, key=str)
VERBS = ["put", "put", "put", "delete", "stand", "fall"]
CHANGES = st.tuples(st.sampled_from(VERBS), st.booleans(), st.integers(min_value=0, max_value=999))


OFFERS = [(namespace, name) for namespace in ("default", "team") for name in ("svc", "other", "a")]


def why(intent):
    """Of network services: what is wrong with an endpoint that should serve them."""
    return {each: intent.spoiled.why(*each) for each in OFFERS}


def asking(intent):
    for ref, wanted in intent.wanted.items():
        for each in wanted.requests:
            yield ref, (each.network_service_namespace or ref[0], each.network_service)


@settings(max_examples=120, deadline=None)
@given(st.lists(CHANGES, min_size=20, max_size=60))
def test_incremental_equals_from_scratch_and_tells_every_difference(changes):
    intent = an_intent()
    objects: dict[Any, Any] = {}
    stands: dict[Any, Any] = {}
    good: dict[Any, Any] = {}  # the last one that could be read, as long as its object lives
    for verb, of_pods, at in changes:
        pool = PODS if of_pods else OTHERS
        before = dict(intent.desired)
        notices = dict(intent.notices)
        told = why(intent)
        if verb in ("stand", "fall"):
            what = KEYS[at % len(KEYS)]
            message = STANDING[what] if verb == "stand" else None
            stands[what] = message
            touched = intent.stand(what, message)
        else:
            what = pool[at % len(pool)]
            found = what if verb == "put" else None
            objects[type(what), what.ref] = found
            if found is None and isinstance(what, model.NetworkServiceEndpoint):
                good.pop(what.ref, None)
            elif found in GOOD_ENDPOINTS:
                good[what.ref] = found
            touched = intent.put(type(what), what.ref, found)
        after = intent.desired
        differ = {key for key in {*before, *after} if before.get(key) != after.get(key)}
        assert differ <= touched.keys
        assert {about for about in intent.notices if about not in notices} <= touched.notices
        changed = {each for each, now in why(intent).items() if now != told[each]}
        assert {ref for ref, offer in asking(intent) if offer in changed} <= touched.pods

    scratch = an_intent()
    for key, message in stands.items():
        scratch.stand(key, message)
    for ref, found in good.items():
        scratch.put(type(found), ref, found)
    for (kind, ref), found in reversed(objects.items()):
        if found is not None:
            scratch.put(kind, ref, found)
    assert intent.desired == scratch.desired
    assert intent.wanted == scratch.wanted
    assert intent.notices == scratch.notices
    assert why(intent) == why(scratch)
    assert sorted(intent.spoiled.all_idle()) == sorted(scratch.spoiled.all_idle())
    assert all(key == message.key for key, message in intent.desired.items())


def test_what_an_endpoints_status_says_touches_no_message():
    intent = an_intent(pod("vpn-0", labels=VPN), endpoint())
    found = read(model.NetworkServiceEndpoint, {**an_endpoint(), "status": {"free": 5}})
    assert intent.put(model.NetworkServiceEndpoint, found.ref, found) == Touched()
    assert intent.objects[model.NetworkServiceEndpoint, found.ref].shown == {"free": 5}


def test_an_endpoint_whose_first_version_was_bad_is_offered_once_it_is_good():
    bad, good = endpoint(ipam={"prefixes": ["x"]}), endpoint()
    intent = an_intent(pod("vpn-0", labels=VPN), bad)
    subject = (model.NetworkServiceEndpoint, bad.ref)
    assert intent.spec_problem(subject) is not None
    touched = intent.put(model.NetworkServiceEndpoint, good.ref, good)
    assert touched.keys == {EndpointKey("default", "vpn", "vpn-0")}
    assert intent.spec_problem(subject) is None
    intent.put(model.NetworkServiceEndpoint, good.ref, None)
    assert subject not in intent.objects


def test_the_pods_of_a_node_are_known_by_it():
    intent = an_intent(pod("one", node="node1"), pod("two", node="node2"))
    assert intent.pods_on("node1") == {("default", "one")}
    assert intent.pods_on("nowhere") == set()


def test_an_endpoint_that_cannot_be_read_is_named_to_those_who_ask_for_it():
    asking, other = pod(asks="my-service/nsm-1"), pod("far", namespace="far", asks="x/nsm-1")
    intent = an_intent(asking, other)
    bad = read(model.NetworkServiceEndpoint, an_endpoint(ipam={"prefixes": ["172.16.1.1/24"]}))
    assert intent.put(model.NetworkServiceEndpoint, bad.ref, bad).pods == {asking.ref}
    problem = intent.spoiled.why("default", "my-service")
    assert problem is not None
    assert problem.reason == "InvalidSpec"
    assert "NetworkServiceEndpoint default/vpn" in problem.message
    assert intent.spoiled.why("far", "my-service") is None
    assert intent.spoiled.why("default", "another") is None

    mended = endpoint()
    assert asking.ref in intent.put(model.NetworkServiceEndpoint, mended.ref, mended).pods
    problem = intent.spoiled.why("default", "my-service")
    assert problem is not None
    assert problem.message.startswith("NetworkServiceEndpoint default/vpn is there, but its podS")


def test_an_endpoint_has_no_pod_until_one_can_serve_and_that_is_told():
    found = endpoint()
    intent = an_intent(found)
    assert intent.idle(found.ref) is not None
    useless: list[dict[str, Any]] = [
        {"labels": {}},
        {"labels": VPN, "node": ""},
        {"labels": VPN, "phase": "Failed"},
    ]
    for each in useless:
        other = pod("vpn-0", **each)
        assert intent.put(model.Pod, other.ref, other).idle == set()
    of_the_node = pod("vpn-0", labels=VPN, host_network=True)
    assert intent.put(model.Pod, of_the_node.ref, of_the_node).idle == {found.ref}
    assert intent.idle(found.ref) is None  # which is told of it instead
    assert intent.put(model.Pod, of_the_node.ref, None).idle == {found.ref}
    starting = pod("vpn-0", labels=VPN, ready=False)
    assert intent.put(model.Pod, starting.ref, starting).idle == {found.ref}
    assert intent.idle(found.ref) is None
    unlabelled = pod("vpn-0", labels={})
    assert intent.put(model.Pod, starting.ref, unlabelled).idle == {found.ref}
    assert intent.idle(found.ref) is not None


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({"networkServices": ["a", 7, "b"]}, ("a", "b")),
        ({"network_service_names": ["a"], "nonsense": 1}, ("a",)),
        ({"networkServices": "a"}, ()),
        ([], ()),
        (None, ()),
    ],
)
def test_names_are_read_from_a_spec_that_cannot_be_read(spec, names):
    assert specs.names_in(spec) == names
