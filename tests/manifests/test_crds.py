"""The CRDs accept whatever the watcher accepts, refuse the plainest mistakes at once, and name every field."""

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lab.api import structural
from lab.api.kinds import NETWORK_SERVICE_ENDPOINTS, NETWORK_SERVICES
from schemas.grant import Collision, Pool, PoolFigures
from services.watcher.core import describing, forms, specs
from services.watcher.model import NetworkService, NetworkServiceEndpoint, Problem
from tests.manifests.manifests import ROOT, definitions, load

CRDS = {each["spec"]["names"]["kind"]: each for each in definitions()}
READERS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "NetworkService": (NetworkService, specs.read_network_service),
    "NetworkServiceEndpoint": (NetworkServiceEndpoint, specs.read_endpoint),
}
KINDS = {each.kind: each for each in (NETWORK_SERVICES, NETWORK_SERVICE_ENDPOINTS)}
EXAMPLES = [
    pytest.param(each, id=f"{path.name}:{each['metadata']['name']}")
    for path in sorted((ROOT / "examples").rglob("*.yaml"))
    for each in load(path)
    if each.get("kind") in CRDS
]


def schema_of(kind):
    (version,) = CRDS[kind]["spec"]["versions"]
    return version["schema"]["openAPIV3Schema"]


def as_json_schema(node):
    """OpenAPI as Kubernetes means it: nullable, int-or-string, and the one CEL rule we use."""
    made = {
        key: value
        for key, value in node.items()
        if key in {"type", "pattern", "enum", "required", "maxItems", "maxLength", "minimum"}
    }
    if node.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    for rule in node.get("x-kubernetes-validations", []):
        assert rule["rule"] == "self.contains('/')"
        made["pattern"] = "/"
    if "properties" in node:
        made["properties"] = {k: as_json_schema(v) for k, v in node["properties"].items()}
    for key in ("items", "additionalProperties"):
        if key in node:
            made[key] = as_json_schema(node[key])
    return {"anyOf": [made, {"type": "null"}]} if node.get("nullable") else made


VALIDATORS = {
    kind: jsonschema.Draft202012Validator(as_json_schema(schema_of(kind))) for kind in CRDS
}


def crd_refuses(kind, spec):
    body = {"apiVersion": "networkservicemesh.io/v1", "kind": kind, "spec": spec}
    return [error.message for error in VALIDATORS[kind].iter_errors(body)]


def watcher_refuses(kind, spec):
    shape, read = READERS[kind]
    body = json.dumps({"metadata": {"name": "n", "namespace": "ns"}, "spec": spec})
    found = read(msgspec.json.decode(body.encode(), type=shape))
    return found.message if isinstance(found, Problem) else ""


def nodes(schema, path="spec"):
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


@pytest.mark.parametrize("kind", sorted(CRDS))
def test_the_kind_has_the_names_that_the_lab_serves(kind):
    names, scope = CRDS[kind]["spec"]["names"], CRDS[kind]["spec"]["scope"]
    served = KINDS[kind]
    assert CRDS[kind]["metadata"]["name"] == f"{served.plural}.{served.group}"
    assert CRDS[kind]["spec"]["group"] == served.group
    assert (names["plural"], names["singular"]) == (served.plural, served.singular)
    assert tuple(names["shortNames"]) == served.short_names
    assert scope == "Namespaced"
    (version,) = CRDS[kind]["spec"]["versions"]
    assert version["name"] == served.version
    assert version["subresources"] == {"status": {}}
    assert version["additionalPrinterColumns"]


@pytest.mark.parametrize("kind", sorted(CRDS))
def test_the_schema_is_structural(kind):
    for path, node in nodes(schema_of(kind)):
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not {"$ref", "oneOf", "anyOf", "allOf", "not"} & set(node), path


def walk(node, path):
    """The schema at a simple JSONPath, conditions of a filter left out."""
    for name in filter(None, re.sub(r"\[\?[^]]*\]", ".items", path).split(".")):
        node = node["items"] if name == "items" else node["properties"][name]
    return node


@pytest.mark.parametrize("kind", sorted(CRDS))
def test_every_printed_column_is_a_field_of_the_schema(kind):
    (version,) = CRDS[kind]["spec"]["versions"]
    for column in version["additionalPrinterColumns"]:
        if not column["jsonPath"].startswith(".metadata."):
            found = walk(schema_of(kind), column["jsonPath"])["type"]
            assert column["type"] in (found, "string"), column


