"""Definitions that lose what we read are told, with every field; ours never are."""

import copy
from typing import Any

import msgspec
import pytest

from lab.api.definitions import shipped
from services.watcher import model
from services.watcher.core import definitions
from services.watcher.core.definitions import Document

KINDS = {
    "NetworkService": model.NetworkService,
    "NetworkServiceEndpoint": model.NetworkServiceEndpoint,
}


def schema(kind: str) -> Any:
    (found,) = (each for each in shipped() if each["spec"]["names"]["kind"] == kind)
    return copy.deepcopy(found["spec"]["versions"][0]["schema"]["openAPIV3Schema"])


def document(kind: str, whole: Any, *, status: bool = True) -> Document:
    plural = f"{kind.lower()}s"
    path = f"/apis/networkservicemesh.io/v1/namespaces/{{namespace}}/{plural}/{{name}}"
    paths: dict[str, Any] = {path: {}} | ({f"{path}/status": {}} if status else {})
    of = [{"group": "networkservicemesh.io", "version": "v1", "kind": kind}]
    schemas = {"x": whole | {"x-kubernetes-group-version-kind": of}}
    told = {"paths": paths, "components": {"schemas": schemas}}
    return msgspec.json.decode(msgspec.json.encode(told), type=Document)


def problem(kind: str, whole: Any, **fields: Any) -> str:
    found = definitions.problem(KINDS[kind], document(kind, whole, **fields))
    return found.message if found is not None else ""


@pytest.mark.parametrize("kind", KINDS)
def test_what_we_ship_is_ours(kind):
    assert problem(kind, schema(kind)) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_field_that_we_ship_is_looked_for(kind):
    def names(properties, prefix=""):
        for name, below in properties.items():
            yield prefix + name
            if not prefix:
                inner = below.get("properties") or below.get("items", {}).get("properties", {})
                yield from names(inner, f"{name}.")

    shipped_fields = set(names(schema(kind)["properties"]["spec"]["properties"]))
    assert set(definitions.FIELDS[KINDS[kind]]) == shipped_fields


def strict(kind: str) -> Any:
    """Ours, but that it drops what it does not know."""
    whole = schema(kind)

    def walk(below: Any) -> None:
        if isinstance(below, dict):
            below.pop("x-kubernetes-preserve-unknown-fields", None)
            for each in below.values():
                walk(each)
        elif isinstance(below, list):
            for each in below:
                walk(each)

    walk(whole)
    return whole


@pytest.mark.parametrize("kind", KINDS)
def test_who_knows_all_our_fields_may_drop_others(kind):
    assert problem(kind, strict(kind)) == ""


def test_fields_that_are_dropped_are_named_once_and_with_what_to_do():
    whole = strict("NetworkServiceEndpoint")
    spec = whole["properties"]["spec"]["properties"]
    del spec["ipam"]
    del spec["routes"]["items"]["properties"]["nextHop"]
    text = problem("NetworkServiceEndpoint", whole)
    assert "drops spec.ipam, spec.routes.nextHop of every NetworkServiceEndpoint" in text
    assert "status" not in text
    assert "--force-conflicts" in text


def test_a_kind_without_a_status_says_so():
    text = problem("NetworkService", schema("NetworkService"), status=False)
    assert "is not ours, or of another version: they show no status" in text


def test_who_keeps_everything_loses_nothing():
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    assert problem("NetworkService", anything) == ""


def test_another_spec_altogether_loses_all():
    whole = {"type": "object", "properties": {"spec": {"type": "object", "properties": {}}}}
    assert "spec.payload, spec.allowedNamespaces, spec.matches of" in problem(
        "NetworkService", whole
    )


def test_what_is_not_installed_is_nobodys():
    assert definitions.problem(model.NetworkService, Document()) is None
