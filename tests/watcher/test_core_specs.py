"""Specs: ours and the anchor's spelling mean the same; what is wrong is named with field and remedy."""

import pytest

from schemas import intent
from schemas.codec import encode
from services.watcher import model
from services.watcher.core import specs
from services.watcher.model import Problem
from tests.watcher.builders import an_endpoint, an_object, read


def endpoint(**spec):
    return specs.read_endpoint(read(model.NetworkServiceEndpoint, an_endpoint(**spec)))


def network_service(**spec):
    return specs.read_network_service(
        read(model.NetworkService, an_object("my-service", spec=spec))
    )


def test_a_whole_endpoint_is_read():
    told = endpoint(
        networkServices=["a", "b"],
        labels={"app": "foo"},
        ipam={
            "prefixes": ["172.16.1.0/24", "2001:db8::/112"],
            "excludePrefixes": ["172.16.1.8/29", "172.16.1.77"],
            "addressing": "pointToPoint",
        },
        routes=[{"destination": "10.20.0.0/16"}],
        policies=[
            {
                "from": "172.16.2.201/32",
                "protocol": "TCP",
                "destinationPort": "6666",
                "sourcePort": 5555,
                "routes": [{"destination": "172.16.3.0/24", "nextHop": "172.16.2.200"}],
            }
        ],
        dns={"servers": ["172.16.1.1"], "domains": ["Corp.Example."], "searchDomains": ["x.y"]},
    )
    assert isinstance(told, specs.EndpointSpec)
    assert told.network_services == ("a", "b")
    assert told.ipam == intent.IpamSpec(
        prefixes=("172.16.1.0/24", "2001:db8::/112"),
        exclude_prefixes=("172.16.1.8/29", "172.16.1.77/32"),
        addressing="pointToPoint",
    )
    assert told.policies == (
        intent.Policy(
            source="172.16.2.201/32",
            protocol="tcp",
            destination_port="6666",
            source_port="5555",
            routes=(intent.Route(destination="172.16.3.0/24", next_hop="172.16.2.200"),),
        ),
    )
    assert told.dns == intent.Dns(
        servers=("172.16.1.1",), domains=("corp.example",), search_domains=("x.y",)
    )


def test_no_dns_section_means_no_dns_and_an_empty_one_means_dns():
    assert endpoint().dns is None
    assert endpoint(dns={}).dns == intent.Dns()