@pytest.mark.parametrize("kind", sorted(CRDS))
@pytest.mark.parametrize("collides", [False, True])
def test_what_the_watcher_writes_as_status_is_what_the_schema_says(kind, collides):
    body = json.dumps({"metadata": {"name": "n", "namespace": "ns", "generation": 3}, "spec": {}})
    found = msgspec.json.decode(body.encode(), type=READERS[kind][0])
    family = PoolFigures(family=6, prefixes=("2001:db8::/48",), size=2**80, free=2**80)
    overlap = Collision(prefix="2001:db8::/48", overlaps="2001:db8::/32", used_by="user")
    pool = Pool(namespace="ns", endpoint="n", families=(family,), collisions=(overlap,) * collides)
    facts = describing.Facts(pool=pool)
    status = describing.describe(found, facts, shown={}, now="2030-01-01T00:00:00Z")
    schema = schema_of(kind)["properties"]["status"]
    assert not [*jsonschema.Draft202012Validator(as_json_schema(schema)).iter_errors(status)]
    assert status.keys() == schema["properties"].keys()
    for name in ("pools", "conditions"):
        for each in status.get(name, []):
            assert each.keys() == schema["properties"][name]["items"]["properties"].keys()


@pytest.mark.parametrize("kind", sorted(CRDS))
def test_every_object_with_fields_keeps_unknown_ones_for_the_watcher_to_refuse(kind):
    for path, node in nodes(schema_of(kind)["properties"]["spec"]):
        if "properties" in node:
            assert node.get("x-kubernetes-preserve-unknown-fields"), path


def fields_of(shape):
    """Names of every field, as a tree."""
    if isinstance(shape, msgspec.inspect.Metadata):
        return fields_of(shape.type)
    if isinstance(shape, msgspec.inspect.UnionType):
        return next((tree for each in shape.types if (tree := fields_of(each))), {})
    if isinstance(shape, msgspec.inspect.VarTupleType):
        return fields_of(shape.item_type)
    if isinstance(shape, msgspec.inspect.DictType):
        return fields_of(shape.value_type)
    if isinstance(shape, msgspec.inspect.StructType):
        written = {"source": "from"}
        return {
            written.get(each.encode_name, each.encode_name): fields_of(each.type)
            for each in shape.fields
        }
    return {}


def properties_of(node):
    for key in ("items", "additionalProperties"):
        if key in node:
            return properties_of(node[key])
    return {name: properties_of(inner) for name, inner in node.get("properties", {}).items()}


@pytest.mark.parametrize(
    ("kind", "shape"),
    [("NetworkService", forms.NetworkService), ("NetworkServiceEndpoint", forms.Endpoint)],
)
def test_the_schema_names_exactly_the_fields_that_the_watcher_reads(kind, shape):
    expected = fields_of(msgspec.inspect.type_info(shape))
    assert properties_of(schema_of(kind)["properties"]["spec"]) == expected


@pytest.mark.parametrize(
    ("kind", "spec", "filled"),
    [
        ("NetworkService", {}, {"payload": "IP"}),
        (
            "NetworkService",
            {"payload": "ETHERNET", "matches": [{"routes": [{}, {"weight": 0}]}]},
            {"payload": "ETHERNET", "matches": [{"routes": [{"weight": 1}, {"weight": 0}]}]},
        ),
        (
            "NetworkServiceEndpoint",
            {"networkServices": ["a"], "podSelector": {}, "ipam": {}},
            {"networkServices": ["a"], "podSelector": {}, "ipam": {"addressing": "shared"}},
        ),
    ],
    ids=str,
)
def test_a_default_is_what_the_watcher_reads_where_nothing_is_written(kind, spec, filled):
    body = {"spec": copy.deepcopy(spec)}
    structural.fill_in(schema_of(kind), body)
    assert body["spec"] == filled
    shape, read = READERS[kind]
    bodies = [{"metadata": {"name": "n"}, "spec": each} for each in (spec, filled)]
    assert read(msgspec.convert(bodies[0], shape)) == read(msgspec.convert(bodies[1], shape))


@pytest.mark.parametrize("example", EXAMPLES)
def test_examples_are_accepted(example):
    assert not crd_refuses(example["kind"], example["spec"])
    assert not watcher_refuses(example["kind"], example["spec"])


ANCHOR_STYLE = yaml.safe_load("""
- [NetworkService, {name: a, payload: ethernet, path_ids: [x], matches: [
    {source_selector: {app: b}, metadata: {labels: {c: d}}, routes: [{destination_selector: {e: f}}]}]}]
- [NetworkService, null]
- [NetworkServiceEndpoint, {network_service_names: [a], pod_selector: {match_labels: {a: b}}, url: x,
    ipam: {exclude_prefixes: [10.0.0.1]}, dns: {search_domains: [corp.example.]},
    policies: [{proto: TCP, dstPort: 6666, srcPort: "1-2", from: 10.0.0.0/8}]}]
- [NetworkServiceEndpoint, {networkServices: [a], podSelector: {}, network_service_labels: {a: {labels: {b: c}}}}]
""")


@pytest.mark.parametrize(("kind", "spec"), ANCHOR_STYLE)
def test_other_spellings_that_the_watcher_reads_are_accepted(kind, spec):
    assert not watcher_refuses(kind, spec)
    assert not crd_refuses(kind, spec)


