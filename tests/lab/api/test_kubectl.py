"""kubectl itself, where this machine has it: what people will type against the lab."""

import asyncio
import os
import shutil
import subprocess

import jwt
import msgspec
import pytest

from lab.api.kinds import (
    CONFIG_MAPS,
    EVENTS,
    NETWORK_SERVICE_ENDPOINTS,
    NETWORK_SERVICES,
    NODES,
    PODS,
)
from lab.api.kubeconfig import write_kubeconfig
from tests.lab.api.builders import a_config_map, a_pod, an_endpoint, an_event

KUBECTL = shutil.which("kubectl") or ""


def works():
    if not KUBECTL:
        return False
    command = [KUBECTL, "version", "--client", "-o", "json"]
    return subprocess.run(command, capture_output=True, check=False, timeout=30).returncode == 0


pytestmark = pytest.mark.skipif(not works(), reason="no working kubectl on this machine")

MANIFEST = """
apiVersion: v1
kind: Pod
metadata:
  name: web
  annotations: {networkservicemesh.io: vpn}
spec:
  containers:
  - {name: main, image: busybox, env: [{name: A, value: b}], ports: [{containerPort: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: networkservicemesh.io/v1
kind: NetworkServiceEndpoint
metadata: {name: vpn}
spec: {networkServices: [vpn]}
"""


@pytest.fixture
def environment(api, tmp_path):
    path = tmp_path / "kubeconfig"
    write_kubeconfig(path, api.url)
    return os.environ | {"KUBECONFIG": str(path), "HOME": str(tmp_path)}


@pytest.fixture
def kubectl(environment):
    async def kubectl(*arguments, stdin="", code=0):
        process = await asyncio.create_subprocess_exec(
            KUBECTL,
            *arguments,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(30):
            out, _ = await process.communicate(stdin.encode())
        assert process.returncode == code, out.decode()
        return out.decode()

    return kubectl


async def test_get_shows_tables_wide_and_json(kubectl, store):
    store.create(PODS, a_pod(node="node1"))
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())

    plain = (await kubectl("get", "pods")).split("\n")
    wide = await kubectl("get", "po", "-A", "-o", "wide")
    listed = msgspec.json.decode(await kubectl("get", "pods", "-o", "json"))

    assert plain[0].split() == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert plain[1].split()[:4] == ["web", "0/1", "Pending", "0"]
    assert "NODE" in wide
    assert "node1" in wide
    assert listed["items"] == [store.get(PODS, "default", "web")]
    assert "vpn" in await kubectl("get", "nse")
    assert "pod/web" in await kubectl("get", "all")


async def test_apply_says_created_unchanged_and_configured(kubectl, store):
    said = [await kubectl("apply", "-f", "-", stdin=MANIFEST) for _ in range(2)]
    said.append(await kubectl("apply", "-f", "-", stdin=MANIFEST.replace(": vpn}", ": other}", 1)))

    outcomes = [[line.split()[-1] for line in text.splitlines()] for text in said]
    assert outcomes == [
        ["created"] * 3,
        ["unchanged"] * 3,
        ["configured", "unchanged", "unchanged"],
    ]
    annotations = store.get(PODS, "default", "web")["metadata"]["annotations"]
    assert annotations["networkservicemesh.io"] == "other"


async def test_an_annotation_left_out_is_removed_by_apply(kubectl, store):
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    without = MANIFEST.replace("  annotations: {networkservicemesh.io: vpn}\n", "")
    await kubectl("apply", "-f", "-", stdin=without)
    annotations = store.get(PODS, "default", "web")["metadata"]["annotations"]
    assert "networkservicemesh.io" not in annotations


async def test_server_side_apply_and_diff_agree_that_nothing_changes(kubectl):
    await kubectl("apply", "--server-side", "-f", "-", stdin=MANIFEST)
    assert await kubectl("diff", "-f", "-", stdin=MANIFEST) == ""


async def test_annotate_adds_overwrites_and_removes(kubectl, store):
    def annotations():
        return store.get(PODS, "default", "web")["metadata"].get("annotations", {})

    store.create(PODS, a_pod())
    await kubectl("annotate", "pod", "web", "networkservicemesh.io=vpn")
    assert annotations() == {"networkservicemesh.io": "vpn"}
    await kubectl("annotate", "pod", "web", "networkservicemesh.io=two", code=1)
    await kubectl("annotate", "pod", "web", "networkservicemesh.io=two", "--overwrite")
    assert annotations() == {"networkservicemesh.io": "two"}
    await kubectl("annotate", "pod", "web", "networkservicemesh.io-")
    assert annotations() == {}


