"""The wire: paths, media types, errors as Status objects, tables, discovery."""

import asyncio
import contextlib
import socket
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest
from aiohttp import web

from lab.api.kinds import EVENTS, NAMESPACES, NETWORK_SERVICE_ENDPOINTS, NODES, PODS
from lab.api.server import ApiOptions, LabApi
from lab.api.store import Store
from tests.lab.api.builders import a_config_map, a_pod, an_endpoint, an_event

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
ENDPOINTS = "/apis/networkservicemesh.io/v1/namespaces/default/networkserviceendpoints"
PODS_PATH = "/api/v1/namespaces/default/pods"
MAPS_PATH = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
async def ask(api):
    async with aiohttp.ClientSession(api.url) as session:

        async def ask(method, path, body=None, media="application/json", **headers):
            data = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
            headers = {name.replace("_", "-"): value for name, value in headers.items()}
            if data is not None:
                headers["Content-Type"] = media
            async with session.request(method, path, data=data, headers=headers) as response:
                return response.status, msgspec.json.decode(await response.read())

        yield ask


# ---- errors


@pytest.mark.parametrize(
    ("method", "path", "code", "reason"),
    [
        ("GET", f"{PODS_PATH}/nope", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/secrets", 404, "NotFound"),
        ("GET", "/apis/apps/v1", 404, "NotFound"),
        ("GET", "/nowhere", 404, "NotFound"),
        ("GET", f"{PODS_PATH}/web/log", 404, "NotFound"),
        ("GET", f"{MAPS_PATH}/a/status", 404, "NotFound"),
        ("GET", "/api/v1/pods/web", 404, "NotFound"),
        ("GET", "/api/v1/namespaces/default/nodes", 404, "NotFound"),
        ("POST", "/api/v1/pods", 405, "MethodNotAllowed"),
        ("DELETE", "/api/v1/pods", 405, "MethodNotAllowed"),
        ("PUT", PODS_PATH, 405, "MethodNotAllowed"),
        ("GET", f"{PODS_PATH}?labelSelector=a%20b", 400, "BadRequest"),
        ("GET", f"{PODS_PATH}?fieldSelector=spec.x=1", 400, "BadRequest"),
        ("GET", f"{PODS_PATH}?limit=x", 400, "BadRequest"),
    ],
)
async def test_an_error_is_a_status_object_with_code_and_reason(ask, method, path, code, reason):
    status, body = await ask(method, path, {} if method in ("POST", "PUT") else None)
    assert (status, body["kind"], body["status"]) == (code, "Status", "Failure")
    assert (body["code"], body["reason"]) == (code, reason)


async def test_errors_name_custom_kinds_with_their_group(ask):
    _, body = await ask("GET", f"{ENDPOINTS}/vpn")
    named = 'networkserviceendpoints.networkservicemesh.io "vpn" not found'
    assert body["message"] == named
    assert body["details"] == {
        "name": "vpn",
        "group": "networkservicemesh.io",
        "kind": "networkserviceendpoints",
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "Node"}, "BadRequest"),
        ({"apiVersion": "v2"}, "BadRequest"),
        ({"metadata": {"name": "web", "namespace": "other"}}, "BadRequest"),
        ({"metadata": {"name": "web", "resourceVersion": "1"}}, "BadRequest"),
        ({"metadata": {}}, "Invalid"),
        ({"metadata": 5}, "BadRequest"),
        ({"spec": {"containers": [{"name": "a", "image": 5}]}}, "Invalid"),
    ],
)
async def test_a_body_that_contradicts_its_path_or_kind_is_refused(ask, change, reason):
    _, body = await ask("POST", PODS_PATH, a_pod() | change)
    assert body["reason"] == reason


@pytest.mark.parametrize("data", [b"{", b"[]", b"", b"\xff"])
async def test_a_body_that_is_no_object_is_a_bad_request(ask, data):
    status, _ = await ask("POST", PODS_PATH, data)
    assert status == 400


async def test_an_unknown_media_type_is_refused_with_the_known_ones(ask, store):
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    status, body = await ask("PATCH", f"{ENDPOINTS}/vpn", {}, STRATEGIC)
    assert (status, body["reason"]) == (415, "UnsupportedMediaType")
    assert MERGE in body["message"]
    status, _ = await ask("POST", PODS_PATH, b"x", "text/plain")
    assert status == 415


async def test_dry_run_must_be_all_or_nothing(ask):
    status, _ = await ask("POST", f"{PODS_PATH}?dryRun=All", a_pod())
    assert status == 201
    status, _ = await ask("POST", f"{PODS_PATH}?dryRun=Some", a_pod())
    assert status == 400
    status, _ = await ask("GET", f"{PODS_PATH}/web")
    assert status == 404


