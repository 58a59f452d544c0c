"""What clients ask before they ask: versions, groups, resources, OpenAPI. Pure; `kinds` are those served now.

OpenAPI v3 says that PATCH knows `fieldValidation`; that alone makes kubectl leave validation to us.
"""

from collections.abc import Callable, Sequence
from typing import Any

from lab.api.kinds import Kind, groups

Obj = dict[str, Any]
SchemaOf = Callable[[Kind], Obj]
HasStatus = Callable[[Kind], bool]

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
PATCHES = ("application/json-patch+json", "application/merge-patch+json")
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
REVIEWS = "authentication.k8s.io/v1"
_REVIEW_GROUP = {"authentication.k8s.io": ["v1"]}


def patch_types(kind: Kind) -> tuple[str, ...]:
    """The patches a kind takes; custom objects have no strategic merge."""
    return (*PATCHES, APPLY) if kind.custom else (*PATCHES, STRATEGIC, APPLY)


def version() -> Obj:
    return {
        "major": "1",
        "minor": "32",
        "gitVersion": "v1.32.0",
        "gitCommit": "lab",
        "gitTreeState": "clean",
        "buildDate": "2025-01-01T00:00:00Z",
        "goVersion": "none",
        "compiler": "none",
        "platform": "linux/amd64",
    }


def core_versions(host: str) -> Obj:
    address = [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": address}


def group_list(kinds: Sequence[Kind]) -> Obj:
    known = groups(kinds) | _REVIEW_GROUP
    listed = [_group(name, versions) for name, versions in known.items()]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}


def group(kinds: Sequence[Kind], name: str) -> Obj | None:
    versions = (groups(kinds) | _REVIEW_GROUP).get(name)
    if versions is None:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, versions)


def _reviews() -> Obj:
    """The one group without objects."""
    entry = {
        "name": "tokenreviews",
        "singularName": "tokenreview",
        "namespaced": False,
        "kind": "TokenReview",
        "verbs": ["create"],
    }
    head = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": REVIEWS}
    return head | {"resources": [entry]}


def _group(name: str, versions: list[str]) -> Obj:
    served = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": served, "preferredVersion": served[0]}


def resources(
    kinds: Sequence[Kind], has_status: HasStatus, group_name: str, version_name: str
) -> Obj | None:
    """The resources of a group version, subresources included; None if there is no such thing."""
    if f"{group_name}/{version_name}" == REVIEWS:
        return _reviews()
    found = [k for k in kinds if k.group == group_name and k.version == version_name]
    if not found:
        return None
    listed = [entry for kind in found for entry in _resource(kind, has_status)]
    head = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": found[0].api_version}
    return head | {"resources": listed}


def _resource(kind: Kind, has_status: HasStatus) -> list[Obj]:
    entry: Obj = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": _VERBS,
    }
    if kind.short_names:
        entry["shortNames"] = list(kind.short_names)
    if kind.categories:
        entry["categories"] = list(kind.categories)
    below = {"singularName": "", "namespaced": kind.namespaced}
    entries = [entry]
    if has_status(kind):
        state = {
            "name": f"{kind.plural}/status",
            "kind": kind.kind,
            "verbs": ["get", "patch", "update"],
        }
        entries.append(state | below)
    if "binding" in kind.subresources:
        binding = {"name": f"{kind.plural}/binding", "kind": "Binding", "verbs": ["create"]}
        entries.append(binding | below)
    if "token" in kind.subresources:
        group_name, version_name = REVIEWS.split("/")
        token: Obj = {
            "name": f"{kind.plural}/token",
            "group": group_name,
            "version": version_name,
            "kind": "TokenRequest",
            "verbs": ["create"],
        }
        entries.append(token | below)
    return entries


# ---- OpenAPI


def openapi_index(kinds: Sequence[Kind]) -> Obj:
    named = groups(kinds).items()
    places = ["api/v1", *(f"apis/{name}/{v}" for name, vs in named for v in vs)]
    return {"paths": {place: {"serverRelativeURL": f"/openapi/v3/{place}"} for place in places}}


def openapi(
    kinds: Sequence[Kind],
    schema_of: SchemaOf,
    has_status: HasStatus,
    group_name: str,
    version_name: str,
) -> Obj | None:
    """The OpenAPI v3 document of a group version."""
    found = [k for k in kinds if k.group == group_name and k.version == version_name]
    if not found:
        return None
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.32.0"},
        "paths": {path: item for kind in found for path, item in _paths(kind, has_status).items()},
        "components": {"schemas": {_schema_name(kind): _schema(kind, schema_of) for kind in found}},
    }


def openapi_v2(kinds: Sequence[Kind], schema_of: SchemaOf) -> Obj:
    """The same schemas as Swagger 2 definitions, for clients that read JSON."""
    return {
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.32.0"},
        "paths": {},
        "definitions": {_schema_name(kind): _schema(kind, schema_of) for kind in kinds},
    }


def _schema_name(kind: Kind) -> str:
    if not kind.group:
        return f"io.k8s.api.core.{kind.version}.{kind.kind}"
    reverse = ".".join(reversed(kind.group.split(".")))
    return f"{reverse}.{kind.version}.{kind.kind}"


def _gvk(kind: Kind) -> Obj:
    return {"group": kind.group, "version": kind.version, "kind": kind.kind}


def _schema(kind: Kind, schema_of: SchemaOf) -> Obj:
    return schema_of(kind) | {"x-kubernetes-group-version-kind": [_gvk(kind)]}


def _paths(kind: Kind, has_status: HasStatus) -> Obj:
    namespace = "{namespace}" if kind.namespaced else ""
    schema = {"schema": {"$ref": f"#/components/schemas/{_schema_name(kind)}"}}
    answer = {"200": {"description": "OK", "content": {"application/json": schema}}}
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
        for name in ("dryRun", "fieldManager", "fieldValidation")
    ]
    common = {"parameters": parameters, "responses": answer}
    common["x-kubernetes-group-version-kind"] = _gvk(kind)
    # Were strategic merge told here, kubectl would look for merge keys in our schemas, not in its own types.
    told = [media for media in patch_types(kind) if media != STRATEGIC]
    patch: Obj = {"requestBody": {"content": {media: {"schema": {}} for media in told}}}
    named = {
        "get": common | {"x-kubernetes-action": "get"},
        "put": common | {"x-kubernetes-action": "put"},
        "patch": common | patch | {"x-kubernetes-action": "patch"},
    }
    paths = {
        kind.path(namespace): {"post": common | {"x-kubernetes-action": "post"}},
        kind.path(namespace, "{name}"): named,
    }
    if has_status(kind):
        paths[kind.path(namespace, "{name}", "status")] = named
    return paths