async def test_label_patch_and_set_image(kubectl, store):
    store.create(PODS, a_pod())
    await kubectl("label", "pod", "web", "app=web")
    await kubectl("patch", "pod", "web", "-p", '{"metadata":{"labels":{"tier":"front"}}}')
    await kubectl("set", "image", "pod/web", "main=other")
    pod = store.get(PODS, "default", "web")
    assert pod["metadata"]["labels"] == {"app": "web", "tier": "front"}
    assert pod["spec"]["containers"][0]["image"] == "other"


async def test_create_knows_namespaces_config_maps_and_services(kubectl, store):
    await kubectl("create", "namespace", "team")
    await kubectl("create", "configmap", "settings", "-n", "team", "--from-literal=a=b")
    await kubectl("create", "service", "clusterip", "web", "-n", "team", "--tcp=80:8080")
    assert store.get(CONFIG_MAPS, "team", "settings")["data"] == {"a": "b"}
    assert "10.96.1.0" in await kubectl("get", "svc", "-n", "team")
    await kubectl("delete", "namespace", "team")
    assert store.find(CONFIG_MAPS, "team", "settings") is None


async def test_delete_waits_until_the_kubelet_confirms(kubectl, store):
    store.create(PODS, a_pod(node="node1"))
    marked = asyncio.Event()
    store.watch(PODS, lambda *_: marked.set(), replay=False)
    async with asyncio.TaskGroup() as group:
        deleting = group.create_task(kubectl("delete", "pod", "web"))
        await marked.wait()
        assert store.get(PODS, "default", "web")["metadata"]["deletionTimestamp"]
        while len(store.shelf(PODS)._listeners) < 2:  # kubectl watches too now
            await asyncio.sleep(0.01)
        assert not deleting.done()
        store.delete(PODS, "default", "web", grace_seconds=0)
    assert 'pod "web" deleted' in deleting.result()


async def test_wait_returns_when_the_condition_holds(kubectl, store):
    store.create(PODS, a_pod())
    condition = "networkservicemesh.io/connected"
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(kubectl("wait", "pod/web", f"--for=condition={condition}"))
        while not store.shelf(PODS)._listeners:
            await asyncio.sleep(0.01)
        status = {"conditions": [{"type": condition, "status": "True"}]}
        store.patch(PODS, "default", "web", {"status": status}, status=True)
    assert "condition met" in waiting.result()


async def test_get_w_follows_changes(environment, store):
    store.create(PODS, a_pod())
    process = await asyncio.create_subprocess_exec(
        KUBECTL, "get", "pods", "-w", "-o", "wide", env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            assert (await process.stdout.readline()).startswith(b"NAME")
            assert (await process.stdout.readline()).startswith(b"web")
            store.bind("default", "web", "node1")
            assert b"node1" in await process.stdout.readline()
            store.delete(PODS, "default", "web")
            assert b"Terminating" in await process.stdout.readline()
    finally:
        process.terminate()
        await process.communicate()


async def test_describe_shows_a_pod_with_its_events(kubectl, store):
    pod = store.create(PODS, a_pod())
    involved = {"kind": "Pod", "name": "web", "namespace": "default", "uid": pod["metadata"]["uid"]}
    store.create(EVENTS, an_event(involvedObject=involved))
    store.create(NODES, {"metadata": {"name": "node1"}})
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())

    assert "connected to vpn" in await kubectl("describe", "pod", "web")
    assert "Network Services" in await kubectl("describe", "nse", "vpn")
    assert "node1" in await kubectl("describe", "node", "node1")
    events = await kubectl("get", "events")
    assert events.split("\n")[0].split() == ["LAST", "SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"]
    assert "pod/web" in events
    assert "connected to vpn" in await kubectl("events")


async def test_a_list_is_applied_and_its_items_are_checked(kubectl, store):
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    listed = await kubectl("get", "nse,pods", "-o", "yaml")
    assert "kind: List" in listed
    said = await kubectl("apply", "-f", "-", stdin=listed.replace("image: busybox", "image: other"))
    assert "pod/web configured" in said
    assert store.get(PODS, "default", "web")["spec"]["containers"][0]["image"] == "other"
    bad = (await kubectl("get", "pods", "-o", "yaml")).replace("  containers:", "  contianers:")
    said = await kubectl("apply", "-f", "-", stdin=bad, code=1)
    assert 'unknown field "spec.contianers"' in said


async def test_an_invalid_object_is_told_by_its_field(kubectl):
    bad = MANIFEST.replace("networkServices: [vpn]", "networkServices: vpn")
    said = await kubectl("apply", "-f", "-", stdin=bad, code=1)
    assert "spec.networkServices in body must be of type array" in said


