"""The base on a real cluster with kubelets: installed, used, upgraded, removed, installed again.

These stories need what tests/cluster/installing.py names, and the cluster for themselves.
"""

import json
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.installing import (
    IMAGE,
    NEXT_IMAGE,
    ROOT,
    SYSTEM,
    Mesh,
    apply,
    get,
    kubectl,
    nodes,
    pinging,
    until,
)
from tests.cluster.sides import REAL

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("install")]

NAMESPACE = f"nsm-test-{secrets.token_hex(4)}"
INTERFACE = "nsm-story"
SERVER = ("172.30.77.1", "2001:db8:77::1")  # the first of each prefix, on all its links
RECORD = "192.0.2.80"
CLIENTS = ("near", "far")
CONNECTED = "networkservicemesh.io/connected"
LOOK = """
import json, os
from services._node import nft, nft_tunnels
with nft.Nft() as socket:
    table = nft_tunnels.stands(socket)
print(json.dumps({"files": os.listdir("/run/nsm/connections"), "table": table}))
"""


@pytest.fixture(scope="module")
def two() -> tuple[str, str]:
    """Two nodes that run Pods."""
    for missing, reason in (
        (not REAL, "no real cluster: NSM_TEST_KUBECONFIG names none"),
        (not IMAGE, "no image that the cluster's nodes have: NSM_TEST_IMAGE names none"),
        (shutil.which("kubectl") is None, "no kubectl on PATH"),
    ):
        if missing:
            pytest.skip(reason)
    found = nodes()
    if len(found) < 2:
        pytest.skip(f"the cluster has {len(found)} nodes that run Pods, this takes two")
    return found[0], found[1]


@pytest.fixture(scope="module")
def mesh(two: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    namespaces = [each["metadata"]["name"] for each in get("namespaces")["items"]]
    assert SYSTEM not in namespaces, "the mesh is there; take a cluster that nobody needs"
    installed = Mesh(tmp_path_factory.mktemp("overlay"))
    try:
        installed.install()
        _begin(*two)
        yield installed
        installed.clean()
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=false")
        installed.remove()


def _begin(one: str, other: str) -> None:
    """An endpoint with DNS, a client beside it, a client on another node, and who looks at both nodes."""
    labels = {"pod-security.kubernetes.io/enforce": "privileged"}
    apply(_object("Namespace", NAMESPACE, "v1", labels=labels))
    files = (Path(__file__).with_name("pinging.py"), ROOT / "tests/e2e/inpod.py")
    data = {each.name: each.read_text() for each in files}
    endpoint = {
        "networkServices": ["story"],
        "podSelector": {"matchLabels": {"app": "server"}},
        "ipam": {"prefixes": ["172.30.77.0/24", "2001:db8:77::/112"]},
        "dns": {"domains": ["story.example"]},
    }
    gates = [{"conditionType": CONNECTED}]
    asks = {"networkservicemesh.io": f"story/{INTERFACE}"}
    dns = ["nsm", "dns-server", "--zone", "story.example", "--record", f"www={RECORD}"]
    server = _pod("server", one, ["python", "/story/inpod.py", "serve"], labels={"app": "server"})
    server["spec"]["containers"].append(
        {"name": "dns", "image": IMAGE, "command": dns, "securityContext": {"runAsUser": 0}}
    )
    apply(
        _object("ConfigMap", "story", "v1") | {"data": data},
        _object("NetworkServiceEndpoint", "story", "networkservicemesh.io/v1") | {"spec": endpoint},
        server,
        _pod("near", one, ["sleep", "infinity"], annotations=asks, readinessGates=gates),
        _pod("far", other, ["sleep", "infinity"], annotations=asks, readinessGates=gates),
        _looker("look-1", one),
        _looker("look-2", other),
    )
    _wait("Ready", "server", *CLIENTS, "look-1", "look-2")


def _object(kind: str, name: str, version: str, **metadata: Any) -> dict[str, Any]:
    if kind != "Namespace":
        metadata["namespace"] = NAMESPACE
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name} | metadata}


def _pod(
    name: str,
    node: str,
    command: list[str],
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    ping = {"name": "net.ipv4.ping_group_range", "value": "0 65535"}
    mount = {"name": "story", "mountPath": "/story"}
    container = {"name": "app", "image": IMAGE, "command": command, "volumeMounts": [mount]}
    whole = {
        "nodeName": node,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {"sysctls": [ping]},
        "containers": [container],
        "volumes": [{"name": "story", "configMap": {"name": "story"}}],
    }
    found = _object("Pod", name, "v1", labels=labels or {}, annotations=annotations or {})
    return found | {"spec": whole | spec}


def _looker(name: str, node: str) -> dict[str, Any]:
    pod = _pod(name, node, ["sleep", "infinity"], hostNetwork=True, securityContext={})
    state = {"name": "state", "hostPath": {"path": "/run/nsm", "type": "Directory"}}
    pod["spec"]["volumes"].append(state)
    container = pod["spec"]["containers"][0]
    container["volumeMounts"].append({"name": "state", "mountPath": "/run/nsm", "readOnly": True})
    rights = {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}}
    container["securityContext"] = rights
    return pod


def _in(pod: str, *command: str) -> str:
    return kubectl("-n", NAMESPACE, "exec", pod, "-c", "app", "--", *command)