MISTAKES = yaml.safe_load("""
- [NetworkService, {payload: TCP}]
- [NetworkService, {matches: [{routes: [{weight: -1}]}]}]
- [NetworkService, {matches: [{sourceSelector: {app: 5}}]}]
- [NetworkServiceEndpoint, null]
- [NetworkServiceEndpoint, {networkServices: web, podSelector: {}}]
- [NetworkServiceEndpoint, {networkServices: [Web], podSelector: {}}]
- [NetworkServiceEndpoint, {networkServices: [a], podSelector: {matchExpressions: [{key: a, operator: Like}]}}]
- [NetworkServiceEndpoint, {networkServices: [a], podSelector: {}, ipam: {prefixes: [172.16.1.1]}}]
- [NetworkServiceEndpoint, {networkServices: [a], podSelector: {}, ipam: {addressing: ptp}}]
- [NetworkServiceEndpoint, {networkServices: [a], podSelector: {}, routes: [{nextHop: 10.0.0.1}]}]
- [NetworkServiceEndpoint, {networkServices: [a], podSelector: {}, routes: [{destination: default}]}]
- [NetworkServiceEndpoint, {networkServices: [a], podSelector: {}, policies: [{protocol: gre}]}]
- [NetworkServiceEndpoint, {networkServices: [a], podSelector: {}, policies: [{destinationPort: true}]}]
- [NetworkServiceEndpoint, {networkServices: [a], podSelector: {}, policies: [{routes: [{destination: x}]}]}]
- [NetworkServiceEndpoint, {networkServices: [a], podSelector: {}, dns: {servers: 10.0.0.1}}]
""")


@pytest.mark.parametrize(("kind", "spec"), MISTAKES)
def test_plain_mistakes_are_refused_by_both(kind, spec):
    assert watcher_refuses(kind, spec)
    assert crd_refuses(kind, spec)


names = st.sampled_from(["a", "web.v1", "corp.example", "A", "", "x_y"])
prefixes = st.sampled_from(
    ["10.0.0.0/8", " 172.16.1.0/24 ", "2001:db8::/64", "10.0.0.0/255.0.0.0", "10.0.0.1", "::1"]
)
addresses = st.sampled_from(["10.0.0.1", "2001:db8::1", "x"])
labels = st.none() | st.dictionaries(names, st.sampled_from(["", "b"]) | st.just(5), max_size=2)


def lists(of):
    return st.none() | st.lists(of, max_size=2)


def some(**fields):
    return st.fixed_dictionaries({}, optional=fields)


texts = st.none() | names
routes = lists(
    some(
        destination=prefixes,
        nextHop=st.none() | addresses,
        next_hop=addresses,
    )
)
ports = (
    st.none() | st.integers(-1, 70000) | st.sampled_from(["", "80", "80-90", "x"]) | st.booleans()
)
network_service_specs = st.none() | some(
    payload=st.sampled_from([None, "", "ip", "IP", "Ethernet", "tcp"]),
    matches=lists(
        some(
            sourceSelector=labels,
            source_selector=labels,
            fallthrough=st.none() | st.booleans() | st.just("yes"),
            routes=lists(
                some(
                    destinationSelector=labels,
                    weight=st.none() | st.integers(-1, 5) | st.sampled_from([1.0, 0.5, "1"]),
                )
            ),
            metadata=labels,
        )
    ),
    allowedNamespaces=lists(names),
    name=names,
)
endpoint_specs = st.builds(
    lambda base, more: {**base, **more},
    st.sampled_from(
        [
            {"networkServices": ["a"], "podSelector": {"matchLabels": {"a": "b"}}},
            {"network_service_names": ["a"], "pod_selector": {"match_labels": None}},
        ]
    ),
    some(
        labels=labels,
        networkServiceLabels=st.none() | st.dictionaries(names, some(labels=labels), max_size=1),
        podSelector=st.none()
        | some(
            matchLabels=labels,
            matchExpressions=lists(
                some(
                    key=names,
                    operator=st.sampled_from(["In", "Exists", "like", None]),
                    values=lists(names),
                )
            ),
        ),
        ipam=st.none()
        | some(
            prefixes=lists(prefixes),
            excludePrefixes=lists(prefixes),
            addressing=st.sampled_from([None, "", "shared", "pointToPoint", "ptp"]),
        ),
        routes=routes,
        policies=lists(
            some(
                **{"from": st.none() | prefixes | st.just("")},
                protocol=st.sampled_from([None, "", "TCP", "ipv6-icmp", "IPv6-ICMP", "gre"]),
                destinationPort=ports,
                source_port=ports,
                routes=routes,
            )
        ),
        dns=st.none()
        | some(servers=lists(addresses), domains=lists(names), searchDomains=lists(names)),
    ),
)


@given(network_service_specs)
def test_a_network_service_that_the_watcher_accepts_is_accepted(spec):
    if not watcher_refuses("NetworkService", spec):
        assert not crd_refuses("NetworkService", spec)


@given(endpoint_specs)
def test_an_endpoint_that_the_watcher_accepts_is_accepted(spec):
    if not watcher_refuses("NetworkServiceEndpoint", spec):
        assert not crd_refuses("NetworkServiceEndpoint", spec)