async def test_a_dry_run_and_explain_and_selectors(kubectl, store):
    await kubectl("run", "web", "--image=busybox", "--dry-run=server")
    assert store.find(PODS, "default", "web") is None
    assert "podSelector" in await kubectl("explain", "nse.spec")
    store.create(CONFIG_MAPS, a_config_map(labels={"app": "x"}))
    assert "settings" in await kubectl("get", "cm", "-l", "app in (x)")
    said = await kubectl("get", "cm", "--field-selector", "metadata.name=other")
    assert "No resources found" in said


CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: networkservices.networkservicemesh.io}
spec:
  group: networkservicemesh.io
  scope: Namespaced
  names: {plural: networkservices, kind: NetworkService, shortNames: [netsvc]}
  versions:
  - name: v1
    served: true
    storage: true
    additionalPrinterColumns: [{name: Colour, type: string, jsonPath: .spec.colour}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {colour: {type: string, enum: [red, blue]}}}
"""
SERVICE = """
apiVersion: networkservicemesh.io/v1
kind: NetworkService
metadata: {name: svc}
spec: {colour: red}
"""


async def test_definitions_are_deleted_applied_waited_for_and_obeyed(kubectl):
    assert "networkservices.networkservicemesh.io" in await kubectl("get", "crds")
    await kubectl("delete", "crd", NETWORK_SERVICES.resource)
    said = await kubectl("get", "netsvc", code=1)
    assert "could not find the requested resource" in said
    await kubectl("apply", "-f", "-", stdin=CRD)
    await kubectl("wait", "--for=condition=Established", f"crd/{NETWORK_SERVICES.resource}")
    assert "unchanged" in await kubectl("apply", "-f", "-", stdin=CRD)
    await kubectl("apply", "-f", "-", stdin=SERVICE)
    listed = (await kubectl("get", "netsvc")).split("\n")
    assert (listed[0].split(), listed[1].split()) == (["NAME", "COLOUR"], ["svc", "red"])
    said = await kubectl("apply", "-f", "-", stdin=SERVICE.replace("red", "green"), code=1)
    assert 'supported values: "red", "blue"' in said
    said = await kubectl("apply", "-f", "-", stdin=SERVICE.replace("colour", "color"), code=1)
    assert 'unknown field "spec.color"' in said
    assert "colour" in await kubectl("explain", "netsvc.spec")


async def test_service_cidrs_are_shown_and_made(kubectl):
    assert "10.96.0.0/16" in await kubectl("get", "servicecidrs")
    extra = MANIFEST_OF_CIDR
    assert "created" in await kubectl("apply", "-f", "-", stdin=extra)
    assert "10.97.0.0/16" in await kubectl("get", "servicecidr", "extra", "-o", "yaml")
    said = await kubectl("apply", "-f", "-", stdin=extra.replace("97", "98"), code=1)
    assert "field is immutable" in said


MANIFEST_OF_CIDR = """
apiVersion: networking.k8s.io/v1
kind: ServiceCIDR
metadata: {name: extra}
spec: {cidrs: [10.97.0.0/16]}
"""


async def test_every_form_of_patch_and_a_typo_in_one(kubectl, store):
    store.create(PODS, a_pod(labels={"a": "b"}))
    strategic = '{"spec":{"containers":[{"name":"main","image":"new"}]}}'
    await kubectl("patch", "pod", "web", "-p", strategic)
    await kubectl("patch", "pod", "web", "--type=merge", "-p", '{"metadata":{"labels":{"a":null}}}')
    test = '{"op":"test","path":"/spec/containers/0/image","value":"new"}'
    add = '{"op":"add","path":"/metadata/labels","value":{"c":"d"}}'
    await kubectl("patch", "pod", "web", "--type=json", "-p", f"[{test},{add}]")
    status = '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}'
    await kubectl("patch", "pod", "web", "--subresource=status", "-p", status)
    pod = store.get(PODS, "default", "web")
    assert pod["metadata"]["labels"] == {"c": "d"}
    assert pod["spec"]["containers"][0]["image"] == "new"
    assert pod["status"]["conditions"] == [{"type": "Ready", "status": "True"}]
    typo = MANIFEST.replace("containers:", "contianers: []\n  containers:", 1)
    assert 'unknown field "spec.contianers"' in await kubectl(
        "apply", "-f", "-", stdin=typo, code=1
    )


async def test_create_token_prints_a_token_for_the_audience(kubectl):
    await kubectl("create", "serviceaccount", "person")
    for more in ((), ("--duration", "20m")):
        token = await kubectl("create", "token", "person", "--audience", "nats.nsm", *more)
        claims = jwt.decode(token.strip(), options={"verify_signature": False})
        assert claims["aud"] == ["nats.nsm"]
        assert claims["sub"] == "system:serviceaccount:default:person"
    assert claims["exp"] - claims["iat"] == 20 * 60
