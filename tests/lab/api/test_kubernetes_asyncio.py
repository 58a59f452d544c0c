"""The Kubernetes client our watcher uses, unchanged, against the lab."""

import asyncio

import pytest
from kubernetes_asyncio import client as k8s
from kubernetes_asyncio import config, watch

from lab.api.kinds import EVENTS, NETWORK_SERVICE_ENDPOINTS, PODS
from lab.api.kubeconfig import write_kubeconfig
from tests.lab.api.builders import a_pod, an_endpoint

GROUP = ("networkservicemesh.io", "v1")


@pytest.fixture
async def kube(api, tmp_path):
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, api.url)
    kube = await config.new_client_from_config(str(path))
    yield kube
    await kube.close()


@pytest.fixture
def core(kube):
    return k8s.CoreV1Api(kube)


async def test_it_lists_creates_and_reads_pods_as_models(core, store):
    container = k8s.V1Container(name="main", image="busybox", command=["sleep"])
    pod = k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="web", labels={"app": "web"}),
        spec=k8s.V1PodSpec(containers=[container], node_name="node1"),
    )
    created = await core.create_namespaced_pod("default", pod)
    listed = await core.list_pod_for_all_namespaces(field_selector="spec.nodeName=node1", limit=1)

    assert created.metadata.uid == listed.items[0].metadata.uid
    assert listed.items[0].status.phase == "Pending"
    assert listed.metadata.resource_version == str(store.version)


async def test_it_pages_with_continue(core, store):
    for number in range(5):
        store.create(PODS, a_pod(f"p{number}"))
    names, token = [], None
    while token != "":
        page = await core.list_namespaced_pod("default", limit=2, _continue=token)
        names += [pod.metadata.name for pod in page.items]
        token = page.metadata._continue or ""
    assert names == [f"p{number}" for number in range(5)]


async def test_it_watches_from_a_list(core, store):
    store.create(PODS, a_pod("a"))
    version = (await core.list_pod_for_all_namespaces()).metadata.resource_version
    store.create(PODS, a_pod("b"))
    seen = []
    async with asyncio.timeout(20), watch.Watch() as stream:
        async for event in stream.stream(
            core.list_pod_for_all_namespaces, resource_version=version, timeout_seconds=30
        ):
            seen.append((event["type"], event["object"].metadata.name))
            if len(seen) == 2:
                break
            store.delete(PODS, "default", "a")
    assert seen == [("ADDED", "b"), ("DELETED", "a")]


async def test_a_watch_from_before_the_window_raises_410(core, store):
    for number in range(3):
        store.create(PODS, a_pod(f"p{number}"))
    store.shelf(PODS).forget()
    async with asyncio.timeout(20), watch.Watch() as stream:
        with pytest.raises(k8s.exceptions.ApiException) as caught:
            async for _ in stream.stream(core.list_pod_for_all_namespaces, resource_version="2"):
                pass
    assert caught.value.status == 410


async def test_it_patches_annotations_and_status_with_a_uid_precondition(core, store):
    pod = store.create(PODS, a_pod())
    uid = pod["metadata"]["uid"]
    annotate = {"metadata": {"uid": uid, "annotations": {"networkservicemesh.io/status": "[]"}}}
    condition = {"type": "networkservicemesh.io/connected", "status": "True"}
    await core.patch_namespaced_pod(
        "web", "default", annotate, _content_type="application/merge-patch+json"
    )
    await core.patch_namespaced_pod_status(
        "web",
        "default",
        {"metadata": {"uid": uid}, "status": {"conditions": [condition]}},
        _content_type="application/strategic-merge-patch+json",
    )
    with pytest.raises(k8s.exceptions.ApiException) as caught:
        await core.patch_namespaced_pod(
            "web",
            "default",
            {"metadata": {"uid": "other"}},
            _content_type="application/merge-patch+json",
        )

    found = store.get(PODS, "default", "web")
    assert found["metadata"]["annotations"] == {"networkservicemesh.io/status": "[]"}
    assert found["status"]["conditions"] == [condition]
    assert caught.value.status == 422


async def test_it_replaces_status_and_learns_of_conflicts(core, store):
    store.create(PODS, a_pod())
    pod = await core.read_namespaced_pod("web", "default")
    pod.status.phase = "Running"
    await core.replace_namespaced_pod_status("web", "default", pod)
    with pytest.raises(k8s.exceptions.ApiException) as caught:
        await core.replace_namespaced_pod_status("web", "default", pod)
    assert caught.value.status == 409
    assert store.get(PODS, "default", "web")["status"]["phase"] == "Running"


async def test_it_deletes_with_grace_and_binds(core, store):
    store.create(PODS, a_pod())
    target = k8s.V1ObjectReference(kind="Node", name="node1", api_version="v1")
    binding = k8s.V1Binding(metadata=k8s.V1ObjectMeta(name="web"), target=target)
    await core.create_namespaced_pod_binding("web", "default", binding, _preload_content=False)
    marked = await core.delete_namespaced_pod("web", "default", grace_period_seconds=3)
    assert marked.metadata.deletion_grace_period_seconds == 3
    assert store.get(PODS, "default", "web")["spec"]["nodeName"] == "node1"


async def test_it_writes_events_and_counts_them_up(core, store):
    involved = k8s.V1ObjectReference(kind="Pod", name="web", namespace="default")
    event = k8s.CoreV1Event(
        metadata=k8s.V1ObjectMeta(generate_name="web."),
        involved_object=involved,
        reason="Connected",
        message="connected to vpn",
        type="Normal",
        count=1,
    )
    created = await core.create_namespaced_event("default", event)
    await core.patch_namespaced_event(created.metadata.name, "default", {"count": 2})
    (found,) = store.objects(EVENTS, fields="involvedObject.name=web")
    assert (found["count"], found["reason"]) == (2, "Connected")


async def test_custom_objects_have_all_verbs(kube, store):
    custom = k8s.CustomObjectsApi(kube)
    where = (*GROUP, "default", "networkserviceendpoints")
    await custom.create_namespaced_custom_object(*where, an_endpoint())
    endpoint = await custom.get_namespaced_custom_object(*where, "vpn")
    endpoint["spec"]["networkServices"] = ["other"]
    await custom.replace_namespaced_custom_object(*where, "vpn", endpoint)
    operations = [{"op": "add", "path": "/status", "value": {"pods": 2}}]
    await custom.patch_namespaced_custom_object_status(*where, "vpn", operations)
    listed = await custom.list_cluster_custom_object(*GROUP, "networkserviceendpoints")
    assert listed["items"] == store.objects(NETWORK_SERVICE_ENDPOINTS)
    assert listed["items"][0]["status"] == {"pods": 2}
    await custom.delete_namespaced_custom_object(*where, "vpn")
    assert store.objects(NETWORK_SERVICE_ENDPOINTS) == []


async def test_nodes_services_and_namespaces_read_as_models(kube, core, store):
    await core.create_node({"metadata": {"name": "node1"}, "spec": {"podCIDR": "10.244.1.0/24"}})
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await core.patch_node_status("node1", ready)
    service = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}
    created = await core.create_namespaced_service("default", service)

    node = (await core.list_node()).items[0]
    assert (node.status.conditions[0].type, node.spec.pod_cidr) == ("Ready", "10.244.1.0/24")
    assert created.spec.cluster_ip.startswith("10.96.")
    assert (await core.list_namespace()).items[0].status.phase == "Active"
    assert (await k8s.VersionApi(kube).get_code()).minor == "32"
