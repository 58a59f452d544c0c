"""CustomResourceDefinitions, ServiceCIDRs, and what the server refuses as the real one does."""

import aiohttp
import msgspec
import pytest

from lab.api.errors import ApiError
from lab.api.kinds import (
    CONFIG_MAPS,
    DEFINITIONS,
    EVENTS,
    NETWORK_SERVICES,
    PODS,
    SERVICE_CIDRS,
)
from tests.lab.api.builders import a_config_map, a_definition, a_pod, an_event

NAME = NETWORK_SERVICES.resource
PATH = "/apis/networkservicemesh.io/v1/namespaces/default/networkservices"
OWN = a_definition("networkservices", group="networkservicemesh.io")


@pytest.fixture
async def ask(api):
    async with aiohttp.ClientSession(api.url) as session:

        async def ask(method, path, body=None, **query):
            async with session.request(method, path, json=body, params=query) as response:
                told = msgspec.json.decode(await response.read())
                return response.status, told, response.headers.getall("Warning", [])

        yield ask


def redefine(store, **spec):
    """The shipped definition replaced by one whose spec has these properties, and no others."""
    own = a_definition(
        "networkservices",
        group="networkservicemesh.io",
        spec={"type": "object", "properties": spec},
    )
    own["spec"]["names"] = {"plural": "networkservices", "kind": "NetworkService"}
    found = store.get(DEFINITIONS, "", NAME)
    store.update(DEFINITIONS, found | {"spec": own["spec"]})


def a_service(name="svc", **spec):
    return {"metadata": {"name": name, "namespace": "default"}, "spec": spec}


async def test_a_kind_is_served_while_its_definition_is_there(ask, store):
    assert (await ask("GET", PATH))[0] == 200
    store.create(NETWORK_SERVICES, a_service())
    gone = []
    store.watch(NETWORK_SERVICES, lambda verb, _: gone.append(verb), replay=False)
    store.delete(DEFINITIONS, "", NAME)
    assert gone == ["DELETED"]
    assert (await ask("GET", PATH))[0] == 404
    _, listed, _ = await ask("GET", "/apis/networkservicemesh.io/v1")
    assert "networkservices" not in {each["name"] for each in listed["resources"]}