def test_the_anchors_spelling_of_an_endpoint_is_accepted():
    spec = {
        "name": "x",
        "network_service_names": ["my-service"],
        "network_service_labels": {"my_service": {"labels": {"under_score": "kept"}}},
        "pod_selector": {"match_labels": {"my_app": "vpn"}},
        "url": "tcp://10.0.0.1",
        "expiration_time": {"seconds": 1},
    }
    found = read(model.NetworkServiceEndpoint, an_object("x", spec=spec))
    told = specs.read_endpoint(found)
    assert isinstance(told, specs.EndpointSpec)
    assert told.network_services == ("my-service",)
    assert told.labels == {"under_score": "kept"}
    assert told.selector.selects({"my_app": "vpn"})


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        ({"networkServices": []}, "spec.networkServices", "empty"),
        ({"networkServices": "a"}, "spec.networkServices", "expected `array`"),
        ({"networkServices": ["A_b"]}, "spec.networkServices[0]", "no network service name"),
        ({"podSelector": None}, "spec.podSelector", "missing"),
        ({"ipam": {"prefixes": ["172.16.1.0"]}}, "spec.ipam.prefixes[0]", "needs its length"),
        ({"ipam": {"prefixes": ["172.16.1.1/24"]}}, "spec.ipam.prefixes[0]", "host bits"),
        ({"ipam": {"excludePrefixes": ["x"]}}, "spec.ipam.excludePrefixes[0]", "'x'"),
        (
            {"ipam": {"excludePrefixes": ["172.16.1.1/28"]}},
            "spec.ipam.excludePrefixes[0]",
            "write 172.16.1.0/28",
        ),
        (
            {
                "routes": [
                    {"destination": "10.1.0.0/16", "nextHop": f"172.16.1.{n}"} for n in (5, 6)
                ]
            },
            "spec.routes[1].destination",
            "write each destination once",
        ),
        ({"ipam": {"addressing": "magic"}}, "spec.ipam.addressing", "unknown"),
        ({"routes": [{"destination": "nowhere"}]}, "spec.routes[0].destination", "nowhere"),
        ({"routes": [{}]}, "spec.routes[0]", "missing required field"),
        (
            {"routes": [{"destination": "10.0.0.0/8", "nextHop": "fe80::1"}]},
            "spec.routes[0].nextHop",
            "another family",
        ),
        ({"policies": [{"protocol": "carrier"}]}, "spec.policies[0].protocol", "unknown"),
        ({"policies": [{"destinationPort": "9-3"}]}, "spec.policies[0].destinationPort", "9-3"),
        ({"policies": [{"sourcePort": 70000}]}, "spec.policies[0].sourcePort", "70000"),
        ({"dns": {"servers": ["dns.example"]}}, "spec.dns.servers[0]", "dns.example"),
        ({"dns": {"domains": ["a..b"]}}, "spec.dns.domains[0]", "no domain"),
        ({"labels": {"a b": "c"}}, "spec.labels[a b]", "'a b' is no label key"),
        ({"labels": {"a": "ü"}}, "spec.labels[a]", "'ü' is no label value"),
        (
            {"networkServiceLabels": {"vpn": {"labels": {"a": "b c"}}}},
            "spec.networkServiceLabels[vpn].labels[a]",
            "'b c' is no label value",
        ),
        (
            {"podSelector": {"matchLabels": {"app": "my vpn"}}},
            "spec.podSelector.matchLabels[app]",
            "'my vpn' is no label value",
        ),
        (
            {"podSelector": {"matchExpressions": [{"key": "a/b/c", "operator": "Exists"}]}},
            "spec.podSelector.matchExpressions[0].key",
            "'a/b/c' is no label key",
        ),
    ],
)
def test_a_bad_endpoint_is_a_problem_that_names_field_and_reason(spec, field, reason):
    told = endpoint(**spec)
    assert isinstance(told, Problem)
    assert told.reason == "InvalidSpec"
    assert f"{field}: " in told.message or f"{field}." in told.message
    assert reason in told.message
    assert "default/vpn" in told.message
    assert "; " in told.message  # the remedy


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            {"networkService": ["a"]},
            "spec.networkService: there is no such field; did you mean networkServices?",
        ),
        ({"route": []}, "spec.route: there is no such field; did you mean routes?"),
        (
            {"ipam": {"excludePrefix": []}},
            "spec.ipam.excludePrefix: there is no such field; did you mean excludePrefixes?",
        ),
        (
            {"ipam": {"exclude_prefix": []}},
            "spec.ipam.exclude_prefix: there is no such field; did you mean excludePrefixes?",
        ),
        (
            {"podSelector": {"matchExpression": []}},
            "spec.podSelector.matchExpression: there is no such field; did you mean matchExpressions?",
        ),
        (
            {"podSelector": {"app": "vpn"}},
            "spec.podSelector.app: there is no such field; there are matchExpressions, matchLabels",
        ),
        (
            {"policies": [{}, {"form": "10.0.0.0/8"}]},
            "spec.policies[1].form: there is no such field; did you mean from?",
        ),
        (
            {"routes": [{"destination": "10.0.0.0/8", "nexthop": "10.0.0.1"}]},
            "spec.routes[0].nexthop: there is no such field; did you mean nextHop?",
        ),
        ({"dns": {"server": []}}, "spec.dns.server: there is no such field; did you mean servers?"),
        (
            {"networkServiceLabels": {"a": {"label": {}}}},
            "spec.networkServiceLabels[a].label: there is no such field; did you mean labels?",
        ),
        (
            {"network_services": ["a"]},
            "spec.network_services: it is there as 'networkServices', too; write one of them",
        ),
    ],
)
def test_a_field_that_we_do_not_know_is_a_problem_that_names_the_nearest_one(spec, said):
    told = endpoint(**spec)
    assert isinstance(told, Problem)
    assert told.reason == "InvalidSpec"
    assert told.message.endswith(said)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"match": []}, "spec.match: there is no such field; did you mean matches?"),
        (
            {"allowedNamespace": ["a"]},
            "spec.allowedNamespace: there is no such field; did you mean allowedNamespaces?",
        ),
        (
            {"matches": [{"sourceSelectors": {}}]},
            "spec.matches[0].sourceSelectors: there is no such field; did you mean sourceSelector?",
        ),
        (
            {"matches": [{"routes": [{"destination_selectors": {}}]}]},
            (
                "spec.matches[0].routes[0].destination_selectors: "
                "there is no such field; did you mean destinationSelector?"
            ),
        ),
    ],
)
def test_rules_with_a_field_that_we_do_not_know_are_a_problem(spec, said):
    told = network_service(**spec)
    assert isinstance(told, Problem)
    assert told.message.endswith(said)


