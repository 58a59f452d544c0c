"""The same stories on the lab and on a real cluster: what is wanted goes to the bus, what became of it comes back."""

import ipaddress
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from schemas.grant import Refusal
from schemas.subjects import EndpointKey, NetworkServiceKey, PrefixKey, RequestKey
from services._runtime.errors import Conflict
from services.watcher import model
from services.watcher.adapters import Denied, Informer, Resource
from services.watcher.adapters import informer as informing
from services.watcher.adapters.decoding import Decoder
from services.watcher.adapters.kube import MERGE
from services.watcher.service import defining
from tests.cluster.sides import DEFINITIONS, GROUP, Side, a_watcher
from tests.runtime.helpers import running


def an_endpoint(side: Side, **spec: Any) -> dict[str, Any]:
    whole = {
        "networkServices": ["svc"],
        "podSelector": {"matchLabels": {"app": "vpn"}},
        "ipam": {"prefixes": ["172.16.1.0/24"]},
    } | spec
    metadata = {"name": "vpn", "namespace": side.namespace}
    head = {"apiVersion": "networkservicemesh.io/v1", "kind": "NetworkServiceEndpoint"}
    return head | {"metadata": metadata, "spec": whole}


def a_service(side: Side, **spec: Any) -> dict[str, Any]:
    metadata = {"name": "svc", "namespace": side.namespace}
    head = {"apiVersion": "networkservicemesh.io/v1", "kind": "NetworkService"}
    return head | {"metadata": metadata, "spec": spec}


def covered(reader, address: str) -> bool:
    """Whether any message of prefixes in use says that this address is."""
    wanted = ipaddress.ip_address(address)
    return any(
        wanted in ipaddress.ip_network(used.prefix)
        for key, message in list(reader.mirror.items.items())
        if isinstance(key, PrefixKey)
        for used in message.prefixes
    )


async def test_an_annotation_lives_with_its_pod(side, nats, reader):
    one, two = (RequestKey(side.namespace, "client", name) for name in ("nsm-1", "nsm-2"))
    async with a_watcher(side, nats):
        first = await side.pod("client", asks="svc/nsm-1")
        await reader.until(lambda: reader.get(one) is not None)
        assert reader.get(one).pod.uid == first["metadata"]["uid"]
        sequence = await reader.sequence(one)
        await side.annotate("client", "svc/nsm-1, other/nsm-2")
        await reader.until(lambda: reader.get(two) is not None)
        await side.annotate("client", None)
        await reader.until(lambda: reader.get(one) is None and reader.get(two) is None)
        assert sequence
        await side.annotate("client", "svc/nsm-1")
        await reader.until(lambda: reader.get(one) is not None)
        await side.remove("pods", "client")
        second = await side.pod("client", asks="svc/nsm-1")
        uid = second["metadata"]["uid"]
        await reader.until(lambda: (found := reader.get(one)) and found.pod.uid == uid)
        await side.remove("pods", "client")
        await reader.until(lambda: reader.get(one) is None)


async def test_an_update_that_changes_nothing_for_us_costs_no_message(side, nats, reader):
    key = RequestKey(side.namespace, "client", "nsm-1")
    async with a_watcher(side, nats):
        await side.pod("client", asks="svc/nsm-1")
        await reader.until(lambda: reader.get(key) is not None)
        sequence = await reader.sequence(key)
        for number in range(5):
            patch = {"metadata": {"annotations": {"example/other": str(number)}}}
            await side.ask("PATCH", side.path("pods", "client"), patch, MERGE)
        other = RequestKey(side.namespace, "marker", "nsm-1")
        await side.pod("marker", asks="svc/nsm-1")
        await reader.until(lambda: reader.get(other) is not None)
        assert await reader.sequence(key) == sequence


async def test_a_malformed_annotation_is_told_on_the_pod_with_its_column(side, nats, reader, ipam):
    async with a_watcher(side, nats):
        await ipam.complete()
        await side.pod("client", asks="svc/nsm-1?x")

        async def said() -> bool:
            return "MalformedAnnotation" in await side.events("client")

        await side.until(said)
        assert "column" in (await side.events("client"))["MalformedAnnotation"]


