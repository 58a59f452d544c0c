"""Writing: what Kubernetes promises about names, versions, status, grace and finalizers."""

import datetime as dt

import pytest

from lab.api.errors import ApiError
from lab.api.kinds import (
    CONFIG_MAPS,
    EVENTS,
    NAMESPACES,
    NETWORK_SERVICE_ENDPOINTS,
    NETWORK_SERVICES,
    NODES,
    PODS,
    SERVICES,
)
from lab.api.store import Store
from tests.lab.api.builders import a_config_map, a_pod, an_endpoint, an_event


def refused(reason):
    return pytest.raises(ApiError, check=lambda error: error.reason == reason)


def causes(error):
    return {cause["field"]: cause["reason"] for cause in error.value.status["details"]["causes"]}


# ---- create


def test_the_first_namespaces_are_there_at_start(store):
    assert [n["metadata"]["name"] for n in store.objects(NAMESPACES)] == [
        "default",
        "kube-system",
        "nsm-system",
    ]


def test_a_new_object_has_identity_version_and_time(store):
    one, two = store.create(PODS, a_pod("a")), store.create(PODS, a_pod("b"))

    assert one["metadata"]["uid"] != two["metadata"]["uid"]
    assert int(two["metadata"]["resourceVersion"]) == int(one["metadata"]["resourceVersion"]) + 1
    assert dt.datetime.fromisoformat(one["metadata"]["creationTimestamp"])
    assert one["apiVersion"] == "v1"
    assert one["kind"] == "Pod"


def test_a_pod_gets_its_defaults_and_starts_pending_whatever_it_claims(store):
    pod = store.create(PODS, a_pod() | {"status": {"phase": "Running"}})

    assert pod["spec"]["terminationGracePeriodSeconds"] == 30
    assert pod["spec"]["restartPolicy"] == "Always"
    assert pod["status"]["phase"] == "Pending"


def test_generate_name_makes_names_that_differ(store):
    pod = a_pod(generateName="web-")
    del pod["metadata"]["name"]

    names = {store.create(PODS, pod)["metadata"]["name"] for _ in range(20)}

    assert len(names) == 20
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


def test_a_namespace_must_exist(store):
    with refused("NotFound"):
        store.create(PODS, a_pod(namespace="nowhere"))


def test_a_name_exists_once(store):
    store.create(PODS, a_pod())
    with refused("AlreadyExists"):
        store.create(PODS, a_pod())


def test_what_is_written_is_a_copy(store):
    pod = a_pod()
    created = store.create(PODS, pod)
    pod["spec"]["nodeName"] = created["spec"]["nodeName"] = "elsewhere"

    assert "nodeName" not in store.get(PODS, "default", "web")["spec"]


@pytest.mark.parametrize(
    ("kind", "change", "field"),
    [
        (PODS, {"spec": {}}, "spec.containers"),
        (PODS, {"spec": {"containers": []}}, "spec.containers"),
        (PODS, {"spec": {"containers": "x"}}, "spec.containers"),
        (PODS, {"spec": {"containers": [{"name": "a"}]}}, "spec.containers[0].image"),
        (PODS, {"spec": {"containers": [{"name": "A_", "image": "x"}]}}, "spec.containers[0].name"),
        (PODS, {"spec": None}, "spec"),
        (PODS, {"metadata": {"namespace": "default", "name": "Web"}}, "metadata.name"),
        (PODS, {"metadata": {"namespace": "default"}}, "metadata.name"),
        (NETWORK_SERVICE_ENDPOINTS, {"spec": {"networkServices": "a"}}, "spec.networkServices"),
        (NETWORK_SERVICE_ENDPOINTS, {"spec": {"labels": {"a": 1}}}, "spec.labels.a"),
        (NETWORK_SERVICE_ENDPOINTS, {"spec": {"routes": [{}]}}, "spec.routes[0].destination"),
        (NETWORK_SERVICES, {"spec": {"payload": "TCP"}}, "spec.payload"),
        (
            NETWORK_SERVICES,
            {"spec": {"matches": [{"routes": [{"weight": True}]}]}},
            "spec.matches[0].routes[0].weight",
        ),
    ],
)
def test_an_invalid_object_is_refused_with_the_field_that_is_wrong(store, kind, change, field):
    base = a_pod() if kind == PODS else an_endpoint()
    with refused("Invalid") as error:
        store.create(kind, base | change)
    assert field in causes(error)


