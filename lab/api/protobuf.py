"""The few Kubernetes messages that kubectl insists on sending as protobuf, read into plain objects. Pure.

`kubectl create namespace|configmap|serviceaccount|service|token` encode their bodies so, whatever the server would
like. Field numbers are those of the published k8s.io/api messages; fields not listed are skipped.
"""

import base64
from collections.abc import Iterator
from typing import Any

import msgspec

from lab.api.errors import bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"


class Field(msgspec.Struct, frozen=True):
    """A field: its JSON name, and what its bytes are."""

    name: str
    type: str = "text"  # text, bytes, number, flag, map, bytes map, port, message
    many: bool = False
    message: "dict[int, Field] | None" = None


_OWNER = {
    1: Field("kind"),
    3: Field("name"),
    4: Field("uid"),
    5: Field("apiVersion"),
    6: Field("controller", "flag"),
    7: Field("blockOwnerDeletion", "flag"),
}
_METADATA = {
    1: Field("name"),
    2: Field("generateName"),
    3: Field("namespace"),
    5: Field("uid"),
    6: Field("resourceVersion"),
    11: Field("labels", "map"),
    12: Field("annotations", "map"),
    13: Field("ownerReferences", "message", many=True, message=_OWNER),
    14: Field("finalizers", many=True),
}
_HEAD = {1: Field("metadata", "message", message=_METADATA)}
_PORT = {
    1: Field("name"),
    2: Field("protocol"),
    3: Field("port", "number"),
    4: Field("targetPort", "port"),
    5: Field("nodePort", "number"),
}
_SERVICE_SPEC = {
    1: Field("ports", "message", many=True, message=_PORT),
    2: Field("selector", "map"),
    3: Field("clusterIP"),
    4: Field("type"),
    7: Field("sessionAffinity"),
    10: Field("externalName"),
}
_PRECONDITIONS = {1: Field("uid"), 2: Field("resourceVersion")}
_BOUND_OBJECT = {1: Field("kind"), 2: Field("apiVersion"), 3: Field("name"), 4: Field("uid")}
_TOKEN_SPEC = {
    1: Field("audiences", many=True),
    3: Field("boundObjectRef", "message", message=_BOUND_OBJECT),
    4: Field("expirationSeconds", "number"),
}
_MESSAGES: dict[str, dict[int, Field]] = {
    "Namespace": _HEAD,
    "ServiceAccount": _HEAD,
    "ConfigMap": _HEAD
    | {
        2: Field("data", "map"),
        3: Field("binaryData", "bytes map"),
        4: Field("immutable", "flag"),
    },
    "Service": _HEAD | {2: Field("spec", "message", message=_SERVICE_SPEC)},
    "TokenRequest": _HEAD | {2: Field("spec", "message", message=_TOKEN_SPEC)},
    "DeleteOptions": {
        1: Field("gracePeriodSeconds", "number"),
        2: Field("preconditions", "message", message=_PRECONDITIONS),
        4: Field("propagationPolicy"),
        5: Field("dryRun", many=True),
    },
}
_TYPE_META = {1: Field("apiVersion"), 2: Field("kind")}
_ENVELOPE = {1: Field("typeMeta", "message", message=_TYPE_META), 2: Field("raw", "bytes")}
_ENTRY = {1: Field("key"), 2: Field("value")}
_BYTES_ENTRY = {1: Field("key"), 2: Field("value", "base64")}
_INT_OR_STRING = {1: Field("type", "number"), 2: Field("number", "number"), 3: Field("text")}


def decode(data: bytes) -> dict[str, Any]:
    """The object in a Kubernetes protobuf envelope. Raises ApiError (BadRequest)."""
    if not data.startswith(_MAGIC):
        raise bad_request("the body is no Kubernetes protobuf message")
    try:
        envelope = _message(data[len(_MAGIC) :], _ENVELOPE)
        kind = envelope["typeMeta"]["kind"]
        if kind not in _MESSAGES:
            raise bad_request(f"kind {kind} is not read as protobuf here; send application/json")
        return dict(envelope["typeMeta"], **_message(envelope.get("raw", b""), _MESSAGES[kind]))
    except (IndexError, KeyError, ValueError) as exc:
        raise bad_request(f"the body is no Kubernetes protobuf message: {exc}") from exc


def _message(data: bytes, known: dict[int, Field]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, value in _raw_fields(data):
        field = known.get(number)
        if field is None:
            continue
        read = _value(field, value)
        if field.many:
            found.setdefault(field.name, []).append(read)
        elif field.type in ("map", "bytes map"):
            found.setdefault(field.name, {}).update(read)
        elif read != "":  # generated code writes empty strings too
            found[field.name] = read
    return found


def _value(field: Field, value: int | bytes) -> Any:
    if isinstance(value, int):
        if field.type not in ("number", "flag"):
            raise ValueError(f"{field.name} is a number")
        return bool(value) if field.type == "flag" else _signed(value)
    match field.type:
        case "message":
            return _message(value, field.message or {})
        case "map" | "bytes map":
            entry = _message(value, _ENTRY if field.type == "map" else _BYTES_ENTRY)
            return {entry.get("key", ""): entry.get("value", "")}
        case "port":
            either = _message(value, _INT_OR_STRING)
            return either.get("text", "") if either.get("type") else either.get("number", 0)
        case "base64":
            return base64.b64encode(value).decode()
        case "bytes":
            return value
        case "text":
            return value.decode()
        case other:
            raise ValueError(f"{field.name} is no {other}")


def _raw_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        match tag & 7:
            case 0:
                number, at = _varint(data, at)
                yield tag >> 3, number
            case 2:
                length, at = _varint(data, at)
                if at + length > len(data):
                    raise ValueError("a field is cut off")
                yield tag >> 3, data[at : at + length]
                at += length
            case 1:
                at += 8
            case 5:
                at += 4
            case other:
                raise ValueError(f"unknown wire type {other}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
