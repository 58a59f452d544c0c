"""Fields of our objects, from the CRDs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.reference.table import code, table

_INTRO = """# Objects

The CRDs in [`k8s/base/crds`](../../k8s/base/crds), group `networkservicemesh.io`, field by field.
How addresses, routes and DNS come of them is told in [the guide](../reference.md).

"""


def page(root: Path) -> str:
    parts = [_INTRO]
    for path in sorted((root / "k8s/base/crds").glob("*.yaml"), reverse=True):
        definition = yaml.safe_load(path.read_text())["spec"]
        names = definition["names"]
        for version in definition["versions"]:
            schema = version["schema"]["openAPIV3Schema"]
            short = ", ".join(code(name) for name in names.get("shortNames", ()))
            parts.append(f"## {names['kind']} ({version['name']}; {short})\n\n")
            parts.append(f"{schema['description']}\n\n")
            for section in ("spec", "status"):
                found = schema["properties"][section]
                parts.append(table([f"field of `{section}`", "type", "meaning"], _rows(found)))
    return "".join(parts)


def _rows(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        items = field.get("items", {})
        yield code(here + ("[]" if items else "")), _kind(field, items), _text(field)
        yield from _rows(field, here)
        yield from _rows(items, here + "[]")


def _kind(field: dict[str, Any], items: dict[str, Any]) -> str:
    if items:
        return f"list of {items.get('type', 'any')}"
    values = field.get("additionalProperties")
    if isinstance(values, dict):
        return f"map to {values.get('type', 'any')}"
    if field.get("x-kubernetes-int-or-string"):
        return "integer or string"
    return str(field.get("type", "any"))


def _text(field: dict[str, Any]) -> str:
    parts = [str(field["description"])] if "description" in field else []
    if "enum" in field:
        parts.append("One of " + ", ".join(code(str(value)) for value in field["enum"]) + ".")
    if "default" in field:
        parts.append(f"Default: {code(str(field['default']))}.")
    for word, about in (
        ("maximum", "at most"),
        ("maxItems", "at most"),
        ("maxLength", "length at most"),
    ):
        if word in field:
            parts.append(f"{about.capitalize()} {field[word]:,}.")
    parts += [
        f"{rule['message'].capitalize()}." for rule in field.get("x-kubernetes-validations", ())
    ]
    return " ".join(parts)
