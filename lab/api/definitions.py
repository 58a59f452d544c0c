"""CustomResourceDefinitions: what they must say, what the server says of them, and what they say of their kind.

The lab serves our two kinds as long as their definitions are there, with the schema and the columns written in
them; a definition of any other kind is kept and shown, and its status says that it is not served.
"""

import datetime as dt
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lab.api import fields, structural
from lab.api.errors import Cause, bad_value, required
from lab.api.kinds import KINDS, Kind

Obj = dict[str, Any]

_SHIPPED = Path(__file__).parents[2] / "k8s" / "base" / "crds"
_ANY = {
    "type": "object",
    "properties": {
        name: {"type": "object", structural.PRESERVE: True} for name in ("spec", "status")
    },
}
_STEP = re.compile(r"\.([\w-]+)|\['([^']+)'\]|\[\?\(@\.(\w+)\s*==\s*[\"']([^\"']*)[\"']\)\]")


def shipped() -> list[Obj]:
    """The definitions a lab starts with: those of the repository, or plain ones where it is not at hand."""
    found = {fields.name_of(each): each for each in _read(_SHIPPED)}
    return [found.get(kind.resource) or _plain(kind) for kind in KINDS if kind.custom]


@cache
def _read(folder: Path) -> tuple[Obj, ...]:
    texts = (path.read_text() for path in sorted(folder.glob("*.yaml")))
    return tuple(each for text in texts for each in yaml.safe_load_all(text) if each)


def _plain(kind: Kind) -> Obj:
    names = {"kind": kind.kind, "plural": kind.plural, "shortNames": list(kind.short_names)}
    version = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": _ANY},
    }
    spec = {"group": kind.group, "scope": "Namespaced", "names": names, "versions": [version]}
    return {"metadata": {"name": kind.resource}, "spec": spec}


# ---- of the definition itself


def fill_in(definition: Obj) -> None:
    """Names and parts that follow from others."""
    spec = definition["spec"]
    names = spec["names"]
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", f"{names['kind']}List")
    spec.setdefault("conversion", {"strategy": "None"})


def problems(definition: Obj) -> list[Cause]:
    """What is wrong with a definition that has its shape."""
    spec, name = definition["spec"], fields.name_of(definition)
    causes = []
    if name != f"{spec['names']['plural']}.{spec['group']}":
        causes.append(bad_value("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    stored = [version for version in spec["versions"] if version["storage"]]
    if len(stored) != 1:
        why = "must have exactly one version marked as storage version"
        causes.append(bad_value("spec.versions", [v["name"] for v in spec["versions"]], why))
    for number, version in enumerate(spec["versions"]):
        schema = fields.part(version, "schema", "openAPIV3Schema")
        where = f"spec.versions[{number}].schema.openAPIV3Schema"
        if not schema:
            causes.append(required(where, "schemas are required"))
        elif schema.get("type") != "object":
            causes.append(
                bad_value(f"{where}.type", schema.get("type"), "must be object at the root")
            )
    return causes


def status(definition: Obj, now: dt.datetime) -> Obj:
    """What the server says of a definition."""
    spec = definition["spec"]
    served = kind_of(definition) is not None
    accepted = {"type": "NamesAccepted", "status": "True", "reason": "NoConflicts"}
    established = {"type": "Established", "status": "True", "reason": "InitialNamesAccepted"}
    if not served:
        why = "a lab serves the kinds of networkservicemesh.io/v1 only"
        established |= {"status": "False", "reason": "NotServed", "message": why}
    stamp = fields.timestamp(now)
    conditions = [c | {"lastTransitionTime": stamp} for c in (accepted, established)]
    stored = [version["name"] for version in spec["versions"] if version["storage"]]
    return {"acceptedNames": spec["names"], "conditions": conditions, "storedVersions": stored}


def kind_of(definition: Obj) -> Kind | None:
    """The kind of ours that it defines."""
    name = fields.name_of(definition)
    for kind in KINDS:
        if kind.custom and kind.resource == name and _version(definition, kind).get("served"):
            return kind
    return None


# ---- of the kind


def _version(definition: Obj, kind: Kind) -> Obj:
    for version in fields.items(definition, "spec", "versions"):
        if fields.text(version, "name") == kind.version:
            found: Obj = version
            return found
    return {}


def schema(definition: Obj, kind: Kind) -> structural.Schema:
    return fields.part(_version(definition, kind), "schema", "openAPIV3Schema")


def has_status(definition: Obj, kind: Kind) -> bool:
    """Whether a status is written by a request of its own; without, there is no such path."""
    return "status" in fields.part(_version(definition, kind), "subresources")


def columns(definition: Obj, kind: Kind) -> list[Obj]:
    """Columns as `kubectl get` shows them: the name, then what the definition names, or the age."""
    told = fields.items(_version(definition, kind), "additionalPrinterColumns")
    age = {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}
    name = {"name": "Name", "type": "string", "format": "name", "jsonPath": ".metadata.name"}
    return [name, *(told or [age])]


def cell(column: Obj, obj: Obj) -> Any:
    """What stands at the column's path: texts and numbers as they are, lists and maps as JSON would show them."""
    found: list[Any] = [obj]
    for step in _STEP.finditer(column["jsonPath"]):
        name, quoted, by, wanted = step.groups()
        found = [hit for each in found for hit in _hits(each, name or quoted, by, wanted)]
    return found[0] if found else None


def _hits(value: Any, name: str | None, by: str | None, wanted: str | None) -> Iterable[Any]:
    if name is not None:
        return [value[name]] if isinstance(value, dict) and name in value else []
    items = value if isinstance(value, list) else []
    return [item for item in items if isinstance(item, dict) and str(item.get(by)) == wanted]
