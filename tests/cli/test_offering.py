"""NetworkServiceEndpoints that offer nothing, asked of the lab's API server."""

import asyncio

import msgspec
import pytest

from cli import cluster, ipam, offering
from lab.api.kinds import NAMESPACES, NETWORK_SERVICE_ENDPOINTS, PODS
from schemas.grant import Refusal
from services.ipam.core.explaining import Picture
from services.watcher.model import Metadata, NetworkServiceEndpoint
from tests.builders import a_pod, a_refusal, a_request, an_endpoint
from tests.cli.standin import lab_api


def body(namespace, **spec):
    return {
        "metadata": {"name": "vpn", "namespace": namespace},
        "spec": {"networkServices": ["vpn"], "podSelector": {"matchLabels": {"app": "x"}}, **spec},
    }


BAD = {"prefixes": ["172.21.0.1/24"]}


@pytest.fixture
async def api(monkeypatch):
    async with lab_api(monkeypatch) as server:
        server.store.create(NAMESPACES, {"metadata": {"name": "team"}})
        server.store.create(NETWORK_SERVICE_ENDPOINTS, body("default"))
        server.store.create(NETWORK_SERVICE_ENDPOINTS, body("team", ipam=BAD))
        yield server


async def asked(*namespaces):
    found = await asyncio.to_thread(cluster.endpoints_in, namespaces, is_lab=True)
    return [each.ref for each in found]


async def test_nobody_is_asked_where_everybody_is_served(api):
    await api.stop()
    assert await asked() == []
    assert await asked("default") == []  # nor is it an error that nobody answers


async def test_endpoints_of_the_namespaces_are_read(api):
    assert await asked("team") == [("team", "vpn")]
    assert await asked("team", "default") == [("default", "vpn"), ("team", "vpn")]


async def of_name(namespace, *messages):
    picture = Picture.from_messages((each.key, each) for each in messages)
    return await asyncio.to_thread(ipam._of_name, picture, namespace, "vpn", ask_lab=True)


@pytest.mark.parametrize(
    ("namespace", "said"),
    [
        ("default", "NoEndpoint: NetworkServiceEndpoint default/vpn is there, but its podSelector"),
        ("team", "InvalidSpec: NetworkServiceEndpoint team/vpn has no effect as it is written"),
    ],
)
async def test_an_endpoint_of_which_the_bus_does_not_speak_is_explained(api, namespace, said):
    (line,) = await of_name(namespace)
    assert line.text.startswith(said)


async def test_a_pod_that_bears_the_name_of_an_endpoint_hides_nothing_of_it(api):
    containers = [{"name": "main", "image": "none"}]
    metadata = {"name": "vpn", "namespace": "default"}
    api.store.create(PODS, {"metadata": metadata, "spec": {"containers": containers}})
    said = await of_name("default")
    assert [each.text.partition(" ")[0] for each in said] == ["pod", "NoEndpoint:"]
    # Nor does one that asks for something, or serves another endpoint.
    of_pod = a_request("vpn"), an_endpoint("web", pod="vpn")
    *more, last = await of_name("default", *of_pod)
    assert {each.text.partition(" ")[0] for each in more} == {"nsm-vpn:", "serves"}
    assert last.text.startswith("NoEndpoint: NetworkServiceEndpoint default/vpn is there")


async def test_of_an_endpoint_that_the_bus_knows_kubernetes_is_not_asked(api):
    said = await of_name("default", an_endpoint())
    assert not any(each.text.startswith("NoEndpoint") for each in said)


def test_only_the_namespace_that_is_meant_counts():
    metadata = Metadata(name="vpn", namespace="team", uid="u", generation=1)
    spoilt = NetworkServiceEndpoint(metadata=metadata, spec=body("team", ipam=BAD)["spec"])
    why = offering.why_of([spoilt], [])
    assert why("default", "vpn") is None
    problem = why("team", "vpn")
    assert problem is not None
    assert problem.reason == "InvalidSpec"
    here: Refusal = a_refusal()
    there = msgspec.structs.replace(a_request(), network_service_namespace="team")
    full = a_refusal(reason="PoolExhausted")
    assert offering.homes_of_unserved([there, here]) == {"team"}
    assert offering.homes_of_unserved([there, full]) == set()
    own = msgspec.structs.replace(a_request(), pod=a_pod(namespace="other"))
    assert offering.homes_of_unserved([own, here]) == set()


def test_an_endpoint_of_which_the_bus_has_a_pod_is_not_called_idle():
    metadata = Metadata(name="vpn", namespace="default", uid="u", generation=1)
    vpn = NetworkServiceEndpoint(metadata=metadata, spec=body("default")["spec"])
    assert offering.why_of([vpn], [a_request()])("default", "vpn") is not None
    assert offering.why_of([vpn], [an_endpoint()])("default", "vpn") is None
    elsewhere = msgspec.structs.replace(an_endpoint(), pod=a_pod(namespace="team"))
    assert offering.why_of([vpn], [elsewhere])("default", "vpn") is not None