def _wait(condition: str, *pods: str) -> None:
    named = [f"pod/{each}" for each in pods]
    kubectl("-n", NAMESPACE, "wait", f"--for=condition={condition}", "--timeout=120s", *named)


def _status(pod: str) -> dict[str, Any]:
    annotations = get("-n", NAMESPACE, "pod", pod)["metadata"]["annotations"]
    (found,) = json.loads(annotations["networkservicemesh.io/status"])
    assert isinstance(found, dict)
    return found


def _all_well(mesh: Mesh) -> None:
    said = ""

    def well() -> bool:
        nonlocal said
        try:
            said = mesh.nsm("status")
        except AssertionError as exc:
            said = str(exc)
        return "all is well" in said

    try:
        until(well, "all is well")
    except AssertionError as exc:
        raise AssertionError(said) from exc


def _nothing_lost(outcome: dict[str, Any]) -> None:
    assert {address: each["lost"] for address, each in outcome.items()} == {
        each: [] for each in SERVER
    }
    assert all(each["sent"] for each in outcome.values())


def test_after_one_apply_everything_runs_and_nothing_was_restarted(mesh):
    pods = get("-n", SYSTEM, "pods")["items"]
    restarts = {
        each["metadata"]["name"]: [c["restartCount"] for c in each["status"]["containerStatuses"]]
        for each in pods
    }
    assert {name: counts for name, counts in restarts.items() if any(counts)} == {}
    assert {each["status"]["phase"] for each in pods} <= {"Running", "Succeeded"}
    _all_well(mesh)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_pod_reaches_its_endpoint_on_its_node_and_on_another(mesh, client):
    found = _status(client)
    own = sorted(found["ips"])
    ends = [
        {"own": mine, "peer": peer, "mtu": found["mtu"]}
        for mine, peer in zip(own, SERVER, strict=True)
    ]
    for met in json.loads(_in(client, "python", "/story/inpod.py", "meet", json.dumps(ends))):
        assert (met["first_ping"], met["full_ping"]) == ("answered", "answered"), met
        assert met["echoed"], met


@pytest.mark.parametrize("client", CLIENTS)
def test_a_pod_resolves_names_of_its_network_service_and_of_the_cluster(mesh, client):
    ask = "import socket, sys; print(*map(socket.gethostbyname, sys.argv[1:]))"
    kube = get("-n", "default", "service", "kubernetes")["spec"]["clusterIP"]
    names = ("www.story.example", "kubernetes.default.svc")

    def resolved() -> list[str]:
        return _in(client, "sh", "-c", f"python -c '{ask}' {' '.join(names)} || true").split()

    until(lambda: resolved() == [RECORD, kube], "both names resolve")


def test_a_pod_tells_what_became_of_its_annotation(mesh):
    for client in CLIENTS:
        said = kubectl("-n", NAMESPACE, "describe", "pod", client)
        assert f"{INTERFACE} is connected to {NAMESPACE}/story" in said
        conditions = get("-n", NAMESPACE, "pod", client)["status"]["conditions"]
        assert (CONNECTED, "True") in [(each["type"], each["status"]) for each in conditions]


def test_the_plumbers_pod_explains_a_pod_of_its_node_down_to_the_kernel(mesh, two):
    (plumber,) = mesh.pods("plumber", "--field-selector", f"spec.nodeName={two[1]}")
    said = mesh.nsm("explain", f"{NAMESPACE}/far", pod=plumber)
    assert "all is well" in said
    assert f"kernel: {INTERFACE}" in said
    assert "by a CNI result" in mesh.exec(plumber, "nsm", "plumb", "explain", f"{NAMESPACE}/far")


def test_an_upgrade_of_every_component_loses_no_reply(mesh):
    before = {each["metadata"]["uid"] for each in get("-n", SYSTEM, "pods")["items"]}
    with (
        pinging(NAMESPACE, "near", 100, *SERVER) as near,
        pinging(NAMESPACE, "far", 100, *SERVER) as far,
    ):
        if NEXT_IMAGE:
            mesh.install(NEXT_IMAGE)
        else:
            mesh.restart()
        _all_well(mesh)
    _nothing_lost(near)
    _nothing_lost(far)
    after = get("-n", SYSTEM, "pods", "-l", "app.kubernetes.io/name!=install")["items"]
    assert not before & {each["metadata"]["uid"] for each in after}


def test_a_removal_leaves_what_the_docs_say_and_who_installs_again_finds_it(mesh):
    """docs/operations.md, Removal: what forwards goes on, and is adopted."""
    status = {client: _status(client) for client in CLIENTS}
    with (
        pinging(NAMESPACE, "near", 10, *SERVER) as near,
        pinging(NAMESPACE, "far", 10, *SERVER) as far,
    ):
        mesh.remove()
        label = "app.kubernetes.io/part-of=nsm"
        for kind in ("clusterroles", "clusterrolebindings"):
            assert get(kind, "-l", label)["items"] == []
        assert [each["metadata"]["name"] for each in _definitions()]
        for looker in ("look-1", "look-2"):
            left = json.loads(_in(looker, "python", "-c", LOOK))
            assert left["files"]
            assert left["table"]
        mesh.install()
        _all_well(mesh)
    _nothing_lost(near)
    _nothing_lost(far)
    assert {client: _status(client) for client in CLIENTS} == status


def _definitions() -> list[dict[str, Any]]:
    found = get("customresourcedefinitions")["items"]
    return [each for each in found if each["spec"]["group"] == "networkservicemesh.io"]
