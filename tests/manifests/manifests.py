"""What `kubectl apply -k k8s` would apply, and which settings the services know.

kustomize is not asked: the kustomizations list nothing but resources, which a test holds them to.
"""

import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

from services._runtime.settings import RuntimeSettings

ROOT = Path(__file__).parent.parent.parent
K8S = ROOT / "k8s"
SERVICES = ("auth", "watcher", "ipam", "plumber", "dns")
ROLES = {service: f"nsm-{service}" for service in SERVICES}

Object = dict[str, Any]


def found(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text)
    assert match, f"no {pattern} in {text}"
    return match


def files(folder: Path = K8S) -> Iterator[Path]:
    """Every file that a kustomization leads to."""
    for name in yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]:
        path = folder / name
        if path.is_dir():
            yield from files(path)
        else:
            yield path


@cache
def load(path: Path) -> list[Object]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def objects(kind: str = "") -> list[Object]:
    everything = [each for path in files() for each in load(path)]
    return [each for each in everything if not kind or each["kind"] == kind]


def name_of(each: Object) -> str:
    metadata = each["metadata"]
    return f"{each['kind']}/{metadata.get('namespace', '')}/{metadata['name']}"


def one(kind: str, name: str, namespace: str = "") -> Object:
    (only,) = [
        each
        for each in objects(kind)
        if each["metadata"]["name"] == name
        and (not namespace or each["metadata"]["namespace"] == namespace)
    ]
    return only


def workloads() -> list[Object]:
    """Everything that has a Pod template."""
    return [each for each in objects() if "template" in (each.get("spec") or {})]


def pod_of(workload: Object) -> Object:
    spec: Object = workload["spec"]["template"]["spec"]
    return spec


def workload_of(service: str) -> Object:
    (only,) = [each for each in workloads() if each["metadata"]["name"] == service]
    return only


def known_settings(service: str) -> dict[str, bool]:
    """Variable: whether it is required."""
    module = importlib.import_module(f"services.{service}.settings")
    return {
        f"{prefix}_{field.name}".upper(): field.required
        for prefix, struct in (("NSM", RuntimeSettings), (service, module.Settings))
        for field in msgspec.structs.fields(struct)
    }