async def test_a_refusal_is_shown_on_the_pod_as_condition_annotation_and_event(
    side, nats, reader, ipam
):
    key = RequestKey(side.namespace, "client", "nsm-1")
    async with a_watcher(side, nats):
        await ipam.complete()
        pod = await side.pod("client", asks="svc/nsm-1")
        await reader.until(lambda: reader.get(key) is not None)
        await ipam.publish(
            Refusal(
                namespace=side.namespace,
                pod="client",
                interface="nsm-1",
                uid=pod["metadata"]["uid"],
                network_service="svc",
                reason="NoEndpoint",
                message="no endpoint offers svc; create one",
            )
        )

        async def shown() -> bool:
            found = await side.ask("GET", side.path("pods", "client"))
            conditions = {c["type"]: c for c in found["status"].get("conditions") or []}
            condition = conditions.get(model.CONDITION, {})
            text = (found["metadata"].get("annotations") or {}).get(model.STATUS_ANNOTATION, "[]")
            items = msgspec.json.decode(text)
            return (
                condition.get("reason") == "NoEndpoint"
                and bool(items)
                and (items[0]["state"] == "refused")
            )

        await side.until(shown)

        async def said() -> bool:
            return "NoEndpoint" in await side.events("client")

        await side.until(said)


async def test_endpoints_and_rules_are_published_and_withdrawn(side, nats, reader):
    endpoint = EndpointKey(side.namespace, "vpn", "vpn-0")
    rules = NetworkServiceKey(side.namespace, "svc")
    async with a_watcher(side, nats):
        await side.ask("POST", side.path("networkserviceendpoints"), an_endpoint(side))
        await side.ask("POST", side.path("networkservices"), a_service(side, payload="IP"))
        await side.pod("vpn-0", labels={"app": "vpn"})
        await reader.until(lambda: reader.get(endpoint) and reader.get(rules))
        assert reader.get(endpoint).ready is False
        await side.runs("vpn-0", "10.231.7.9")
        await reader.until(lambda: reader.get(endpoint).ready)
        await side.remove("networkserviceendpoints", "vpn")
        await reader.until(lambda: reader.get(endpoint) is None)


async def test_what_the_cluster_uses_is_told(side, nats, reader):
    spec = {"ports": [{"port": 80}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    told = await side.ask("POST", side.path("services"), service)
    excluded = {"metadata": {"name": "excluded-prefixes"}, "data": {"prefixes": "198.51.100.0/24"}}
    head = {"apiVersion": "v1", "kind": "ConfigMap"}
    await side.ask("POST", side.path("configmaps"), head | excluded)
    async with a_watcher(side, nats):
        await reader.until(lambda: reader.get(PrefixKey("node", side.node)) is not None)
        node = reader.get(PrefixKey("node", side.node))
        assert {each.prefix for each in node.prefixes} == {"10.231.7.0/24", "192.0.2.77/32"}
        await reader.until(lambda: covered(reader, told["spec"]["clusterIP"]))
        await reader.until(lambda: covered(reader, "198.51.100.7"))
        more = {"data": {"prefixes": "198.51.100.0/24\n203.0.113.0/24"}}
        await side.ask("PATCH", side.path("configmaps", "excluded-prefixes"), more, MERGE)
        await reader.until(lambda: covered(reader, "203.0.113.7"))
        assert reader.get(PrefixKey("cluster", "servicecidr-kubernetes")) is not None
        await side.pod("away")
        await side.runs("away", "10.199.3.7")
        await reader.until(lambda: covered(reader, "10.199.3.7"))
        await side.pod("home")
        await side.runs("home", "10.231.7.9")
        await side.remove("pods", "away")
        await reader.until(lambda: not covered(reader, "10.199.3.7"))
        sources = {key.source for key in reader.mirror.items if isinstance(key, PrefixKey)}
        assert sources == {"node", "cluster", "user"}


# ---- definitions, and what the server refuses by them


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"networkServices": "svc"}, "spec.networkServices in body must be of type array"),
        ({"networkServices": ["No Name"]}, "should match"),
        ({"ipam": {"prefixes": [7]}}, "must be of type string"),
        ({"routes": [{"nextHop": "10.0.0.1"}]}, "spec.routes[0].destination: Required value"),
    ],
)
async def test_the_server_refuses_what_has_the_wrong_shape(side, spec, said):
    with pytest.raises(Denied, match="422") as refused:
        await side.ask("POST", side.path("networkserviceendpoints"), an_endpoint(side, **spec))
    assert said in str(refused.value)


async def test_the_rules_of_the_definition_are_evaluated_by_a_real_server(side):
    if not side.real:
        pytest.skip("the lab does not evaluate CEL")
    bad = an_endpoint(side, ipam={"prefixes": ["172.16.1.1"]})
    with pytest.raises(Denied, match="a prefix needs its length"):
        await side.ask("POST", side.path("networkserviceendpoints"), bad)


async def test_an_unknown_field_is_kept_for_the_watcher_to_tell(side):
    made = await side.ask(
        "POST", side.path("networkserviceendpoints"), an_endpoint(side, colour="red")
    )
    assert made["spec"]["colour"] == "red"


async def test_a_typo_outside_of_the_spec_is_refused_where_asked(side):
    bad = an_endpoint(side) | {"sepc": {}}
    with pytest.raises(Denied, match='unknown field "sepc"'):
        await side.ask("POST", side.path("networkserviceendpoints"), bad, fieldValidation="Strict")


