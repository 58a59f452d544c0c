"""Label and field selectors: text in, a question about an object out. Pure.

Bad text is a BadRequest that quotes it; a field that a kind does not offer for selection is refused, because
a filter that silently matches everything is worse than none.
"""

import re
from typing import Any

import msgspec

from lab.api import fields
from lab.api.errors import bad_request
from lab.api.kinds import Kind

_REQUIREMENT = re.compile(
    r"\s*(?P<key>[A-Za-z0-9._/-]+)\s*(?:(?P<word>in|notin)\s*\((?P<set>[^()]*)\)"
    r"|(?P<sign>==|=|!=)\s*(?P<value>[A-Za-z0-9._-]*))?\s*"
)
_ABSENT = re.compile(r"\s*!\s*(?P<key>[A-Za-z0-9._/-]+)\s*")
_COMMA = re.compile(r",(?![^()]*\))")
_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")


class Requirement(msgspec.Struct, frozen=True):
    """`key` is (or, negated, is not) one of `values`; no values: it is there (or not)."""

    key: str
    values: tuple[str, ...] = ()
    negated: bool = False

    def met_by(self, labels: dict[str, str]) -> bool:
        if not self.values:
            return (self.key in labels) is not self.negated
        # Kubernetes: `key!=value` and `notin` also hold where the key is missing.
        return (labels.get(self.key) in self.values) is not self.negated

    def __str__(self) -> str:
        if not self.values:
            return f"!{self.key}" if self.negated else self.key
        if len(self.values) == 1:
            return f"{self.key}{'!=' if self.negated else '='}{self.values[0]}"
        return f"{self.key} {'notin' if self.negated else 'in'} ({','.join(self.values)})"


class FieldTerm(msgspec.Struct, frozen=True):
    """`path` reads as `value`, or must not."""

    path: str
    value: str
    negated: bool = False

    def met_by(self, obj: dict[str, Any]) -> bool:
        found = fields.text(obj, *self.path.split("."))
        if self.path in _BOOLEANS and not found:
            found = "false"
        return (found == self.value) is not self.negated


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which objects of a kind are meant."""

    namespace: str = ""
    labels: tuple[Requirement, ...] = ()
    fields: tuple[FieldTerm, ...] = ()

    @property
    def narrowed(self) -> bool:
        return bool(self.labels or self.fields)

    def holds(self, obj: dict[str, Any]) -> bool:
        if self.namespace and fields.namespace_of(obj) != self.namespace:
            return False
        if self.labels:
            labels = fields.labels_of(obj)
            if not all(requirement.met_by(labels) for requirement in self.labels):
                return False
        return all(term.met_by(obj) for term in self.fields)


def select(kind: Kind, *, namespace: str = "", labels: str = "", fields: str = "") -> Selection:
    """A selection from the texts of a request. Raises ApiError (BadRequest)."""
    return Selection(
        namespace=namespace if kind.namespaced else "",
        labels=parse_labels(labels),
        fields=parse_fields(kind, fields),
    )


def parse_labels(text: str) -> tuple[Requirement, ...]:
    """`app=web,tier!=db,env in (a,b),!old`"""
    if not text.strip():
        return ()
    return tuple(_requirement(part, text) for part in _COMMA.split(text))


def _requirement(part: str, whole: str) -> Requirement:
    if absent := _ABSENT.fullmatch(part):
        return Requirement(absent["key"], negated=True)
    found = _REQUIREMENT.fullmatch(part)
    if found is None:
        raise bad_request(f"unable to parse requirement: {part.strip()!r} in {whole!r}")
    if found["word"]:
        values = tuple(sorted({value.strip() for value in found["set"].split(",")}))
        negated = found["word"] == "notin"
    elif found["sign"]:
        values = (found["value"],)
        negated = found["sign"] == "!="
    else:
        return Requirement(found["key"])
    for value in values:
        if _VALUE.fullmatch(value) is None:
            raise bad_request(
                f"unable to parse requirement: {value!r} is no label value in {whole!r}"
            )
    return Requirement(found["key"], values, negated)


def parse_fields(kind: Kind, text: str) -> tuple[FieldTerm, ...]:
    """`spec.nodeName=node1,status.phase!=Failed`"""
    return tuple(_term(kind, part) for part in text.split(",") if part.strip())


def _term(kind: Kind, part: str) -> FieldTerm:
    path, sign, value = _split_term(part)
    if not sign:
        raise bad_request(f"invalid field selector: {part!r}; it reads path=value or path!=value")
    known = _COMMON | _FIELDS.get(kind.resource, frozenset())
    if path not in known:
        raise bad_request(f"field label not supported: {path}")
    return FieldTerm(path, value, negated=sign == "!=")


def _split_term(part: str) -> tuple[str, str, str]:
    for sign in ("!=", "==", "="):
        path, found, value = part.partition(sign)
        if found:
            return path.strip(), sign, value.strip()
    return part, "", ""


_COMMON = frozenset({"metadata.name", "metadata.namespace"})
_BOOLEANS = frozenset({"spec.hostNetwork", "spec.unschedulable"})
_INVOLVED = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_FIELDS: dict[str, frozenset[str]] = {
    "pods": frozenset(
        {
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.nominatedNodeName",
        }
    ),
    "events": frozenset({f"involvedObject.{name}" for name in _INVOLVED})
    | {"reason", "type", "reportingComponent", "source"},
    "nodes": frozenset({"spec.unschedulable"}),
    "namespaces": frozenset({"status.phase"}),
    "services": frozenset({"spec.clusterIP", "spec.type"}),
}
