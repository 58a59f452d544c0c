"""Patches: the algebra of merge patch, the merge keys of strategic patch, the steps of JSON patch."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.api.patching import BadPatch, json_patch, merge, reapply, strategic

keys = st.sampled_from(["a", "b", "c", "spec"])
scalars = st.none() | st.booleans() | st.integers(0, 3) | st.text("xy", max_size=2)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(keys, values, max_size=4)


def without_nulls(value):
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return value


def difference(old, new):
    """The merge patch from one document without nulls to another."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    patch = {key: None for key in old if key not in new}
    for key, value in new.items():
        if key not in old or old[key] != value or type(old[key]) is not type(value):
            patch[key] = difference(old.get(key), value)
    return patch


# ---- merge patch


@given(documents, documents)
def test_the_difference_merged_into_the_old_gives_the_new(old, new):
    old, new = without_nulls(old), without_nulls(new)
    assert merge(old, difference(old, new)) == new


@given(documents, documents)
def test_merging_twice_is_merging_once(document, patch):
    once = merge(document, patch)
    assert merge(once, patch) == once


@given(documents, documents)
def test_a_patch_never_changes_the_document_it_is_given(document, patch):
    before = copy.deepcopy((document, patch))
    merge(document, patch)
    strategic(document, patch)
    assert (document, patch) == before


@given(documents, documents)
def test_without_keyed_lists_strategic_and_merge_patch_agree(document, patch):
    assert strategic(document, patch) == merge(document, patch)


@given(documents)
def test_an_empty_patch_changes_nothing(document):
    assert merge(document, {}) == document
    assert strategic(document, {}) == document
    assert json_patch(document, []) == document


# ---- strategic merge patch

items = st.dictionaries(
    st.sampled_from(["Ready", "Connected", "Scheduled"]),
    st.fixed_dictionaries({"status": st.sampled_from(["True", "False"])}),
    max_size=3,
)


def conditions(by_type):
    return {"conditions": [{"type": name} | rest for name, rest in by_type.items()]}


@given(items, items)
def test_conditions_merge_by_type_like_a_dictionary(old, new):
    merged = strategic(conditions(old), conditions(new))
    assert {c["type"]: {"status": c["status"]} for c in merged.get("conditions", [])} == old | new


@given(items, items)
def test_a_condition_keeps_its_place_and_new_ones_follow(old, new):
    merged = strategic(conditions(old), conditions(new))
    expected = [*old, *(name for name in new if name not in old)]
    assert [c["type"] for c in merged["conditions"]] == expected


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("containers", "name"),
        ("initContainers", "name"),
        ("volumes", "name"),
        ("env", "name"),
        ("podIPs", "ip"),
        ("ownerReferences", "uid"),
        ("addresses", "type"),
    ],
)
def test_known_lists_merge_by_their_key(field, key):
    document = {field: [{key: "1", "x": 1}, {key: "2", "x": 2}]}

    merged = strategic(document, {field: [{key: "2", "y": 3}, {key: "3"}]})

    assert merged == {field: [{key: "1", "x": 1}, {key: "2", "x": 2, "y": 3}, {key: "3"}]}


def test_ports_merge_by_container_port_in_a_pod_and_by_port_in_a_service():
    pod = strategic(
        {"ports": [{"containerPort": 80}]}, {"ports": [{"containerPort": 80, "name": "a"}]}
    )
    service = strategic(
        {"ports": [{"port": 80}]}, {"ports": [{"port": 80, "name": "a"}, {"port": 81}]}
    )

    assert pod == {"ports": [{"containerPort": 80, "name": "a"}]}
    assert service == {"ports": [{"port": 80, "name": "a"}, {"port": 81}]}


def test_tolerations_and_unknown_lists_are_replaced():
    assert strategic({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}) == {
        "tolerations": [{"key": "b"}]
    }
    assert strategic({"command": ["a", "b"]}, {"command": ["c"]}) == {"command": ["c"]}


def test_directives_delete_replace_retain_and_order():
    document = {
        "containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
        "map": {"x": 1, "y": 2},
    }

    assert strategic(document, {"containers": [{"name": "b", "$patch": "delete"}]})[
        "containers"
    ] == [
        {"name": "a"},
        {"name": "c"},
    ]
    assert strategic(document, {"containers": [{"name": "z"}, {"$patch": "replace"}]})[
        "containers"
    ] == [{"name": "z"}]
    assert strategic(document, {"map": {"$patch": "replace", "z": 3}})["map"] == {"z": 3}
    assert "map" not in strategic(document, {"map": {"$patch": "delete"}})
    assert strategic(document, {"map": {"$retainKeys": ["x"]}})["map"] == {"x": 1}
    ordered = strategic(document, {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}]})
    assert [c["name"] for c in ordered["containers"]] == ["c", "a", "b"]