def test_the_anchors_spelling_of_rules_is_accepted():
    told = network_service(
        name="x",
        path_ids=[],
        matches=[{"source_selector": {"any_key": "a"}, "metadata": {"labels": {"b": "c"}}}],
    )
    assert isinstance(told, intent.NetworkService)


@pytest.mark.parametrize(
    ("prefix", "remedy"),
    [
        ("192.168.64.5/24", "write 192.168.64.0/24"),
        ("2001:db8::5/112", "write 2001:db8::/112"),
        (
            "192.168.64.5",
            "write 192.168.64.5/32 for this address alone, or a network such as 192.168.64.0/24",
        ),
        (
            "2001:db8::5",
            "write 2001:db8::5/128 for this address alone, or a network such as 2001:db8::/64",
        ),
        ("127.0.0.5/8", "write a prefix such as 172.16.1.0/24"),
        ("172.20.300.0/24", "write a prefix such as 172.16.1.0/24"),
        ("10.0.0.0/33", "write a prefix such as 172.16.1.0/24"),
    ],
)
def test_the_remedy_for_a_prefix_names_the_one_that_was_meant(prefix, remedy):
    told = endpoint(ipam={"prefixes": [prefix]})
    assert isinstance(told, Problem)
    assert told.message.endswith(f"; {remedy}")


def test_the_remedy_for_an_address_is_an_address():
    told = endpoint(routes=[{"destination": "10.0.0.0/8", "nextHop": "172.16.3.7/24"}])
    assert isinstance(told, Problem)
    assert told.message.endswith("; write an address such as 172.16.3.1")


def routes(count):
    return [{"destination": f"10.{at // 256}.{at % 256}.0/24"} for at in range(count)]


@pytest.mark.parametrize(
    ("spec", "field", "number", "limit"),
    [
        ({"routes": routes(25_000)}, "spec.routes", "25000 routes", "1000"),
        (
            {"routes": routes(600), "policies": [{"routes": routes(401)}]},
            "spec.policies",
            "1001 routes",
            "1000",
        ),
        ({"policies": [{}] * 257}, "spec.policies", "257 policies", "256"),
        (
            {"ipam": {"prefixes": [each["destination"] for each in routes(257)]}},
            "spec.ipam.prefixes",
            "257 prefixes",
            "256",
        ),
        (
            {"ipam": {"excludePrefixes": [each["destination"] for each in routes(257)]}},
            "spec.ipam.excludePrefixes",
            "257 prefixes",
            "256",
        ),
        ({"networkServices": ["a"] * 257}, "spec.networkServices", "257", "256"),
        ({"dns": {"domains": ["a.b"] * 257}}, "spec.dns.domains", "257 domains", "256"),
    ],
)
def test_too_much_of_a_thing_is_a_problem_that_names_number_and_limit(spec, field, number, limit):
    told = endpoint(**spec)
    assert isinstance(told, Problem)
    assert told.reason == "InvalidSpec"
    assert f"{field}: {number}" in told.message
    assert f"at most {limit}" in told.message
    assert "; merge neighbours or write several" in told.message


def test_the_largest_endpoint_fits_in_a_message_of_the_bus_twice():
    long = "2001:db8:1234:5678:9abc:def0:1234"
    told = endpoint(
        ipam={
            "prefixes": [f"{long}:{at:x}/128" for at in range(256)],
            "excludePrefixes": [f"{long}:{at:x}/128" for at in range(256)],
        },
        routes=[
            {"destination": f"{long}:{at:x}/128", "nextHop": f"{long}:1"} for at in range(1000)
        ],
        policies=[{"from": f"{long}:{at:x}/128"} for at in range(256)],
    )
    assert isinstance(told, specs.EndpointSpec)
    assert len(encode(told)) * 2 < 1 << 20


def test_what_is_nested_beyond_reason_is_a_problem():
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"x": deep}
    told = specs.read_endpoint(model.NetworkServiceEndpoint(spec=deep))
    assert isinstance(told, Problem)
    assert "nested" in told.message


