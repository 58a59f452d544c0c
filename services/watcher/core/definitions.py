"""Definitions of our kinds as the API server has them: do they keep what we read, and have they a status?

Another mesh may have installed kinds of the same names, and an upgrade may have forgotten ours. The server then
drops fields without a word, and an endpoint that names a pool is one that names none. Judged by the server's OpenAPI
document, which everybody may read.
"""

from typing import Any

import msgspec

from services.watcher.model import NetworkService, NetworkServiceEndpoint, OurObject, Problem

FOREIGN = "ForeignDefinition"

_PATH = "/apis/networkservicemesh.io/v1/namespaces/{namespace}/"
_PLURALS: dict[type[OurObject], str] = {
    NetworkService: "networkservices",
    NetworkServiceEndpoint: "networkserviceendpoints",
}
# What we read of a spec.
FIELDS: dict[type[OurObject], tuple[str, ...]] = {
    NetworkService: (
        *("payload", "allowedNamespaces", "matches", "matches.sourceSelector"),
        *("matches.routes", "matches.fallthrough"),
    ),
    NetworkServiceEndpoint: (
        *("networkServices", "labels", "networkServiceLabels"),
        *("podSelector", "podSelector.matchLabels", "podSelector.matchExpressions"),
        *("ipam", "ipam.prefixes", "ipam.excludePrefixes", "ipam.addressing"),
        *("routes", "routes.destination", "routes.nextHop"),
        *("policies", "policies.from", "policies.protocol", "policies.destinationPort"),
        *("policies.sourcePort", "policies.routes"),
        *("dns", "dns.servers", "dns.domains", "dns.searchDomains"),
    ),
}


class _Components(msgspec.Struct, frozen=True):
    schemas: dict[str, dict[str, Any]] = {}


class Document(msgspec.Struct, frozen=True):
    """The little we need of an OpenAPI document."""

    paths: dict[str, msgspec.Raw] = {}
    components: _Components = _Components()


def problem(kind: type[OurObject], document: Document) -> Problem | None:
    """What is wrong with the definition of a kind; a kind that is not there has none."""
    plural = _PLURALS[kind]
    schema = _schema(kind, document)
    if schema is None:
        return None
    lost = [name for name in FIELDS[kind] if not _keeps(schema, ["spec", *name.split(".")])]
    wrong = []
    if lost:
        names = ", ".join(f"spec.{name}" for name in lost if not _is_below(name, lost))
        wrong.append(f"the API server drops {names} of every {kind.__name__}")
    if f"{_PATH}{plural}/{{name}}/status" not in document.paths:
        wrong.append("they show no status")
    if not wrong:
        return None
    return Problem(
        reason=FOREIGN,
        message=f"the definition {plural}.networkservicemesh.io is not ours, or of another version: "
        f"{' and '.join(wrong)}; if no other mesh needs it, apply ours with --server-side --force-conflicts",
    )


def _schema(kind: type[OurObject], document: Document) -> dict[str, Any] | None:
    wanted = [kind.__name__]
    for each in document.components.schemas.values():
        if [of.get("kind") for of in each.get("x-kubernetes-group-version-kind") or ()] == wanted:
            return each
    return None


def _keeps(schema: dict[str, Any], path: list[str]) -> bool:
    """Whether the server keeps what is written there."""
    if schema.get("type") == "array":
        return _keeps(schema.get("items") or {}, path)
    if schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("additionalProperties"):
        return True
    if not path:
        return True
    below = (schema.get("properties") or {}).get(path[0])
    return below is not None and _keeps(below, path[1:])


def _is_below(name: str, lost: list[str]) -> bool:
    return name.rpartition(".")[0] in lost