def test_finalizers_are_a_set_and_can_be_taken_from():
    document = {"finalizers": ["a", "b"]}

    assert strategic(document, {"finalizers": ["b", "c"]}) == {"finalizers": ["a", "b", "c"]}
    assert strategic(document, {"$deleteFromPrimitiveList/finalizers": ["a"]}) == {
        "finalizers": ["b"]
    }


def test_an_item_without_its_merge_key_is_a_bad_patch():
    with pytest.raises(BadPatch, match="merge key: name"):
        strategic({"containers": []}, {"containers": [{"name": "a"}, {"image": "x"}]})


# ---- JSON patch


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ({"op": "add", "path": "/m/new", "value": 1}, {"m": {"a": 1, "new": 1}, "l": [1, 2]}),
        ({"op": "add", "path": "/l/0", "value": 0}, {"m": {"a": 1}, "l": [0, 1, 2]}),
        ({"op": "add", "path": "/l/-", "value": 3}, {"m": {"a": 1}, "l": [1, 2, 3]}),
        ({"op": "replace", "path": "/l/1", "value": 9}, {"m": {"a": 1}, "l": [1, 9]}),
        ({"op": "remove", "path": "/m/a"}, {"m": {}, "l": [1, 2]}),
        ({"op": "copy", "from": "/m/a", "path": "/b"}, {"m": {"a": 1}, "l": [1, 2], "b": 1}),
        ({"op": "move", "from": "/m/a", "path": "/l/-"}, {"m": {}, "l": [1, 2, 1]}),
        ({"op": "test", "path": "/m/a", "value": 1}, {"m": {"a": 1}, "l": [1, 2]}),
    ],
    ids=lambda value: str(value.get("op", "")) if isinstance(value, dict) else "",
)
def test_a_json_patch_operation_does_what_the_rfc_says(operation, expected):
    assert json_patch({"m": {"a": 1}, "l": [1, 2]}, [operation]) == expected


def test_a_json_pointer_escapes_slash_and_tilde():
    document: dict[str, Any] = {"metadata": {"annotations": {}}}
    path = "/metadata/annotations/networkservicemesh.io~1status"

    patched = json_patch(document, [{"op": "add", "path": path, "value": "~"}])

    assert patched["metadata"]["annotations"] == {"networkservicemesh.io/status": "~"}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/missing"},
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "add", "path": "/missing/x", "value": 1},
        {"op": "test", "path": "/a", "value": True},
        {"op": "add", "path": "/l/9", "value": 1},
        {"op": "remove", "path": "/l/-"},
        {"op": "remove", "path": "/l/-1"},
        {"op": "fly", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
        {"path": "/a"},
        "nonsense",
        {"op": "move", "from": "/l", "path": "/l/0"},
    ],
    ids=str,
)
def test_an_operation_that_does_not_fit_is_a_bad_patch(operation):
    with pytest.raises(BadPatch, match="operation 0"):
        json_patch({"a": 1, "l": [1]}, [operation])


# ---- apply


@given(documents, documents, documents)
def test_applying_gives_what_is_stated_and_takes_back_what_no_longer_is(document, before, now):
    document, before, now = map(without_nulls, (document, before, now))

    applied = reapply(merge(document, before), before, now, keyed=False)

    assert merge(applied, now) == applied, "all that is stated stands"
    assert reapply(applied, now, now, keyed=False) == applied, "applying again changes nothing"
    for key in before.keys() - now.keys():
        if not isinstance(before[key], dict):
            assert key not in applied


def test_apply_takes_back_an_annotation_and_a_container_but_not_what_others_added():
    before = {"annotations": {"mine": "1"}, "containers": [{"name": "a"}, {"name": "b"}]}
    document = {
        "annotations": {"mine": "1", "theirs": "2"},
        "containers": [{"name": "a"}, {"name": "b"}, {"name": "sidecar"}],
    }

    applied = reapply(document, before, {"containers": [{"name": "a"}]}, keyed=True)

    assert applied == {
        "annotations": {"theirs": "2"},
        "containers": [{"name": "a"}, {"name": "sidecar"}],
    }