async def test_what_is_left_out_is_filled_in(side):
    ipam = {"prefixes": ["172.16.1.0/24"]}
    endpoint = an_endpoint(side, ipam=ipam)
    made = await side.ask("POST", side.path("networkserviceendpoints"), endpoint)
    assert made["spec"]["ipam"] == ipam | {"addressing": "shared"}
    bare = a_service(side)
    del bare["spec"]
    made = await side.ask("POST", side.path("networkservices"), bare)
    assert made["spec"] == {"payload": "IP"}
    matches = [{"routes": [{"destination_selector": {"app": "vpn"}}]}]
    patch = {"spec": {"matches": matches}}
    made = await side.ask("PATCH", side.path("networkservices", "svc"), patch, MERGE)
    assert made["spec"]["matches"][0]["routes"] == [matches[0]["routes"][0] | {"weight": 1}]


async def test_the_definition_of_another_mesh_is_told_and_not_overwritten(
    side, nats, reader, monkeypatch
):
    monkeypatch.setattr(defining, "_LOOK_SECONDS", 0.2)  # a server takes its time to publish it
    name = "networkservices.networkservicemesh.io"
    ours = await side.ask("GET", f"{DEFINITIONS}/{name}")
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    head = {key: ours[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": name}}
    theirs = head | {"spec": ours["spec"] | {"versions": [version]}}
    await side.apply(DEFINITIONS, theirs, fieldManager="another-mesh")
    try:
        await side.ask("POST", side.path("networkservices"), a_service(side))
        with capture_logs() as logged:

            async def said() -> bool:
                return any("definition of a kind is not ours" in each["event"] for each in logged)

            async with a_watcher(side, nats):
                key = NetworkServiceKey(side.namespace, "svc")
                await reader.until(lambda: reader.get(key) is not None)
                await side.until(said)
        if side.real:  # nobody owns fields in the lab
            spec = {key: ours["spec"][key] for key in ("group", "names", "scope", "versions")}
            with pytest.raises(Conflict, match="another-mesh"):
                await side.apply(DEFINITIONS, head | {"spec": spec}, fieldManager="nsm", force="0")
    finally:
        await side.define()


async def test_installing_the_definitions_again_changes_nothing(side):
    name = "networkserviceendpoints.networkservicemesh.io"
    before = await side.ask("GET", f"{DEFINITIONS}/{name}")
    await side.define()
    after = await side.ask("GET", f"{DEFINITIONS}/{name}")
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


async def test_a_definition_that_goes_takes_its_endpoints_along_and_may_come_back(
    side, nats, reader
):
    listed = (await side.ask("GET", f"{GROUP}/networkserviceendpoints"))["items"]
    if listed:
        pytest.skip("the cluster has endpoints of others")
    endpoint = EndpointKey(side.namespace, "vpn", "vpn-0")
    await side.pod("vpn-0", labels={"app": "vpn"})
    await side.ask("POST", side.path("networkserviceendpoints"), an_endpoint(side))
    async with a_watcher(side, nats):
        await reader.until(lambda: reader.get(endpoint) is not None)
        name = "networkserviceendpoints.networkservicemesh.io"
        await side.ask("DELETE", f"{DEFINITIONS}/{name}")
        await reader.until(lambda: reader.get(endpoint) is None)

        async def gone() -> bool:
            found = await side.ask("GET", DEFINITIONS)
            return all(each["metadata"]["name"] != name for each in found["items"])

        await side.until(gone)
        await side.define()
        await side.ask("POST", side.path("networkserviceendpoints"), an_endpoint(side))
        await reader.until(lambda: reader.get(endpoint) is not None)


async def test_an_informer_ends_with_what_a_fresh_list_says(side, monkeypatch):
    monkeypatch.setattr(informing, "_PAGE", 3)
    path = side.path("configmaps")
    head = {"apiVersion": "v1", "kind": "ConfigMap"}
    for number in range(8):
        await side.ask("POST", path, head | {"metadata": {"name": f"c{number}"}, "data": {}})
    informer = Informer(side.kube, Resource(kind=model.ConfigMap, path=path), lambda *_: None)
    async with running(informer.run()):
        await informer.synced.wait()
        for number in range(4):
            await side.remove("configmaps", f"c{number}")
            body = head | {"metadata": {"name": f"c{number}"}, "data": {"again": "yes"}}
            await side.ask("POST", path, body)
        await side.remove("configmaps", "c7")

        async def same() -> bool:
            _, found = Decoder(model.ConfigMap).page(await side.kube.get(path))
            return informer.items == {each.ref: each for each in found}

        await side.until(same)
        assert (side.namespace, "c7") not in informer.items
