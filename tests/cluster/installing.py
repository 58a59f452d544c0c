"""The base installed into the cluster of NSM_TEST_KUBECONFIG by kubectl alone, as docs/install.md says.

It needs nodes whose kubelets find the image NSM_TEST_IMAGE (and, for an upgrade to another one, NSM_TEST_NEXT_IMAGE).
The cluster is a throw-away one: what the mesh leaves behind is removed with it.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.sides import REAL

IMAGE = os.environ.get("NSM_TEST_IMAGE", "")
NEXT_IMAGE = os.environ.get("NSM_TEST_NEXT_IMAGE", "")
SYSTEM = "nsm-system"
WORKLOADS = (
    *("statefulset/nats", "deployment/auth", "deployment/watcher", "deployment/ipam"),
    *("daemonset/plumber", "daemonset/dns"),
)
ROOT = Path(__file__).parents[2]
_SECONDS = 300

Json = dict[str, Any]


def kubectl(*words: str, given: str = "", seconds: float = _SECONDS) -> str:
    """What it prints. Raises AssertionError with all of it."""
    done = subprocess.run(
        ["kubectl", "--kubeconfig", REAL, *words],
        check=False,
        input=given,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, f"kubectl {' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def get(*words: str) -> Json:
    found: Json = json.loads(kubectl("get", *words, "-o", "json"))
    return found


def apply(*objects: Json) -> None:
    kubectl("apply", "-f", "-", given=yaml.safe_dump_all(objects))


def nodes() -> list[str]:
    """Nodes that run Pods: Ready, by word of a kubelet, and free for all."""

    def runs(node: Json) -> bool:
        status = node["status"]
        is_ready = {"Ready": "True"}.items() <= {
            each["type"]: each["status"] for each in status.get("conditions", [])
        }.items()
        is_free = not any(
            each["effect"] != "PreferNoSchedule" for each in node["spec"].get("taints", [])
        )
        return is_ready and is_free and bool(status.get("nodeInfo", {}).get("kubeletVersion"))

    return [each["metadata"]["name"] for each in get("nodes")["items"] if runs(each)]


class Mesh:
    """The installation: applied, upgraded, asked, removed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def install(self, image: str = IMAGE) -> None:
        """Returns when every workload is rolled out."""
        name, _, tag = image.rpartition(":")
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [os.path.relpath(ROOT / "k8s", self._directory)],
            "images": [{"name": "nsm-on-nats", "newName": name, "newTag": tag}],
        }
        (self._directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        kubectl("-n", SYSTEM, "delete", "job", "nsm-install", "--ignore-not-found")
        kubectl("apply", "-k", str(self._directory))
        self.rolled_out()

    def restart(self) -> None:
        kubectl("-n", SYSTEM, "rollout", "restart", *WORKLOADS)
        self.rolled_out()

    def rolled_out(self) -> None:
        for each in WORKLOADS:
            kubectl("-n", SYSTEM, "rollout", "status", each, "--timeout", f"{_SECONDS}s")

    def remove(self) -> None:
        kubectl("delete", "-k", str(self._directory), "--ignore-not-found")
        kubectl("wait", "--for=delete", f"namespace/{SYSTEM}", f"--timeout={_SECONDS}s")

    def clean(self) -> None:
        """Nothing is left, on nodes neither: connections are taken back first."""
        kubectl("delete", "networkserviceendpoints,networkservices", "--all", "-A")
        until(lambda: not self.kept(), "no plumber keeps a connection")
        self.remove()
        kubectl("delete", "-f", str(ROOT / "k8s/base/crds"), "--ignore-not-found")

    def kept(self) -> list[str]:
        """Files of connections that the plumbers keep on their nodes."""
        places = [self.exec(pod, "ls", "/run/nsm/connections") for pod in self.pods("plumber")]
        return [name for each in places for name in each.split()]

    def pods(self, name: str, *more: str) -> list[str]:
        label = f"app.kubernetes.io/name={name}"
        return kubectl("-n", SYSTEM, "get", "pods", "-l", label, "-o", "name", *more).split()

    def exec(self, pod: str, *command: str, given: str = "") -> str:
        return kubectl("-n", SYSTEM, "exec", "-i", pod, "--", *command, given=given)

    def nsm(self, *words: str, pod: str = "deploy/ipam") -> str:
        """The command in a Pod of ours, with the token of a viewer: docs/operations.md."""
        token = kubectl("-n", SYSTEM, "create", "token", "nsm-viewer", "--audience", "nats.nsm")
        return self.exec(pod, "env", "NSM_TOKEN_FILE=-", "nsm", *words, given=token)


@contextlib.contextmanager
def pinging(namespace: str, pod: str, rate: int, *addresses: str) -> Iterator[Json]:
    """A Pod pings for the length of a block; what came of it is there after it, by address."""
    command = ["kubectl", "--kubeconfig", REAL, "-n", namespace, "exec", "-i", pod, "--"]
    command += ["python", "/story/pinging.py", str(rate), *addresses]
    outcome: Json = {}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "pinging\n"
        try:
            yield outcome
        finally:
            process.stdin.close()
            outcome |= json.loads(process.stdout.read())


def until(holds: Any, what: str, seconds: float = 60) -> None:
    """A cluster tells nobody when it has got around to something: it is asked."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.5)