SPECIAL = [
    ("127.0.0.0/24", "127.0.0.0/8 (loopback)"),
    ("224.1.0.0/16", "224.0.0.0/4 (multicast)"),
    ("240.0.0.0/4", "240.0.0.0/4 (reserved)"),
    ("255.255.255.255/32", "240.0.0.0/4 (reserved)"),
    ("224.0.0.0/3", "multicast"),
    ("0.1.0.0/16", "0.0.0.0/8 (this network)"),
    ("::1/128", "::1/128 (loopback)"),
    ("::10.0.0.0/104", "::/96 (IPv4-compatible)"),
    ("::ffff:10.0.0.0/104", "(IPv4-mapped)"),
    ("fe80::/64", "fe80::/10 (link-local)"),
    ("ff02::/16", "ff00::/8 (multicast)"),
]


@pytest.mark.parametrize(("prefix", "named"), SPECIAL)
def test_prefixes_that_are_no_network_of_anybody_are_a_problem(prefix, named):
    for spec, field in (
        ({"ipam": {"prefixes": ["10.0.0.0/8", prefix]}}, "spec.ipam.prefixes[1]"),
        ({"routes": [{"destination": prefix}]}, "spec.routes[0].destination"),
        (
            {"policies": [{"routes": [{"destination": prefix}]}]},
            "spec.policies[0].routes[0].destination",
        ),
    ):
        told = endpoint(**spec)
        assert isinstance(told, Problem)
        assert f"{field}: prefix {prefix!r}" in told.message
        assert named in told.message
        assert "; write a prefix such as 1" in told.message


@pytest.mark.parametrize(
    ("address", "named"),
    [
        ("127.0.0.53", "127.0.0.0/8 (loopback)"),
        ("0.0.0.0", "0.0.0.0/8 (this network)"),
        ("224.0.0.251", "224.0.0.0/4 (multicast)"),
        ("::1", "::1/128 (loopback)"),
        ("fe80::1", "fe80::/10 (link-local)"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("172.16.1.1/24", "172.16.1.1/24"),
    ],
)
def test_dns_servers_that_no_pod_can_ask_are_a_problem(address, named):
    told = endpoint(dns={"servers": ["172.16.1.1", "2001:db8::1", address]})
    assert isinstance(told, Problem)
    assert "spec.dns.servers[2]: " in told.message
    assert named in told.message
    assert told.message.endswith("; write an address such as 172.16.1.1")


@pytest.mark.parametrize(
    "prefix", ["0.0.0.0/0", "::/0", "0.0.0.0/1", "128.0.0.0/1", "::/1", "169.254.0.0/16"]
)
def test_covering_routes_and_link_local_ipv4_are_allowed(prefix):
    told = endpoint(ipam={}, routes=[{"destination": prefix}])
    assert isinstance(told, specs.EndpointSpec)


@pytest.mark.parametrize("prefix", ["0.0.0.0/0", "126.0.0.0/7", "::/0"])
def test_a_pool_does_not_cover_what_nobody_may_have(prefix):
    assert isinstance(endpoint(ipam={"prefixes": [prefix]}), Problem)
    assert isinstance(endpoint(ipam={"prefixes": ["169.254.0.0/16"]}), specs.EndpointSpec)


def test_labels_that_differ_per_network_service_are_a_problem():
    told = endpoint(
        network_service_labels={"a": {"labels": {"k": "1"}}, "b": {"labels": {"k": "2"}}}
    )
    assert isinstance(told, Problem)
    assert "one NetworkServiceEndpoint per set of labels" in told.message


@pytest.mark.parametrize(
    ("selector", "labels", "selected"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {"a": "1"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
    ],
)
def test_selectors_select_as_kubernetes_does(selector, labels, selected):
    assert endpoint(podSelector=selector).selector.selects(labels) is selected


@pytest.mark.parametrize("spelling", ["camel", "snake"])
def test_rules_are_read_in_both_spellings(spelling):
    source, destination = {
        "camel": ("sourceSelector", "destinationSelector"),
        "snake": ("source_selector", "destination_selector"),
    }[spelling]
    told = network_service(
        payload="ethernet",
        matches=[
            {
                source: {"app": "foo"},
                "routes": [{destination: {"app": "firewall"}, "weight": 3}, {destination: {}}],
                "fallthrough": True,
            }
        ],
        allowedNamespaces=["team-*"],
    )
    assert told == intent.NetworkService(
        namespace="default",
        name="my-service",
        payload="ETHERNET",
        matches=(
            intent.Match(
                source_selector={"app": "foo"},
                routes=(
                    intent.Destination(destination_selector={"app": "firewall"}, weight=3),
                    intent.Destination(),
                ),
                fallthrough=True,
            ),
        ),
        allowed_namespaces=("team-*",),
    )


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"payload": "PIGEON"}, "spec.payload"),
        ({"matches": [{"routes": [{"weight": -1}]}]}, "spec.matches[0].routes[0].weight"),
        ({"matches": {}}, "spec.matches"),
        ({"allowedNamespaces": ["team-*", "Team X"]}, "spec.allowedNamespaces[1]: 'Team X'"),
        ({"allowedNamespaces": [""]}, "spec.allowedNamespaces[0]"),
        (
            {"matches": [{"sourceSelector": {"a b": "c"}}]},
            "spec.matches[0].sourceSelector[a b]: 'a b' is no label key",
        ),
        (
            {"matches": [{"routes": [{"destinationSelector": {"nodeName": "{{.nodeName}}"}}]}]},
            "spec.matches[0].routes[0].destinationSelector[nodeName]: '{{.nodeName}}' is a template",
        ),
    ],
)
def test_bad_rules_are_a_problem(spec, field):
    told = network_service(**spec)
    assert isinstance(told, Problem)
    assert field in told.message