def test_a_service_gets_a_free_cluster_address(store):
    def service(name, **spec):
        metadata = {"name": name, "namespace": "default"}
        return {"metadata": metadata, "spec": {"ports": [{"port": 80}]} | spec}

    fixed = store.create(SERVICES, service("dns", clusterIP="10.96.0.10"))
    free = [store.create(SERVICES, service(name))["spec"]["clusterIP"] for name in "ab"]
    headless = store.create(SERVICES, service("headless", clusterIP="None"))

    assert fixed["spec"]["clusterIPs"] == ["10.96.0.10"]
    assert free == ["10.96.1.0", "10.96.1.1"]
    assert headless["spec"]["clusterIP"] == "None"
    with refused("Invalid"):
        store.create(SERVICES, service("other", clusterIP="10.96.0.10"))


# ---- update


def test_a_stale_version_is_a_conflict_and_changes_nothing(store):
    old = store.create(CONFIG_MAPS, a_config_map())
    store.update(CONFIG_MAPS, old | {"data": {"key": "second"}})

    with refused("Conflict"):
        store.update(CONFIG_MAPS, old | {"data": {"key": "third"}})

    assert store.get(CONFIG_MAPS, "default", "settings")["data"] == {"key": "second"}


def test_an_update_without_a_version_is_for_built_in_kinds_only(store):
    store.create(CONFIG_MAPS, a_config_map())
    store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())

    store.update(CONFIG_MAPS, a_config_map() | {"data": {}})
    with refused("Invalid") as error:
        store.update(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    assert "metadata.resourceVersion" in causes(error)


def test_an_update_for_another_uid_is_a_conflict(store):
    pod = store.create(PODS, a_pod())
    pod["metadata"]["uid"] = "someone-else"
    with refused("Conflict"):
        store.update(PODS, pod)


def test_an_update_that_changes_nothing_is_no_change(store):
    pod = store.create(PODS, a_pod())
    seen = []
    store.watch(PODS, lambda kind, obj: seen.append(kind), replay=False)

    again = store.update(PODS, pod)

    assert again == pod
    assert seen == []


def test_the_spec_moves_the_generation_and_status_and_metadata_do_not(store):
    endpoint = store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    generations = [endpoint["metadata"]["generation"]]
    for change in ({"spec": {"networkServices": ["x"]}}, {"metadata": {"labels": {"a": "b"}}}):
        patched = store.patch(NETWORK_SERVICE_ENDPOINTS, "default", "vpn", change)
        generations.append(patched["metadata"]["generation"])
    endpoint = store.patch(
        NETWORK_SERVICE_ENDPOINTS, "default", "vpn", {"status": {"pods": 1}}, status=True
    )
    generations.append(endpoint["metadata"]["generation"])

    assert generations == [1, 2, 2, 2]


def test_the_object_cannot_write_its_status_and_the_status_not_the_spec(store):
    pod = store.create(PODS, a_pod(node="node1"))

    updated = store.update(PODS, pod | {"status": {"phase": "Running"}})
    assert updated["status"]["phase"] == "Pending"

    changed = updated | {"status": {"phase": "Running"}, "spec": {"nodeName": "node2"}}
    written = store.update_status(PODS, changed)
    assert written["status"]["phase"] == "Running"
    assert written["spec"]["nodeName"] == "node1"


def test_status_of_a_pod_may_annotate_status_of_a_custom_object_may_not(store):
    pod = store.create(PODS, a_pod())
    endpoint = store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    patch = {"metadata": {"annotations": {"a": "b"}}, "status": {"x": 1}}

    pod = store.patch(PODS, "default", "web", patch, status=True)
    endpoint = store.patch(NETWORK_SERVICE_ENDPOINTS, "default", "vpn", patch, status=True)

    assert pod["metadata"]["annotations"] == {"a": "b"}
    assert "annotations" not in endpoint["metadata"]
    assert endpoint["status"] == {"x": 1}


def test_the_spec_of_a_pod_is_fixed_but_its_image_is_not(store):
    store.create(PODS, a_pod())

    def change(**container):
        patch = {"spec": {"containers": [{"name": "main"} | container]}}
        return store.patch(PODS, "default", "web", patch, form="strategic")

    assert change(image="other")["spec"]["containers"][0]["image"] == "other"
    with refused("Invalid"):
        change(command=["sh"])
    with refused("Invalid"):
        store.patch(PODS, "default", "web", {"spec": {"nodeName": "node1"}})


def test_an_immutable_config_map_stays_as_it_is(store):
    store.create(CONFIG_MAPS, a_config_map() | {"immutable": True})
    with refused("Invalid"):
        store.patch(CONFIG_MAPS, "default", "settings", {"data": {"key": "other"}})


def test_a_pod_is_bound_once(store):
    store.create(PODS, a_pod())

    bound = store.bind("default", "web", "node1")

    assert bound["spec"]["nodeName"] == "node1"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"
    with refused("Conflict"):
        store.bind("default", "web", "node2")


# ---- patch


@pytest.mark.parametrize("form", ["merge", "strategic"])
def test_a_version_or_uid_in_a_patch_is_a_precondition(store, form):
    pod = store.create(PODS, a_pod())
    current = {name: pod["metadata"][name] for name in ("uid", "resourceVersion")}

    def annotate(value, **metadata):
        patch = {"metadata": {"annotations": {"a": value}} | metadata}
        return store.patch(PODS, "default", "web", patch, form=form)

    annotate("1", **current)
    with refused("Conflict"):
        annotate("2", resourceVersion=current["resourceVersion"])
    with refused("Invalid") as caught:  # so Kubernetes answers; a PUT is a Conflict
        annotate("2", uid="other")
    assert [each["field"] for each in caught.value.details["causes"]] == ["metadata.uid"]
    assert "field is immutable" in caught.value.message
    assert store.get(PODS, "default", "web")["metadata"]["annotations"] == {"a": "1"}


def test_a_patch_cannot_rename(store):
    store.create(PODS, a_pod())
    with refused("BadRequest"):
        store.patch(PODS, "default", "web", {"metadata": {"name": "other"}})


def test_a_patch_that_does_not_fit_is_invalid(store):
    store.create(PODS, a_pod())
    with refused("Invalid"):
        store.patch(PODS, "default", "web", [{"op": "remove", "path": "/nothing"}], form="json")


@pytest.mark.parametrize(("form", "patch"), [("json", {}), ("merge", []), ("strategic", "x")])
def test_a_patch_of_the_wrong_type_is_a_bad_request(store, form, patch):
    store.create(PODS, a_pod())
    with refused("BadRequest"):
        store.patch(PODS, "default", "web", patch, form=form)


def test_a_condition_is_merged_into_the_status_by_its_type(store):
    store.create(PODS, a_pod())
    for kind, status in (("Ready", "False"), ("Connected", "True"), ("Ready", "True")):
        patch = {"status": {"conditions": [{"type": kind, "status": status}]}}
        pod = store.patch(PODS, "default", "web", patch, form="strategic", status=True)

    assert {c["type"]: c["status"] for c in pod["status"]["conditions"]} == {
        "Ready": "True",
        "Connected": "True",
    }


def test_a_dry_run_answers_and_changes_nothing(store):
    before = store.version
    store.create(PODS, a_pod(), dry_run=True)
    assert store.find(PODS, "default", "web") is None

    store.create(PODS, a_pod())
    patched = store.patch(
        PODS, "default", "web", {"metadata": {"labels": {"a": "b"}}}, dry_run=True
    )
    store.delete(PODS, "default", "web", dry_run=True)

    assert patched["metadata"]["labels"] == {"a": "b"}
    assert "labels" not in store.get(PODS, "default", "web")["metadata"]
    assert store.version == before + 1


# ---- apply


def test_apply_creates_then_merges_then_takes_back_what_is_no_longer_stated(store):
    pod = a_pod(annotations={"networkservicemesh.io": "vpn", "keep": "1"})
    outcomes = [store.apply(PODS, pod, manager="lab")[1], store.apply(PODS, pod, manager="lab")[1]]
    store.patch(PODS, "default", "web", {"metadata": {"annotations": {"theirs": "2"}}})

    applied, new = store.apply(PODS, a_pod(annotations={"keep": "1"}), manager="lab")

    assert outcomes == [True, False]
    assert not new
    assert applied["metadata"]["annotations"] == {"keep": "1", "theirs": "2"}


def test_applying_the_same_again_writes_nothing(store):
    store.apply(NETWORK_SERVICE_ENDPOINTS, an_endpoint(), manager="lab")
    before = store.version
    store.apply(NETWORK_SERVICE_ENDPOINTS, an_endpoint(), manager="lab")
    assert store.version == before


# ---- delete


def test_a_pod_that_runs_nowhere_is_removed_at_once(store):
    store.create(PODS, a_pod())
    assert store.delete(PODS, "default", "web").gone
    assert store.find(PODS, "default", "web") is None


def test_a_running_pod_is_marked_and_goes_when_its_kubelet_confirms(store):
    pod = store.create(PODS, a_pod(node="node1"))

    removed = store.delete(PODS, "default", "web", grace_seconds=7)
    marked = store.get(PODS, "default", "web")
    assert not removed.gone
    assert marked["metadata"]["deletionTimestamp"]
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 7

    assert store.delete(PODS, "default", "web", grace_seconds=0, uid=pod["metadata"]["uid"]).gone
    with refused("NotFound"):
        store.get(PODS, "default", "web")


def test_grace_can_be_shortened_but_not_lengthened(store):
    store.create(PODS, a_pod(node="node1"))
    store.delete(PODS, "default", "web")
    graces = []
    for seconds in (60, 5, 10):
        store.delete(PODS, "default", "web", grace_seconds=seconds)
        pod = store.get(PODS, "default", "web")
        graces.append(pod["metadata"]["deletionGracePeriodSeconds"])
    assert graces == [30, 5, 5]


def test_a_finished_pod_needs_no_grace(store):
    store.create(PODS, a_pod(node="node1"))
    store.patch(PODS, "default", "web", {"status": {"phase": "Succeeded"}}, status=True)
    assert store.delete(PODS, "default", "web").gone


@pytest.mark.parametrize("precondition", [{"uid": "other"}, {"version": "1"}])
def test_a_delete_whose_precondition_fails_is_a_conflict(store, precondition):
    store.create(PODS, a_pod())
    with refused("Conflict"):
        store.delete(PODS, "default", "web", **precondition)
    assert store.find(PODS, "default", "web")


def test_finalizers_hold_an_object_until_the_last_is_taken_off(store):
    store.create(CONFIG_MAPS, a_config_map(finalizers=["a.example/x", "b.example/y"]))
    seen = []
    store.watch(CONFIG_MAPS, lambda kind, obj: seen.append(kind), replay=False)

    assert not store.delete(CONFIG_MAPS, "default", "settings").gone
    for left in (["b.example/y"], None):
        store.patch(CONFIG_MAPS, "default", "settings", {"metadata": {"finalizers": left}})

    assert store.find(CONFIG_MAPS, "default", "settings") is None
    assert seen[-1] == "DELETED"


def test_no_finalizer_joins_an_object_that_is_going(store):
    store.create(CONFIG_MAPS, a_config_map(finalizers=["a.example/x"]))
    store.delete(CONFIG_MAPS, "default", "settings")
    patch = {"metadata": {"finalizers": ["a.example/x", "late.example/y"]}}
    with refused("Invalid"):
        store.patch(CONFIG_MAPS, "default", "settings", patch)


def test_a_namespace_takes_its_objects_along_and_waits_for_its_pods(store):
    store.create(NAMESPACES, {"metadata": {"name": "team"}})
    store.create(CONFIG_MAPS, a_config_map(namespace="team"))
    store.create(PODS, a_pod(namespace="team", node="node1"))

    assert not store.delete(NAMESPACES, "", "team").gone
    assert store.get(NAMESPACES, "", "team")["status"]["phase"] == "Terminating"
    assert store.find(CONFIG_MAPS, "team", "settings") is None
    with refused("Forbidden") as error:
        store.create(CONFIG_MAPS, a_config_map("late", namespace="team"))
    assert causes(error) == {"metadata.namespace": "NamespaceTerminating"}

    store.delete(PODS, "team", "web", grace_seconds=0)
    assert store.find(NAMESPACES, "", "team") is None


def test_an_empty_namespace_goes_at_once_and_the_first_ones_never(store):
    store.create(NAMESPACES, {"metadata": {"name": "team"}})
    assert store.delete(NAMESPACES, "", "team").gone
    with refused("Forbidden"):
        store.delete(NAMESPACES, "", "default")


# ---- reading in process


def test_a_watch_in_process_replays_and_follows_its_selection(store):
    store.create(PODS, a_pod("a", node="node1"))
    store.create(PODS, a_pod("b", node="node2"))
    seen = []
    stop = store.watch(
        PODS,
        lambda kind, pod: seen.append((kind, pod["metadata"]["name"])),
        fields="spec.nodeName=node1",
    )

    store.create(PODS, a_pod("c"))
    store.bind("default", "c", "node1")
    store.delete(PODS, "default", "a", grace_seconds=0)
    stop()
    store.delete(PODS, "default", "c", grace_seconds=0)

    assert seen == [("ADDED", "a"), ("ADDED", "c"), ("DELETED", "a")]


def test_a_callback_that_writes_does_not_confuse_the_order_of_others(store):
    def schedule(kind, pod):
        if "nodeName" not in pod["spec"]:
            store.bind("default", pod["metadata"]["name"], "node1")

    before: list[str] = []
    after: list[str] = []
    store.watch(PODS, lambda kind, _: before.append(kind))
    store.watch(PODS, schedule)
    store.watch(PODS, lambda kind, _: after.append(kind))

    store.create(PODS, a_pod())

    assert before == after == ["ADDED", "MODIFIED"]


def test_a_watch_begun_inside_a_callback_hears_of_each_change_once(store):
    seen = []

    def begin(kind, pod):
        store.watch(PODS, lambda kind, pod: seen.append(kind))

    store.watch(CONFIG_MAPS, lambda *_: store.create(PODS, a_pod()), replay=False)
    store.watch(PODS, begin, replay=False)
    store.create(CONFIG_MAPS, a_config_map())

    assert seen == ["ADDED"]


def test_a_callback_that_fails_stops_neither_the_write_nor_the_others(store):
    def broken(kind, pod):
        raise RuntimeError("a bug of a callback")

    seen = []
    store.watch(PODS, broken)
    store.watch(PODS, lambda kind, pod: seen.append(kind))
    store.watch(PODS, broken)

    store.create(PODS, a_pod())

    assert seen == ["ADDED"]


def test_objects_are_listed_by_namespace_and_name_and_selected(store):
    for name, labels in (("b", {"app": "x"}), ("a", {"app": "x"}), ("c", {})):
        store.create(PODS, a_pod(name, labels=labels))
    names = [pod["metadata"]["name"] for pod in store.objects(PODS, labels="app=x")]
    assert names == ["a", "b"]


def test_a_node_keeps_the_status_it_registers_with(store):
    node = {"metadata": {"name": "node1"}, "status": {"addresses": [{"type": "InternalIP"}]}}
    assert store.create(NODES, node)["status"] == node["status"]


def test_events_go_an_hour_after_they_were_written_last():
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    times = [now]
    store = Store(clock=lambda: times[-1])
    store.create(EVENTS, an_event("old"))
    store.create(EVENTS, an_event("repeated"))
    times.append(now + dt.timedelta(minutes=50))
    later = {"lastTimestamp": "2026-01-01T00:50:00Z", "count": 2}
    store.patch(EVENTS, "default", "repeated", later)
    times.append(now + dt.timedelta(minutes=61))

    store.expire_events()

    assert [event["metadata"]["name"] for event in store.objects(EVENTS)] == ["repeated"]


def test_what_a_manager_applied_over_an_object_of_another_and_leaves_out_goes(store):
    store.create(PODS, a_pod("web", annotations={"theirs": "1"}))
    stated = a_pod("web")
    stated["metadata"]["annotations"] = {"mine": "1"}
    store.apply(PODS, stated, manager="m")
    assert store.get(PODS, "default", "web")["metadata"]["annotations"] == {
        "theirs": "1",
        "mine": "1",
    }
    del stated["metadata"]["annotations"]
    store.apply(PODS, stated, manager="m")
    assert store.get(PODS, "default", "web")["metadata"]["annotations"] == {"theirs": "1"}
