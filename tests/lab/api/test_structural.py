"""Structural schemas: what is wrong, unknown or left out, in the server's words."""

import pytest

from lab.api import structural

SPEC = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^a", "maxLength": 3, "minLength": 1},
        "payload": {"type": "string", "default": "IP", "enum": ["IP", "ETHERNET"]},
        "weight": {"type": "integer", "minimum": 1, "maximum": 3},
        "port": {"x-kubernetes-int-or-string": True},
        "list": {"type": "array", "maxItems": 1, "items": {"type": "string"}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        "parts": {
            "type": "array",
            "items": {"type": "object", "properties": {"size": {"type": "integer", "default": 7}}},
        },
    },
}
SCHEMA = {"type": "object", "properties": {"spec": SPEC}}


@pytest.mark.parametrize(
    ("spec", "field", "message"),
    [
        ({}, "spec.name", "Required value"),
        ({"name": "b"}, "spec.name", "spec.name in body should match '^a'"),
        ({"name": "abcd"}, "spec.name", "Too long: may not be more than 3 bytes"),
        ({"name": "a", "payload": "X"}, "spec.payload", 'supported values: "IP", "ETHERNET"'),
        ({"name": "a", "weight": 0}, "spec.weight", "should be greater than or equal to 1"),
        ({"name": "a", "weight": 4}, "spec.weight", "should be less than or equal to 3"),
        ({"name": "a", "weight": "1"}, "spec.weight", 'must be of type integer: "string"'),
        ({"name": "a", "weight": True}, "spec.weight", 'must be of type integer: "boolean"'),
        ({"name": "a", "port": 1.5}, "spec.port", "must be of type integer,string"),
        ({"name": "a", "list": ["x", "y"]}, "spec.list", "Too many: 2: must have at most 1 item"),
        ({"name": "a", "list": [1]}, "spec.list[0]", "must be of type string"),
        ({"name": "a", "labels": {"k": 1}}, "spec.labels.k", "must be of type string"),
    ],
)
def test_every_wrong_field_is_named(spec, field, message):
    (cause,) = structural.check(SCHEMA, {"spec": spec})
    assert cause.field == field
    assert message in cause.message


def test_what_fits_is_not_complained_of():
    spec = {"name": "a", "payload": "IP", "weight": 2, "port": "http", "labels": {"k": "v"}}
    assert structural.check(SCHEMA, {"spec": spec | {"port": 80}}) == []
    assert structural.check(SCHEMA, {"spec": spec | {"free": {"x": [1, {}]}}}) == []


def test_unknown_fields_are_taken_out_and_told_but_not_where_they_are_welcome():
    obj = {
        "apiVersion": "v1",
        "kind": "X",
        "metadata": {"name": "x", "nonsense": 1},
        "spec": {
            "name": "a",
            "typo": 1,
            "free": {"any": {"thing": 1}},
            "labels": {"k": "v"},
            "parts": [{"size": 1, "colour": "red"}],
        },
        "extra": 1,
    }
    assert structural.prune(SCHEMA, obj) == [
        "extra",
        "spec.parts[0].colour",
        "spec.typo",
        "metadata.nonsense",
    ]
    assert obj == {
        "apiVersion": "v1",
        "kind": "X",
        "metadata": {"name": "x"},
        "spec": {
            "name": "a",
            "free": {"any": {"thing": 1}},
            "labels": {"k": "v"},
            "parts": [{"size": 1}],
        },
    }
    assert list(obj)[:3] == ["apiVersion", "kind", "metadata"]


def test_defaults_are_added_wherever_their_parent_is():
    obj = {"spec": {"name": "a", "parts": [{}, {"size": 1}]}}
    structural.fill_in(SCHEMA, obj)
    assert obj["spec"] == {"name": "a", "payload": "IP", "parts": [{"size": 7}, {"size": 1}]}
    bare: dict[str, object] = {}
    structural.fill_in(SCHEMA, bare)
    assert bare == {}
