"""What the stories of links are made of: Pods that answer, ways into them, and what was granted to them."""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from schemas.grant import Connection
from schemas.grant import End as GrantedEnd
from tests.e2e.cluster import Cluster, pod
from tests.e2e.witness import picture

INPOD = str(Path(__file__).parent / "inpod.py")


def answering(
    name: str, namespace: str, annotation: str | None = None, *, node: str, **spec: Any
) -> dict[str, Any]:
    """A Pod that echoes TCP and tells its name to who asks; with label app=<app>, else its own name."""
    container = {"name": "c", "image": "none", "command": [sys.executable, INPOD, "serve"]}
    labels = {"app": spec.pop("app", name)}
    return pod(
        name, namespace, annotation, nodeName=node, labels=labels, containers=[container], **spec
    )


def offer(name: str, namespace: str, *prefixes: str, app: str, **spec: Any) -> dict[str, Any]:
    """An endpoint of the network service of its own name, in every Pod with that label."""
    return {
        "apiVersion": "networkservicemesh.io/v1",
        "kind": "NetworkServiceEndpoint",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "networkServices": [name],
            "podSelector": {"matchLabels": {"app": app}},
            "ipam": {"prefixes": list(prefixes)},
            **spec,
        },
    }


def connected(cluster: Cluster, namespace: str, *pods: str, timeout: str = "60s") -> None:
    names = [f"pod/{name}" for name in pods]
    cluster.nsm("lab", "wait", *names, "-n", namespace, "--timeout", timeout)


def grants(cluster: Cluster, namespace: str) -> dict[str, Connection]:
    """By the client's Pod and interface, written `pod/interface`."""
    return {
        f"{c.client.pod.name}/{c.client.interface}": c
        for c in picture(cluster).grants()
        if c.client.pod.namespace == namespace
    }


def states(cluster: Cluster, namespace: str, interface: str) -> dict[str, str]:
    """What nodes say of a connection, by node: `ready`, or the reason why it is not."""
    found = {}
    for key, status in picture(cluster).statuses.items():
        if (key.namespace, key.interface) == (namespace, interface):
            for end in (status.client, status.server):
                if end is not None:
                    found[key.node] = "ready" if end.state == "ready" else end.reason
    return found


def bare(end: GrantedEnd) -> list[str]:
    """An end's addresses without lengths."""
    return [address.split("/")[0] for address in end.addresses]


def execute(cluster: Cluster, name: str, namespace: str, *words: str) -> str:
    return cluster.nsm("lab", "exec", name, "-n", namespace, "--", *words)


def inside(cluster: Cluster, name: str, namespace: str, *words: Any) -> Any:
    """What a verb of `inpod` says in a Pod."""
    said = execute(cluster, name, namespace, *_verb(words))
    return json.loads(said.splitlines()[-1]) if said.strip() else None


class Staying:
    """A verb of `inpod` that goes on in a Pod until it is stopped."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def line(self) -> Any:
        """The next thing it says."""
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        assert text, "it ended"
        return json.loads(text)

    def stop(self) -> list[Any]:
        """All that it has said since."""
        self._process.send_signal(signal.SIGINT)
        output, _ = self._process.communicate(timeout=20)
        return [json.loads(line) for line in output.splitlines()]


@contextmanager
def staying(cluster: Cluster, name: str, namespace: str, *words: Any) -> Iterator[Staying]:
    process = cluster.start("lab", "exec", name, "-n", namespace, "--", *_verb(words))
    try:
        yield Staying(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def delete_at_once(cluster: Cluster, plural: str, name: str, namespace: str) -> float:
    """Delete by the API itself; when, by the clock that Pods know, too."""
    url = json.loads((cluster.directory / "lab.json").read_text())["api_url"]
    request = urllib.request.Request(
        f"{url}/api/v1/namespaces/{namespace}/{plural}/{name}?gracePeriodSeconds=0",
        method="DELETE",
    )
    at = time.monotonic()
    urllib.request.urlopen(request, timeout=10).close()
    return at


def ways(cluster: Cluster, name: str, namespace: str, *asked: str) -> list[str]:
    """The answers of `ip route get` in a Pod, each on one line."""
    script = "; ".join(f"echo $(ip route get {words} 2>&1)" for words in asked)
    return execute(cluster, name, namespace, "sh", "-c", script).splitlines()


def _verb(words: tuple[Any, ...]) -> list[str]:
    return [
        sys.executable,
        INPOD,
        *(word if isinstance(word, str) else json.dumps(word) for word in words),
    ]
