"""Structural schemas, as CustomResourceDefinitions write them: what has the wrong shape, is unknown, or is left out.

`check` names every wrong field in the server's words; `prune` takes out what the schema does not know and tells
it; `fill_in` adds defaults. CEL rules (`x-kubernetes-validations`) are not evaluated. Pure, but for the object
that prune and fill_in change.
"""

import copy
import re
from functools import cache
from typing import Any

from lab.api.errors import Cause, bad_type, bad_value, not_supported, required, too_long, too_many

Schema = dict[str, Any]

PRESERVE = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_HEAD = ("apiVersion", "kind", "metadata")

_PYTHON: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


def check(schema: Schema, obj: Any) -> list[Cause]:
    """Every field of `obj` that has not its shape."""
    causes: list[Cause] = []
    _check(schema, obj, "", causes)
    return causes


def _check(schema: Schema, value: Any, where: str, causes: list[Cause]) -> None:
    if not schema:  # anything
        return
    wanted = schema.get("type", "")
    if schema.get(_INT_OR_STRING):
        if isinstance(value, bool) or not isinstance(value, int | str):
            causes.append(bad_type(where, value, "integer,string"))
    elif wanted and not _fits(value, wanted):
        causes.append(bad_type(where, value, wanted))
    elif wanted == "object":
        _check_object(schema, value, where, causes)
    elif wanted == "array":
        _check_array(schema, value, where, causes)
    else:
        _check_scalar(schema, value, where, causes)


def _fits(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):  # which Python takes for an integer
        return wanted == "boolean"
    return isinstance(value, _PYTHON[wanted])


def _check_object(schema: Schema, value: Any, where: str, causes: list[Cause]) -> None:
    prefix = f"{where}." if where else ""
    causes.extend(required(prefix + n) for n in schema.get("required", ()) if value.get(n) is None)
    for name, below in schema.get("properties", {}).items():
        if value.get(name) is not None:
            _check(below, value[name], prefix + name, causes)
    if isinstance(each := schema.get("additionalProperties"), dict):
        for name, item in value.items():
            if name not in schema.get("properties", {}):
                _check(each, item, f"{prefix}{name}", causes)


def _check_array(schema: Schema, value: Any, where: str, causes: list[Cause]) -> None:
    if len(value) < schema.get("minItems", 0):
        causes.append(required(where))
    most = schema.get("maxItems")
    if most is not None and len(value) > most:
        causes.append(too_many(where, len(value), most))
    for number, item in enumerate(value):
        _check(schema.get("items", {}), item, f"{where}[{number}]", causes)


def _check_scalar(schema: Schema, value: Any, where: str, causes: list[Cause]) -> None:
    if "enum" in schema and value not in schema["enum"]:
        causes.append(not_supported(where, value, schema["enum"]))
    if "minimum" in schema and value < schema["minimum"]:
        why = f"{where} in body should be greater than or equal to {schema['minimum']}"
        causes.append(bad_value(where, value, why))
    if "maximum" in schema and value > schema["maximum"]:
        why = f"{where} in body should be less than or equal to {schema['maximum']}"
        causes.append(bad_value(where, value, why))
    if isinstance(value, str):
        _check_text(schema, value, where, causes)


def _check_text(schema: Schema, value: str, where: str, causes: list[Cause]) -> None:
    if (pattern := schema.get("pattern")) and _pattern(pattern).search(value) is None:
        causes.append(bad_value(where, value, f"{where} in body should match '{pattern}'"))
    most = schema.get("maxLength")
    if most is not None and len(value) > most:
        causes.append(too_long(where, most))
    if len(value) < (least := schema.get("minLength", 0)):
        why = f"{where} in body should be at least {least} chars long"
        causes.append(bad_value(where, value, why))


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


# ---- unknown fields


def prune(schema: Schema, obj: Schema) -> list[str]:
    """Take out every field the schema does not know; their paths."""
    unknown: list[str] = []
    head = {name: obj.pop(name) for name in _HEAD if name in obj}
    _prune(schema, obj, "", unknown)
    metadata = head.get("metadata")
    if isinstance(metadata, dict):
        for name in sorted(metadata.keys() - _METADATA):
            del metadata[name]
            unknown.append(f"metadata.{name}")
    body = dict(obj)
    obj.clear()
    obj |= head | body
    return unknown


def _prune(schema: Schema, value: Any, where: str, unknown: list[str]) -> None:
    if isinstance(value, list) and isinstance(below := schema.get("items"), dict):
        for number, item in enumerate(value):
            _prune(below, item, f"{where}[{number}]", unknown)
    if not isinstance(value, dict) or schema.get("type") != "object":
        return
    prefix = f"{where}." if where else ""
    properties = schema.get("properties", {})
    more = schema.get("additionalProperties")
    for name in sorted(value):
        if name in properties:
            _prune(properties[name], value[name], prefix + name, unknown)
        elif isinstance(more, dict):
            _prune(more, value[name], prefix + name, unknown)
        elif not more and not schema.get(PRESERVE):
            del value[name]
            unknown.append(prefix + name)


_METADATA = frozenset(
    [
        *("annotations", "creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp"),
        *("finalizers", "generateName", "generation", "labels", "managedFields", "name"),
        *("namespace", "ownerReferences", "resourceVersion", "selfLink", "uid"),
    ]
)


# ---- defaults


def fill_in(schema: Schema, value: Any) -> None:
    """Add the defaults of what is left out, at every level that is there."""
    if isinstance(value, list) and isinstance(below := schema.get("items"), dict):
        for item in value:
            fill_in(below, item)
    if not isinstance(value, dict):
        return
    for name, below in schema.get("properties", {}).items():
        if name not in value and "default" in below:
            value[name] = copy.deepcopy(below["default"])
        if name in value:
            fill_in(below, value[name])
    if isinstance(each := schema.get("additionalProperties"), dict):
        for item in value.values():
            fill_in(each, item)
