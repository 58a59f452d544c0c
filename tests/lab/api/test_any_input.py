"""Whatever JSON is sent, the store takes it or says ApiError: never another exception, never half a write."""

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.api.errors import ApiError
from lab.api.kinds import (
    CONFIG_MAPS,
    DEFINITIONS,
    NETWORK_SERVICE_ENDPOINTS,
    NODES,
    PODS,
    SERVICE_CIDRS,
    SERVICES,
)
from lab.api.manifests import ManifestError, read_text
from lab.api.requests import Target, fitting
from lab.api.store import Store
from lab.api.tables import cells
from tests.lab.api.builders import a_config_map, a_definition, a_pod, an_endpoint

KINDS = {
    PODS: a_pod("x", finalizers=["a.example/x"]),
    CONFIG_MAPS: a_config_map("x"),
    SERVICES: {"metadata": {"name": "x", "namespace": "default"}, "spec": {"ports": [{"port": 1}]}},
    NETWORK_SERVICE_ENDPOINTS: an_endpoint("x"),
    NODES: {"metadata": {"name": "x"}},
    SERVICE_CIDRS: {"metadata": {"name": "x"}, "spec": {"cidrs": ["10.97.0.0/16"]}},
    DEFINITIONS: a_definition(),
}
STATUS = {"conditions": [{"type": "Ready", "status": "True"}], "addresses": [{"type": "A"}]}
WORDS = [
    "metadata",
    "spec",
    "status",
    "name",
    "namespace",
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "uid",
    "resourceVersion",
    "containers",
    "image",
    "env",
    "value",
    "ports",
    "port",
    "targetPort",
    "nodePort",
    "selector",
    "type",
    "clusterIP",
    "conditions",
    "networkServices",
    "cidrs",
    "versions",
    "names",
    "group",
    "schema",
    "ipam",
    "prefixes",
    "podSelector",
    "matchLabels",
    "routes",
    "weight",
    "containerStatuses",
    "readinessGates",
    "addresses",
    "nodeInfo",
    "state",
    "waiting",
    "deletionTimestamp",
    "generation",
    "data",
    "immutable",
    "kind",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "$setElementOrder/conditions",
    "externalName",
    "restartCount",
    "ready",
    "taints",
    "spec.x",
    "op",
    "path",
    "from",
]
words = st.sampled_from(WORDS)
scalars = (
    st.none() | st.booleans() | st.integers(-1, 99) | st.sampled_from(["", "x", "delete", "merge"])
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=5),
    max_leaves=25,
)
objects = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("metadata", "spec", "status", "data", "involvedObject"), anything),
)
steps = st.lists(words | st.sampled_from(["0", "-", "9"]), max_size=3)
operations = st.fixed_dictionaries(
    {
        "op": st.sampled_from(["add", "remove", "replace", "copy", "move", "test"]),
        "path": steps.map(lambda parts: "".join(f"/{part}" for part in parts)),
        "from": steps.map(lambda parts: "".join(f"/{part}" for part in parts)),
        "value": anything,
    }
)


def attempt(store, action):
    """Run it: it succeeds, or says so and leaves the version as it was."""
    before = store.version
    try:
        action()
    except ApiError as error:
        assert store.version == before
        assert error.status["message"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
@given(patch=objects, form=st.sampled_from(["merge", "strategic"]), status=st.booleans())
@settings(deadline=None, max_examples=50)
def test_any_patch_applies_or_is_refused(kind, patch, form, status):
    store, status = Store(), status and kind.status
    namespace = "default" if kind.namespaced else ""
    store.create(kind, KINDS[kind])
    name = KINDS[kind]["metadata"]["name"]
    if kind.status:
        store.patch(kind, namespace, name, {"status": STATUS}, status=True)
    attempt(store, lambda: store.patch(kind, namespace, name, patch, form=form, status=status))
    for obj in store.objects(kind):
        assert len(cells(kind, obj, store.now(), store.definition(kind)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
@given(patch=st.lists(operations, max_size=4))
@settings(deadline=None, max_examples=50)
def test_any_json_patch_applies_or_is_refused(kind, patch):
    store = Store()
    store.create(kind, KINDS[kind])
    name = KINDS[kind]["metadata"]["name"]
    attempt(store, lambda: store.patch(kind, "default", name, patch, form="json"))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.plural)
@given(first=objects, second=objects)
@settings(deadline=None, max_examples=50)
def test_any_objects_are_created_applied_and_updated_or_refused(kind, first, second):
    store = Store()
    namespace = "default" if kind.namespaced else ""
    target = Target(kind=kind, namespace=namespace, name="x")

    def write(body):
        attempt(store, lambda: store.apply(kind, fitting(target, body, name="x"), manager="m"))
        attempt(store, lambda: store.update(kind, fitting(target, body, name="x")))
        attempt(store, lambda: store.create(kind, fitting(target, body)))

    given_bodies = copy.deepcopy((first, second))
    write(first)
    write(second)
    assert (first, second) == given_bodies, "what the caller gave is left alone"


@given(
    st.text(max_size=40) | st.sampled_from(["a: &a [*a]", "? {a: b}", "!!python/object:os.x {}"])
)
def test_any_text_is_manifests_or_a_manifest_error(text):
    try:
        read_text(text, source="x.yaml")
    except ManifestError as error:
        assert str(error).startswith("x.yaml, document ")
