"""How a Pod waits for its network services: the examples of docs/startup.md, as they stand there."""

from typing import Any

import pytest
import yaml

from schemas.annotation import CONDITION
from tests.e2e.cluster import ROOT, Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lab"), pytest.mark.timeout(180)]

EXAMPLES = ROOT / "examples" / "start-up"
WITH_IPV6 = 'grep -q " 00 [0-9a-f]* *nsm-1$" /proc/net/if_inet6'


def test_the_page_shows_what_the_examples_hold():
    page = (ROOT / "docs" / "startup.md").read_text()
    assert f"`{WITH_IPV6}`" in page
    snippets = [yaml.safe_load(part.partition("```")[0]) for part in page.split("```yaml\n")[1:]]
    examples = ["readiness-gate", "init-container"]
    for snippet, example in zip(snippets, examples, strict=True):
        pod = yaml.safe_load((EXAMPLES / f"{example}.yaml").read_text())
        assert f"examples/start-up/{example}.yaml" in page
        for part, fields in snippet.items():
            assert fields.items() <= pod[part].items()


def apply(cluster: Cluster, example: str, namespace: str) -> None:
    objects = list(yaml.safe_load_all((EXAMPLES / f"{example}.yaml").read_text()))
    for each in objects:
        each["metadata"]["namespace"] = namespace
    cluster.apply(*objects)


def status(cluster: Cluster, name: str, namespace: str) -> dict[str, Any]:
    (found,) = [p for p in cluster.items("pods", namespace) if p["metadata"]["name"] == name]
    return dict(found.get("status", {}))


def conditions(cluster: Cluster, name: str, namespace: str) -> dict[str, str]:
    listed = status(cluster, name, namespace).get("conditions", [])
    return {each["type"]: each["status"] for each in listed}


def test_a_pod_with_the_gate_runs_at_once_and_is_ready_when_connected(cluster, namespace):
    name = "ready-when-connected"
    apply(cluster, "readiness-gate", namespace)
    cluster.refused(name, namespace, "NoEndpoint")
    cluster.until(
        "its container runs",
        lambda: conditions(cluster, name, namespace).get("ContainersReady") == "True",
    )
    assert conditions(cluster, name, namespace)["Ready"] == "False"

    apply(cluster, "endpoint", namespace)
    cluster.connected(name, namespace)
    cluster.until("it is Ready", lambda: conditions(cluster, name, namespace)["Ready"] == "True")
    assert conditions(cluster, name, namespace)[CONDITION] == "True"

    cluster.nsm("lab", "delete", "pod", "echo", "-n", namespace)
    cluster.until(
        "it is Ready no more", lambda: conditions(cluster, name, namespace)["Ready"] == "False"
    )
    assert status(cluster, name, namespace)["containerStatuses"][0]["restartCount"] == 0


def test_an_init_container_waits_and_what_follows_finds_the_interface(cluster, namespace):
    name = "started-when-connected"
    apply(cluster, "init-container", namespace)
    cluster.refused(name, namespace, "NoEndpoint")
    cluster.until(
        "its init container runs",
        lambda: (
            "running"
            in (status(cluster, name, namespace).get("initContainerStatuses") or [{"state": {}}])[
                0
            ]["state"]
        ),
    )
    assert status(cluster, name, namespace)["phase"] == "Pending"

    apply(cluster, "endpoint", namespace)
    cluster.until(
        "its container runs",
        lambda: conditions(cluster, name, namespace).get("ContainersReady") == "True",
    )
    (container,) = status(cluster, name, namespace)["containerStatuses"]
    assert container["restartCount"] == 0
    addresses = cluster.interfaces(name, namespace)["nsm-1"]["addresses"]
    told = cluster.nsm("lab", "logs", f"pod/{name}", "-n", namespace, "-c", "app")
    assert f"{told.removeprefix('started with ').strip()}/32" in addresses
    cluster.nsm("lab", "exec", name, "-n", namespace, "--", "sh", "-c", WITH_IPV6)
    other = WITH_IPV6.replace("nsm-1", "nsm-2")
    cluster.nsm("lab", "exec", name, "-n", namespace, "--", "sh", "-c", other, expect=1)
