"""What a request means: the path as a kind, a place and a name; the query and the body as values. Pure."""

from collections.abc import Mapping
from typing import Any

import msgspec
import yaml

from lab.api import protobuf
from lab.api.errors import bad_request, no_such_path, unsupported_media_type
from lab.api.kinds import Kind, by_plural

Obj = dict[str, Any]

_BODIES = ("application/json", "application/yaml", protobuf.MEDIA_TYPE)


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The object, collection or subresource a path names."""

    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def is_action(self) -> bool:
        """Whether something is asked of the object, rather than said about it."""
        return self.subresource in self.kind.subresources


def parse_target(group: str, version: str, tail: str) -> Target:
    """`namespaces/default/pods/web/status` of a group version. Raises ApiError (NotFound)."""
    parts = tail.strip("/").split("/")
    namespace = ""
    # namespaces/x/status is a namespace's status; namespaces/x/pods are pods.
    if parts[0] == "namespaces" and len(parts) > 2 and parts[2] not in ("status", "finalize"):
        namespace, parts = parts[1], parts[2:]
    kind = by_plural(group, version, parts[0])
    if kind is None or len(parts) > 3 or "" in parts:
        raise no_such_path()
    if kind.namespaced is not bool(namespace) and (namespace or len(parts) > 1):
        raise no_such_path()
    name, subresource = (*parts[1:], "", "")[:2]
    known = ("status",) * kind.status + kind.subresources
    if subresource and subresource not in known:
        raise no_such_path()
    return Target(kind=kind, namespace=namespace, name=name, subresource=subresource)


def flag(query: Mapping[str, str], name: str) -> bool:
    """A truth value as the real server reads it: anything given but 0 and false."""
    return query.get(name, "0").lower() not in ("0", "false")


def number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "") or "0"
    if not text.isdecimal():
        raise bad_request(f"{name} {text!r} is no number")
    return int(text)


def dry_run(query: Mapping[str, str]) -> bool:
    wanted = query.get("dryRun", "")
    if wanted not in ("", "All"):
        raise bad_request(f"dryRun: Unsupported value: {wanted!r}: supported values: 'All'")
    return wanted == "All"


def strict(query: Mapping[str, str]) -> bool:
    """Whether fields that nobody knows are refused, as `kubectl apply` asks; else they are dropped."""
    return query.get("fieldValidation") == "Strict"


def read_body(data: bytes, media: str) -> Obj:
    """A JSON or YAML object. Raises ApiError (BadRequest, UnsupportedMediaType)."""
    if media in ("application/json", "application/octet-stream", ""):
        found = _json(data)
    elif media == "application/yaml":
        found = read_yaml(data)
    elif media == protobuf.MEDIA_TYPE:
        found = protobuf.decode(data)
    else:
        raise unsupported_media_type(_BODIES)
    if not isinstance(found, dict):
        raise bad_request("the body is no object")
    return found


def _json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise bad_request(f"the body is no JSON: {exc}") from exc


def read_yaml(data: bytes) -> Any:
    """YAML without dates: Kubernetes knows none. Raises ApiError (BadRequest)."""
    try:
        return yaml.load(data, Loader=PlainLoader)  # noqa: S506 a SafeLoader, less one type
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise bad_request(f"the body is no YAML: {exc}") from exc


def read_patch(data: bytes, media: str) -> Any:
    return read_yaml(data) if media.endswith("yaml") else _json(data)


def fitting(target: Target, body: Obj, *, name: str = "") -> Obj:
    """The body with the path's namespace and name in it. Raises ApiError if they contradict."""
    kind = target.kind
    for field, wanted in (("apiVersion", kind.api_version), ("kind", kind.kind)):
        if body.get(field) not in (None, "", wanted):
            given = f"{field} in the data ({body[field]})"
            raise bad_request(f"the {given} does not match the expected {field} ({wanted})")
    metadata = body.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise bad_request("metadata is no object")
    metadata = dict(metadata or {})
    if metadata.get("namespace") not in (None, "", target.namespace) and kind.namespaced:
        raise bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )
    if kind.namespaced:
        metadata["namespace"] = target.namespace
    if name and metadata.get("name") not in (None, "", name):
        given = f"the name of the object ({metadata['name']})"
        raise bad_request(f"{given} does not match the name on the URL ({name})")
    if name:
        metadata["name"] = name
    return body | {"metadata": metadata}


class PlainLoader(yaml.SafeLoader):
    """SafeLoader that leaves what looks like a date a string."""


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
