"""A running lab as tests see it: through the `nsm` command, as a user would."""

import atexit
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.quick import Quick

ROOT = Path(__file__).parent.parent.parent
CONDITION = "networkservicemesh.io/connected"
ANNOTATION = "networkservicemesh.io"


class Cluster:
    """One lab."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {**os.environ, "NSM_LAB_DIR": str(directory)}
        self.late: set[str] = set()  # exclusions that came after grants which nothing can replace

    def start(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *words],
            env=self.environment,
            cwd=ROOT,
            stdin=options.pop("stdin", subprocess.DEVNULL),
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=options.pop("stderr", subprocess.STDOUT),
            text=True,
            **options,
        )

    def nsm(self, *words: str, expect: int = 0, timeout: float = 90) -> str:
        try:
            code, output = _quick().run(words, self.environment, timeout=timeout)
        except TimeoutError:
            raise AssertionError(f"nsm {' '.join(words)} did not end") from None
        assert code == expect, f"nsm {' '.join(words)}: {code}\n{output}"
        return output

    def items(self, kind: str, namespace: str | None = None) -> list[dict[str, Any]]:
        where = ["-n", namespace] if namespace else ["-A"]
        listing = json.loads(self.nsm("lab", "get", kind, *where, "-o", "json"))
        assert listing["kind"] == "List"
        return list(listing["items"])

    def interfaces(self, pod: str, namespace: str) -> dict[str, dict[str, Any]]:
        found = json.loads(self.nsm("lab", "interfaces", pod, "-n", namespace, "-o", "json"))
        return {interface["name"]: interface for interface in found}

    def apply(self, *objects: dict[str, Any]) -> None:
        path = self.directory / f"apply-{time.monotonic_ns()}.yaml"
        path.write_text(yaml.safe_dump_all(objects))
        self.nsm("lab", "apply", "-f", str(path))

    def connected(self, pod: str, namespace: str, *, timeout: str = "60s") -> None:
        self.nsm("lab", "wait", f"pod/{pod}", "-n", namespace, "--timeout", timeout)

    def condition(self, pod: str, namespace: str) -> dict[str, Any]:
        (found,) = [p for p in self.items("pods", namespace) if p["metadata"]["name"] == pod]
        conditions = found.get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == CONDITION), {})

    def refused(self, pod: str, namespace: str, reason: str) -> str:
        """Wait for the condition and the event of that reason; the condition's message."""
        self.until(
            f"{pod} says {reason}", lambda: self.condition(pod, namespace).get("reason") == reason
        )
        condition = self.condition(pod, namespace)
        assert condition["status"] == "False"
        self.until(
            f"an event of {pod} says {reason}", lambda: reason in self.events(pod, namespace)
        )
        return str(condition["message"])

    def events(self, pod: str, namespace: str) -> dict[str, str]:
        """The newest message by reason."""
        return {
            event["reason"]: event["message"]
            for event in self.items("events", namespace)
            if event["involvedObject"]["name"] == pod
        }

    def until(self, what: str, holds: Callable[[], Any], *, seconds: float = 60) -> float:
        """Seconds until `holds`; each question is a command and takes its time, so there is no pause."""
        started = time.monotonic()
        while not holds():
            assert time.monotonic() - started < seconds, f"{what}: not within {seconds} s"
        return time.monotonic() - started

    @contextmanager
    def pinging(self, pod: str, namespace: str, interface: str) -> Iterator[Callable[[], str]]:
        """Ping over a connection all the while; the yielded function stops it and returns the summary."""
        process = self.start(
            "ping", pod, "-n", namespace, "-I", interface, "--interval", "0.01", "--count", "100000"
        )
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            assert "from" in first, first

            def stop() -> str:
                process.send_signal(2)
                output, _ = process.communicate(timeout=10)
                return first + output

            yield stop
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


@cache
def _quick() -> Quick:
    made = Quick()
    atexit.register(made.close)
    return made


def namespace_of(name: str, **annotations: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": name, "annotations": annotations},
    }


def pod(name: str, namespace: str, annotation: str | None = None, **spec: Any) -> dict[str, Any]:
    labels = spec.pop("labels", {})
    annotations = {} if annotation is None else {ANNOTATION: annotation}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": labels,
            "annotations": annotations,
        },
        "spec": {
            "nodeName": "node1",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "none", "command": ["sleep", "infinity"]}],
            **spec,
        },
    }


def endpoint(
    name: str, namespace: str, service: str, *prefixes: str, **spec: Any
) -> dict[str, Any]:
    """An endpoint whose Pods are those with the label nse=<name>."""
    ipam = {"prefixes": list(prefixes), **spec.pop("ipam", {})}
    return {
        "apiVersion": "networkservicemesh.io/v1",
        "kind": "NetworkServiceEndpoint",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "networkServices": [service],
            "podSelector": {"matchLabels": {"nse": name}},
            "ipam": ipam,
            **spec,
        },
    }


def endpoint_pod(name: str, namespace: str, of: str, **spec: Any) -> dict[str, Any]:
    return pod(name, namespace, labels={"nse": of}, **spec)
