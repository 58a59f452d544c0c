"""Errors as Kubernetes says them: an HTTP code and a Status object that names what, why and which field.

Raised anywhere below the server, turned into a response in one place. In-process callers catch `ApiError`
and look at `reason`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from lab.api.kinds import Kind


class Cause(msgspec.Struct, frozen=True):
    """One field that is wrong. `reason` is Kubernetes' own word."""

    field: str
    reason: str
    message: str


class ApiError(Exception):
    """A refusal of the API, with everything a Status object says."""

    def __init__(
        self, code: int, reason: str, message: str, *, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.next_token = ""  # only with Expired: where an inconsistent list could go on

    @property
    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.next_token} if self.next_token else {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            status["details"] = self.details
        return status | {"code": self.code}


def _details(kind: Kind, name: str, **more: Any) -> dict[str, Any]:
    details: dict[str, Any] = {"name": name} if name else {}
    if kind.group:
        details["group"] = kind.group
    return details | {"kind": kind.plural} | more


def not_found(kind: Kind, name: str) -> ApiError:
    text = f'{kind.resource} "{name}" not found'
    return ApiError(404, "NotFound", text, details=_details(kind, name))


def no_such_path() -> ApiError:
    text = "the server could not find the requested resource"
    return ApiError(404, "NotFound", text)


def already_exists(kind: Kind, name: str) -> ApiError:
    text = f'{kind.resource} "{name}" already exists'
    return ApiError(409, "AlreadyExists", text, details=_details(kind, name))


def conflict(kind: Kind, name: str, why: str) -> ApiError:
    text = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return ApiError(409, "Conflict", text, details=_details(kind, name))


def stale(kind: Kind, name: str) -> ApiError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(kind, name, why)


def precondition(kind: Kind, name: str, *, what: str, wanted: str, found: str) -> ApiError:
    why = f"Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
    return conflict(kind, name, why)


def invalid(kind: Kind, name: str, causes: Sequence[Cause]) -> ApiError:
    said = [f"{cause.field}: {cause.message}" if cause.field else cause.message for cause in causes]
    text = said[0] if len(said) == 1 else "[" + ", ".join(said) + "]"
    details: dict[str, Any] = {"name": name} if name else {}
    if kind.group:
        details["group"] = kind.group
    details["kind"] = kind.kind
    details["causes"] = [
        {"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes
    ]
    return ApiError(
        422, "Invalid", f'{kind.qualified} "{name}" is invalid: {text}', details=details
    )


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def forbidden(kind: Kind, name: str, why: str, causes: Sequence[Cause] = ()) -> ApiError:
    text = f'{kind.resource} "{name}" is forbidden: {why}'
    details = _details(kind, name)
    if causes:
        details["causes"] = [
            {"reason": c.reason, "message": c.message, "field": c.field} for c in causes
        ]
    return ApiError(403, "Forbidden", text, details=details)


def expired(message: str, *, next_token: str = "") -> ApiError:
    error = ApiError(410, "Expired", message)
    error.next_token = next_token
    return error


def too_large(wanted: int, current: int) -> ApiError:
    """A version of the future: the caller talked to another, later life of the server."""
    text = f"Timeout: Too large resource version: {wanted}, current: {current}"
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    details = {"causes": [cause], "retryAfterSeconds": 1}
    return ApiError(504, "Timeout", text, details=details)


def method_not_allowed(kind: Kind) -> ApiError:
    text = "the server does not allow this method on the requested resource"
    return ApiError(405, "MethodNotAllowed", text, details=_details(kind, ""))


def unsupported_media_type(accepted: Sequence[str]) -> ApiError:
    known = ", ".join(accepted)
    text = (
        f"the body of the request was in an unknown format - accepted media types include: {known}"
    )
    return ApiError(415, "UnsupportedMediaType", text)


def unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def required(field: str, why: str = "") -> Cause:
    return Cause(field, "FieldValueRequired", "Required value" + (f": {why}" if why else ""))


def bad_value(field: str, value: Any, why: str) -> Cause:
    return Cause(field, "FieldValueInvalid", f"Invalid value: {_shown(value)}: {why}")


def bad_type(field: str, value: Any, wanted: str) -> Cause:
    found = _TYPE_NAMES.get(type(value), type(value).__name__)
    why = f'Invalid value: "{found}": {field} in body must be of type {wanted}: "{found}"'
    return Cause(field, "FieldValueTypeInvalid", why)


def not_supported(field: str, value: Any, known: Sequence[str]) -> Cause:
    listed = ", ".join(f'"{item}"' for item in known)
    text = f"Unsupported value: {_shown(value)}: supported values: {listed}"
    return Cause(field, "FieldValueNotSupported", text)


def too_long(field: str, most: int) -> Cause:
    return Cause(field, "FieldValueTooLong", f"Too long: may not be more than {most} bytes")


def too_many(field: str, found: int, most: int) -> Cause:
    items = "item" if most == 1 else "items"
    return Cause(field, "FieldValueTooMany", f"Too many: {found}: must have at most {most} {items}")


def unknown_fields(kind: Kind, names: Sequence[str]) -> ApiError:
    """What strict validation says of fields that nobody knows."""
    said = ", ".join(f'unknown field "{name}"' for name in names)
    text = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}'
    return bad_request(f"{text}: strict decoding error: {said}")


def forbidden_change(field: str, why: str) -> Cause:
    return Cause(field, "FieldValueForbidden", f"Forbidden: {why}")


_TYPE_NAMES: dict[type, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array",
    dict: "object",
    type(None): "null",
}


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()