async def test_the_first_definitions_are_established(store):
    for found in store.objects(DEFINITIONS):
        conditions = {c["type"]: c["status"] for c in found["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}
        assert found["status"]["storedVersions"] == ["v1"]
        assert found["spec"]["names"]["listKind"] == f"{found['spec']['names']['kind']}List"


async def test_a_definition_of_another_kind_is_kept_and_says_that_it_is_not_served(ask, store):
    found = store.create(DEFINITIONS, a_definition())
    established = {c["type"]: c for c in found["status"]["conditions"]}["Established"]
    assert (established["status"], established["reason"]) == ("False", "NotServed")
    assert (await ask("GET", "/apis/a.example/v1/x"))[0] == 404


def test_a_definition_must_be_named_after_what_it_defines(store):
    wrong = a_definition() | {"metadata": {"name": "y.a.example"}}
    with pytest.raises(ApiError, match=r"must be spec\.names\.plural"):
        store.create(DEFINITIONS, wrong)


def test_a_definition_needs_a_schema_and_one_stored_version(store):
    bare = a_definition()
    del bare["spec"]["versions"][0]["schema"]
    with pytest.raises(ApiError, match="schemas are required"):
        store.create(DEFINITIONS, bare)
    several = a_definition()
    several["spec"]["versions"] *= 2
    with pytest.raises(ApiError, match="exactly one version"):
        store.create(DEFINITIONS, several)


async def test_the_schema_of_the_definition_rules(ask, store):
    payload = {"type": "string", "default": "IP", "enum": ["IP", "ETHERNET"]}
    redefine(store, payload=payload)
    status, told, warned = await ask("POST", PATH, a_service("a", foo=1))
    assert (status, told["spec"]) == (201, {"payload": "IP"})
    assert warned == ['299 - "unknown field \\"spec.foo\\""']
    status, told, _ = await ask("POST", PATH, a_service("b", foo=1), fieldValidation="Strict")
    assert status == 400
    assert told["message"] == (
        'NetworkService in version "v1" cannot be handled as a NetworkService: '
        'strict decoding error: unknown field "spec.foo"'
    )
    status, told, _ = await ask("POST", PATH, a_service("c", payload="X"))
    assert status == 422
    assert told["details"]["causes"][0]["field"] == "spec.payload"


async def test_a_definition_without_a_status_has_no_request_for_one(ask, store):
    store.create(NETWORK_SERVICES, a_service())
    assert (await ask("GET", f"{PATH}/svc/status"))[0] == 200
    found = store.get(DEFINITIONS, "", NAME)
    found["spec"]["versions"][0]["subresources"] = {}
    store.update(DEFINITIONS, found)
    status, told, _ = await ask("GET", f"{PATH}/svc/status")
    assert (status, told["message"]) == (404, f'{NAME} "svc" not found')
    assert (await ask("GET", f"{PATH}/svc"))[0] == 200


async def test_openapi_tells_the_schema_of_the_definition(ask, store):
    redefine(store, colour={"type": "string"})
    _, told, _ = await ask("GET", "/openapi/v3/apis/networkservicemesh.io/v1")
    (schema,) = (s for name, s in told["components"]["schemas"].items() if name.endswith("Service"))
    assert "colour" in schema["properties"]["spec"]["properties"]


async def test_unknown_fields_of_a_pod_are_dropped_with_a_warning_or_refused(ask):
    pod = a_pod("x")
    pod["spec"]["nonsense"] = 1
    pod["spec"]["containers"][0]["foo"] = 1
    path = "/api/v1/namespaces/default/pods"
    status, told, _ = await ask("POST", path, pod, fieldValidation="Strict")
    assert status == 400
    assert (
        'unknown field "spec.containers[0].foo", unknown field "spec.nonsense"' in told["message"]
    )
    status, told, warned = await ask("POST", path, pod)
    assert status == 201
    assert "nonsense" not in told["spec"]
    assert len(warned) == 2


# ---- the real server's limits


def test_annotations_have_256_kib_together(store):
    store.create(PODS, a_pod("fits", annotations={"a": "x" * 262_143}))
    with pytest.raises(ApiError, match="Too long: may not be more than 262144 bytes"):
        store.create(PODS, a_pod("too-much", annotations={"a": "x" * 262_143, "b": "y"}))


def test_an_event_is_in_the_namespace_of_its_object(store):
    elsewhere = {"kind": "Pod", "namespace": "kube-system", "name": "x"}
    with pytest.raises(ApiError, match=r"does not match event.namespace"):
        store.create(EVENTS, an_event("e1", involvedObject=elsewhere))
    of_a_node = {"kind": "Node", "name": "node1"}
    store.create(EVENTS, an_event("e2", involvedObject=of_a_node))
    with pytest.raises(ApiError, match=r"does not match event.namespace"):
        store.create(EVENTS, an_event("e2", namespace="kube-system", involvedObject=of_a_node))


def test_an_event_of_the_new_way_is_checked_whole(store):
    new = {"eventTime": "2026-01-01T00:00:00.000000Z"}
    with pytest.raises(ApiError, match=r"reportingInstance.*action"):
        store.create(EVENTS, an_event("e1", **new))
    whole = new | {"reportingComponent": "a.b/c", "reportingInstance": "i", "action": "A"}
    store.create(EVENTS, an_event("e2", **whole))
    with pytest.raises(ApiError, match="at most 1024 characters"):
        store.create(EVENTS, an_event("e3", **whole, message="x" * 1025))
    with pytest.raises(ApiError, match="has invalid value: Odd"):
        store.create(EVENTS, an_event("e4", **whole, type="Odd"))
    store.create(EVENTS, an_event("e5", message="x" * 2000, type="Odd"))


def test_a_config_map_key_is_a_file_name(store):
    with pytest.raises(ApiError, match=r"data\[a b\]"):
        store.create(CONFIG_MAPS, a_config_map("x") | {"data": {"a b": "c"}})


# ---- ServiceCIDRs


def test_the_lab_has_the_service_cidr_that_clusters_have(store):
    (found,) = store.objects(SERVICE_CIDRS)
    assert (found["metadata"]["name"], found["spec"]["cidrs"]) == ("kubernetes", ["10.96.0.0/16"])


@pytest.mark.parametrize(
    "cidrs", [[], ["10.97.0.1/16"], ["nonsense"], ["10.97.0.0/16", "10.98.0.0/16"]]
)
def test_a_service_cidr_has_one_clean_prefix_per_family(store, cidrs):
    with pytest.raises(ApiError, match=r"spec.cidrs"):
        store.create(SERVICE_CIDRS, {"metadata": {"name": "x"}, "spec": {"cidrs": cidrs}})


def test_a_service_cidr_keeps_its_prefixes_and_may_get_a_second_family(store):
    found = store.create(
        SERVICE_CIDRS, {"metadata": {"name": "x"}, "spec": {"cidrs": ["10.97.0.0/16"]}}
    )
    with pytest.raises(ApiError, match="field is immutable"):
        store.update(SERVICE_CIDRS, found | {"spec": {"cidrs": ["10.98.0.0/16"]}})
    both = ["10.97.0.0/16", "fd00:97::/108"]
    assert store.update(SERVICE_CIDRS, found | {"spec": {"cidrs": both}})["spec"]["cidrs"] == both
