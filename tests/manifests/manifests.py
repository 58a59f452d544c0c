"""What `kubectl apply -k k8s` and its overlays would apply, and which settings the services know.

CI has no kubectl, so kustomize is not asked: the kustomizations use of it what `rendered` knows (resources,
components, strategic merge patches), which a test holds them to, and where there is a kubectl both are compared.
"""

import importlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

from lab.api.patching import strategic
from services._runtime.settings import RuntimeSettings

ROOT = Path(__file__).parent.parent.parent
K8S = ROOT / "k8s"
SERVICES = ("auth", "watcher", "ipam", "plumber", "dns")
PROBES = {"startupProbe": "/livez", "readinessProbe": "/readyz", "livenessProbe": "/livez"}
ROLES = {service: f"nsm-{service}" for service in SERVICES}

Object = dict[str, Any]


def found(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text)
    assert match, f"no {pattern} in {text}"
    return match


@cache
def load(path: Path) -> list[Object]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each]


def rendered(folder: Path) -> list[Object]:
    """What `kubectl kustomize FOLDER` prints, in another order."""
    (kustomization,) = load(folder / "kustomization.yaml")
    found: list[Object] = []
    for name in kustomization.get("resources", []):
        path = (folder / name).resolve()
        found += rendered(path) if path.is_dir() else load(path)
    for name in kustomization.get("components", []):
        found = with_component(found, (folder / name).resolve())
    return _patched(found, folder, kustomization)


def with_component(found: list[Object], folder: Path) -> list[Object]:
    (component,) = load(folder / "kustomization.yaml")
    added = [each for name in component.get("resources", []) for each in load(folder / name)]
    return _patched([*found, *added], folder, component)


def _patched(found: list[Object], folder: Path, kustomization: Object) -> list[Object]:
    for patch in kustomization.get("patches", []):
        for change in load(folder / patch["path"]):
            (place,) = [n for n, each in enumerate(found) if name_of(each) == name_of(change)]
            found[place] = strategic(found[place], change)
    return found


def definitions() -> list[Object]:
    """What the Job nsm-install applies."""
    return [each for path in sorted((K8S / "base/crds").glob("*.yaml")) for each in load(path)]


def objects(kind: str = "") -> list[Object]:
    return [each for each in _base() if not kind or each["kind"] == kind]


@cache
def _base() -> list[Object]:
    return rendered(K8S)


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
    return [
        each for each in objects() if {"template", "jobTemplate"} & (each.get("spec") or {}).keys()
    ]


def template_of(workload: Object) -> Object:
    spec = workload["spec"]
    template: Object = (
        spec["jobTemplate"]["spec"]["template"] if "jobTemplate" in spec else spec["template"]
    )
    return template


def pod_of(workload: Object) -> Object:
    spec: Object = template_of(workload)["spec"]
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