@pytest.mark.parametrize("pattern", ["*", "team-*", "team-[ab]", "team-[!a]?", "kube-system"])
def test_patterns_of_namespaces_are_taken_as_they_are(pattern):
    told = network_service(allowedNamespaces=[pattern])
    assert isinstance(told, intent.NetworkService)
    assert told.allowed_namespaces == (pattern,)


def test_rules_may_name_a_pod_whose_name_is_longer_than_a_label():
    selector = {"podName": "web." * 20 + "0", "example.com/tier": ""}
    told = network_service(matches=[{"sourceSelector": selector}])
    assert isinstance(told, intent.NetworkService)
    assert told.matches[0].source_selector == selector


def test_a_network_service_without_a_spec_has_no_rules():
    found = read(model.NetworkService, an_object("x"))
    assert specs.read_network_service(found) == intent.NetworkService(namespace="default", name="x")


def test_a_nodes_own_dns_is_no_dns_of_a_network_service():
    told = endpoint(dns={"servers": ["169.254.20.10"]})
    assert isinstance(told, Problem)
    assert "spec.dns.servers[0]: address '169.254.20.10' is inside 169.254.0.0/16" in told.message


@pytest.mark.parametrize(
    ("domain", "remedy"),
    [
        (".", "'.' is no domain; leave domains out for every name"),
        ("*.green.test", "'*.green.test' is no domain; drop the `*.`: green.test holds for"),
        ("Müller.example", "; write it as DNS has it: xn--mller-kva.example"),
        ("corp example", "; write parts of letters, digits, '-' and '_', at most 63 each"),
        ("ü b.example", "; write parts of letters"),
        ("ü..example", "; write parts of letters"),
    ],
)
def test_a_domain_that_means_more_than_a_name_is_answered_with_how_to_write_it(domain, remedy):
    told = endpoint(dns={"domains": [domain]})
    assert isinstance(told, Problem)
    assert remedy in told.message


def test_nothing_is_called_an_edit_that_may_be_the_first_version():
    for told in (endpoint(route=[]), network_service(payload="X")):
        assert isinstance(told, Problem)
        assert "edit" not in told.message
        assert "has no effect" in told.message


@pytest.mark.parametrize(("generation", "may_stay"), [(0, True), (1, False), (2, True)])
def test_a_first_version_has_no_earlier_one_that_stays(generation, may_stay):
    for kind, specification, reader in (
        (model.NetworkServiceEndpoint, {"route": []}, specs.read_endpoint),
        (model.NetworkService, {"payload": "X"}, specs.read_network_service),
    ):
        written = an_object("x", spec=specification)
        written["metadata"]["generation"] = generation
        told = reader(read(kind, written))
        assert isinstance(told, Problem)
        assert ("what an earlier, valid version published, stays" in told.message) == may_stay