async def test_a_bug_of_ours_is_a_status_object_too(ask, store, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug")

    monkeypatch.setattr(store, "record", broken)
    status, body = await ask("GET", f"{PODS_PATH}/web")
    assert (status, body["reason"]) == (500, "InternalError")


# ---- writing


async def test_create_reads_yaml_too(ask):
    text = b"metadata: {name: a}\ndata: {day: 2026-01-01}"
    status, body = await ask("POST", MAPS_PATH, text, "application/yaml")
    assert (status, body["data"]) == (201, {"day": "2026-01-01"})


async def test_put_status_and_patch_status_go_to_the_subresource(ask, store):
    pod = store.create(PODS, a_pod())
    pod["status"] = {"phase": "Running", "podIP": "10.244.1.2"}
    _, body = await ask("PUT", f"{PODS_PATH}/web/status", pod)
    assert body["status"]["phase"] == "Running"

    patch = {"status": {"podIPs": [{"ip": "10.244.1.2"}]}}
    await ask("PATCH", f"{PODS_PATH}/web/status", patch, STRATEGIC)
    _, body = await ask("GET", f"{PODS_PATH}/web/status")
    assert body["status"]["podIPs"] == [{"ip": "10.244.1.2"}]


async def test_server_side_apply_answers_201_when_new_and_200_after(ask):
    path = f"{ENDPOINTS}/vpn?fieldManager=test"
    apply = "application/apply-patch+yaml"
    first = await ask("PATCH", path, an_endpoint(), apply)
    second = await ask("PATCH", path, an_endpoint(), apply)
    unnamed = await ask("PATCH", f"{ENDPOINTS}/vpn", an_endpoint(), apply)
    assert (first[0], second[0], unnamed[0]) == (201, 200, 400)
    assert first[1] == second[1]


async def test_a_binding_puts_a_pod_on_a_node(ask, store):
    store.create(PODS, a_pod())
    binding = {"kind": "Binding", "target": {"kind": "Node", "name": "node1"}}
    assert (await ask("POST", f"{PODS_PATH}/web/binding", binding))[0] == 201
    assert (await ask("POST", f"{PODS_PATH}/web/binding", binding))[0] == 409
    assert store.get(PODS, "default", "web")["spec"]["nodeName"] == "node1"


async def test_delete_options_carry_grace_and_preconditions(ask, store):
    pod = store.create(PODS, a_pod(node="node1"))
    wrong = {"preconditions": {"uid": "other"}}
    right = {"preconditions": {"uid": pod["metadata"]["uid"]}, "gracePeriodSeconds": 3}
    assert (await ask("DELETE", f"{PODS_PATH}/web", wrong))[0] == 409
    _, marked = await ask("DELETE", f"{PODS_PATH}/web", right)
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 3
    _, gone = await ask("DELETE", f"{PODS_PATH}/web?gracePeriodSeconds=0")
    assert gone["kind"] == "Pod"
    assert (await ask("GET", f"{PODS_PATH}/web"))[0] == 404


async def test_deleting_most_kinds_answers_with_a_status(ask, store):
    endpoint = store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    _, body = await ask("DELETE", f"{ENDPOINTS}/vpn")
    assert (body["kind"], body["status"]) == ("Status", "Success")
    assert body["details"]["uid"] == endpoint["metadata"]["uid"]


async def test_deletecollection_takes_what_the_selector_means(ask, store):
    for name, labels in (("a", {"app": "x"}), ("b", {"app": "x"}), ("c", {})):
        store.create(PODS, a_pod(name, labels=labels))
    _, body = await ask("DELETE", f"{PODS_PATH}?labelSelector=app%3Dx")
    assert [pod["metadata"]["name"] for pod in body["items"]] == ["a", "b"]
    assert [pod["metadata"]["name"] for pod in store.objects(PODS)] == ["c"]


# ---- reading


async def test_a_list_has_its_kind_and_version_and_pages(ask, store):
    for name in "abc":
        store.create(PODS, a_pod(name))
    _, page = await ask("GET", f"{PODS_PATH}?limit=2")
    assert (page["kind"], page["apiVersion"]) == ("PodList", "v1")
    assert len(page["items"]) == 2
    token = page["metadata"]["continue"]
    _, rest = await ask("GET", f"{PODS_PATH}?limit=2&continue={token}")
    assert [pod["metadata"]["name"] for pod in rest["items"]] == ["c"]
    _, everywhere = await ask("GET", "/api/v1/pods?resourceVersion=0")
    assert len(everywhere["items"]) == 3


async def test_a_table_has_columns_cells_and_metadata_of_each_object(ask, store):
    store.create(PODS, a_pod(node="node1"))
    _, table = await ask("GET", PODS_PATH, Accept=TABLE)
    assert table["kind"] == "Table"
    named = {column["name"]: column["priority"] for column in table["columnDefinitions"]}
    assert list(named)[:5] == ["Name", "Ready", "Status", "Restarts", "Age"]
    assert named["Node"] == 1
    row = table["rows"][0]
    assert row["cells"][:4] == ["web", "0/1", "Pending", "0"]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    _, whole = await ask("GET", f"{PODS_PATH}/web?includeObject=Object", Accept=TABLE)
    assert whole["rows"][0]["object"]["spec"]["nodeName"] == "node1"


async def test_metadata_only_is_served_to_who_asks_for_it(ask, store):
    store.create(PODS, a_pod())
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    _, listed = await ask("GET", PODS_PATH, Accept=accept)
    assert listed["kind"] == "PartialObjectMetadataList"
    assert set(listed["items"][0]) == {"kind", "apiVersion", "metadata"}


async def test_an_event_is_one_object_in_two_spellings(ask, store):
    store.create(EVENTS, an_event())
    _, event = await ask("GET", "/apis/events.k8s.io/v1/namespaces/default/events/web.1")
    assert event["apiVersion"] == "events.k8s.io/v1"
    assert (event["regarding"]["name"], event["note"]) == ("web", "connected to vpn")

    event["metadata"] = {"name": "web.2"}
    status, _ = await ask("POST", "/apis/events.k8s.io/v1/namespaces/default/events", event)
    assert status == 201
    stored = store.get(EVENTS, "default", "web.2")
    assert (stored["apiVersion"], stored["message"]) == ("v1", "connected to vpn")
    _, listed = await ask("GET", "/apis/events.k8s.io/v1/events")
    assert {event["note"] for event in listed["items"]} == {"connected to vpn"}


# ---- around


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz"])
async def test_health_says_ok(api, path):
    async with aiohttp.ClientSession(api.url) as session, session.get(path) as response:
        assert (response.status, await response.text()) == (200, "ok")


async def test_discovery_lists_groups_resources_and_subresources(ask):
    assert (await ask("GET", "/api"))[1]["versions"] == ["v1"]
    _, listed = await ask("GET", "/apis")
    assert [g["name"] for g in listed["groups"]] == [
        "apiextensions.k8s.io",
        "events.k8s.io",
        "networking.k8s.io",
        "networkservicemesh.io",
        "authentication.k8s.io",
    ]
    _, core = await ask("GET", "/api/v1")
    names = {resource["name"] for resource in core["resources"]}
    assert {"pods", "pods/status", "pods/binding", "nodes/status", "events"} <= names
    _, ours = await ask("GET", "/apis/networkservicemesh.io/v1")
    assert "networkserviceendpoints/status" in {r["name"] for r in ours["resources"]}
    assert (await ask("GET", "/version"))[1]["minor"] == "32"


async def test_every_place_of_the_openapi_index_holds_a_document(ask):
    _, index = await ask("GET", "/openapi/v3")
    for place in index["paths"].values():
        _, document = await ask("GET", place["serverRelativeURL"])
        assert document["components"]["schemas"]
    assert (await ask("GET", "/openapi/v2"))[1]["swagger"] == "2.0"


async def test_a_token_is_asked_for_where_one_is_set():
    api = LabApi(Store(), options=ApiOptions(token="secret"))
    url = await api.start()
    try:
        async with aiohttp.ClientSession(url) as session:
            codes = {}
            for given in ("", "Bearer wrong", "Bearer secret"):
                headers = {"Authorization": given} if given else {}
                async with session.get("/api/v1/pods", headers=headers) as response:
                    codes[given] = response.status
            async with session.get("/healthz") as response:
                codes["healthz"] = response.status
    finally:
        await api.stop()
    assert codes == {"": 401, "Bearer wrong": 401, "Bearer secret": 200, "healthz": 200}


async def test_a_middleware_stands_in_front_of_everything():
    @web.middleware
    async def broken(request, handler):
        return web.Response(status=503)

    api = LabApi(Store(), middlewares=[broken])
    url = await api.start()
    try:
        async with aiohttp.ClientSession(url) as session, session.get("/api/v1/pods") as response:
            assert response.status == 503
    finally:
        await api.stop()


async def test_the_port_is_free_again_after_stop():
    first = LabApi(Store())
    url = await first.start()
    port = int(url.rsplit(":", 1)[1])
    with pytest.raises(OSError):
        await LabApi(Store()).start(port=port)
    await first.stop()
    second = LabApi(Store())
    assert await second.start(port=port) == url
    await second.stop()


@pytest.mark.parametrize("turns", range(6))
async def test_who_knocks_while_the_server_stops_is_cut_off(turns):
    api = LabApi(Store())
    place = urlsplit(await api.start())
    with socket.create_connection((place.hostname, place.port)) as knocking:
        knocking.setblocking(False)
        for _ in range(turns):
            await asyncio.sleep(0)  # accepted, let in, served: at each of these it may stop
        await api.stop()
        async with asyncio.timeout(1):
            with contextlib.suppress(ConnectionResetError):
                assert await asyncio.get_running_loop().sock_recv(knocking, 1) == b""


async def test_cluster_wide_objects_live_outside_of_namespaces(ask, store):
    store.create(NODES, {"metadata": {"name": "node1"}})
    assert (await ask("GET", "/api/v1/nodes/node1"))[1]["metadata"].get("namespace") is None
    assert (await ask("GET", "/api/v1/namespaces/default"))[1]["status"] == {"phase": "Active"}
    status, _ = await ask(
        "PATCH", "/api/v1/namespaces/default", {"metadata": {"labels": {"a": "b"}}}, MERGE
    )
    assert status == 200
    assert store.get(NAMESPACES, "", "default")["metadata"]["labels"]["a"] == "b"
    status, _ = await ask("POST", "/api/v1/namespaces/default/configmaps", a_config_map())
    assert status == 201
