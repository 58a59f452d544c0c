"""What we write to Kubernetes, against the lab's API server."""

from typing import cast

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from lab.api.kinds import EVENTS, NAMESPACES, PODS
from lab.api.misbehaving import Fault
from services._runtime.errors import Conflict, Unavailable
from services.watcher import model
from services.watcher.adapters import Denied, Events, Kube, Missing, pods
from services.watcher.model import CONDITION, STATUS_ANNOTATION, ObjectRef
from tests.watcher.builders import a_pod, read
from tests.watcher.fakes import KUBECONFIG


def a_stored_pod(cluster, name="client") -> model.Pod:
    found: model.Pod = read(model.Pod, cluster.store.create(PODS, a_pod(name)))
    return found


def about(pod: model.Pod) -> ObjectRef:
    return ObjectRef(
        api_version="v1", kind="Pod", namespace="default", name=pod.metadata.name, uid=pod.uid
    )


async def write(kube, pod, annotation="[]", *, connected=True, turned=True, reason="Connected"):
    condition = model.Condition(
        type=CONDITION, status=str(connected), reason=reason, message="as told"
    )
    annotations = {} if annotation is KEPT else {STATUS_ANNOTATION: annotation}
    return await pods.write_status(
        kube, pod, condition=condition, turned=turned, annotations=annotations
    )


KEPT = object()


async def test_annotation_and_condition_are_written_at_once(cluster, kube):
    pod = a_stored_pod(cluster)
    seen: list[tuple[object, object]] = []
    cluster.store.watch(
        PODS,
        lambda _, each: seen.append(
            (each["metadata"].get("annotations"), len(each["status"]["conditions"]))
        ),
        replay=False,
    )
    await write(kube, pod, '[{"name": "x"}]')
    assert seen == [({STATUS_ANNOTATION: '[{"name": "x"}]'}, 1)]


@pytest.mark.parametrize(("code", "after"), [(429, 7.0), (503, 7.0), (500, None), (504, None)])
async def test_only_who_is_too_busy_says_how_long_to_stay_away(cluster, kube, code, after):
    cluster.api.faults.add(Fault(what="refuse", kind="pods", code=code, seconds=7))
    with pytest.raises(Unavailable) as raised:
        await kube.get("/api/v1/pods")
    assert raised.value.after == after


async def test_the_annotation_is_set_kept_and_removed(cluster, kube):
    pod = a_stored_pod(cluster)
    assert (await write(kube, pod, "[1]")).annotations[STATUS_ANNOTATION] == "[1]"
    kept = await write(kube, pod, KEPT, connected=False)
    assert kept.annotations[STATUS_ANNOTATION] == "[1]"
    assert STATUS_ANNOTATION not in (await write(kube, pod, None)).annotations


async def test_the_condition_stands_beside_the_others(cluster, kube):
    pod = a_stored_pod(cluster)
    written = await write(kube, pod, connected=False, reason="Connecting")
    found = written.condition(CONDITION)
    assert found is not None
    assert (found.status, found.reason, found.message) == ("False", "Connecting", "as told")
    assert len(written.status.conditions or ()) == len(pod.status.conditions or ()) + 1


async def test_the_transition_time_moves_only_with_the_status(cluster, kube):
    pod = a_stored_pod(cluster)
    await write(kube, pod, connected=False, reason="A")
    before = stored_condition(cluster)["lastTransitionTime"]
    cluster.store.patch(
        PODS,
        "default",
        "client",
        {"status": {"conditions": [{"type": CONDITION, "lastTransitionTime": OLD}]}},
        form="strategic",
        status=True,
    )
    assert before != OLD
    await write(kube, pod, connected=False, turned=False, reason="B")
    assert stored_condition(cluster)["lastTransitionTime"] == OLD
    await write(kube, pod, connected=True)
    assert stored_condition(cluster)["lastTransitionTime"] != OLD


OLD = "2020-01-01T00:00:00Z"


def stored_condition(cluster):
    conditions = cluster.store.get(PODS, "default", "client")["status"]["conditions"]
    return next(each for each in conditions if each["type"] == CONDITION)


async def test_a_successor_of_the_same_name_is_not_written(cluster, kube):
    pod = a_stored_pod(cluster)
    cluster.store.delete(PODS, "default", "client", grace_seconds=0)
    with pytest.raises(Missing):
        await write(kube, pod)
    a_stored_pod(cluster)
    with pytest.raises(Conflict):
        await write(kube, pod)
    with pytest.raises(Conflict):
        await write(kube, pod, KEPT)


async def test_a_patch_of_a_successor_is_a_conflict_in_the_words_of_kubernetes(cluster, kube):
    pod = a_stored_pod(cluster)
    path = "/api/v1/namespaces/default/pods/client"
    with pytest.raises(Conflict, match=r"422 Invalid.*metadata.uid.*field is immutable"):
        await kube.patch(path, {"metadata": {"uid": "other"}})
    with pytest.raises(Denied, match="422 Invalid"):
        await kube.patch(path, {"metadata": {"uid": pod.uid, "labels": {"a": "not valid!"}}})


def a_going_namespace(cluster, name="going"):
    """A Pod that takes its time to end keeps it."""
    cluster.store.create(NAMESPACES, {"metadata": {"name": name}})
    found = cluster.store.create(PODS, a_pod(namespace=name))
    cluster.store.delete(NAMESPACES, "", name)
    return found


async def test_a_refusal_says_whose_turn_it_is(cluster, kube):
    pod = a_stored_pod(cluster)
    path = "/api/v1/namespaces/default/pods/client"
    with pytest.raises(Denied) as invalid:
        await kube.patch(path, {"metadata": {"uid": pod.uid, "labels": {"a": "not valid!"}}})
    assert (invalid.value.status, invalid.value.namespace_is_going) == (422, False)
    assert "answer of the API server" in invalid.value.remedy
    a_going_namespace(cluster)
    with pytest.raises(Denied) as forbidden:
        await events_of(kube).announce(
            msgspec.structs.replace(about(pod), namespace="going"),
            kind="Warning",
            reason="NoEndpoint",
            message="x",
        )
    assert (forbidden.value.status, forbidden.value.namespace_is_going) == (403, True)
    assert "grant the watcher the right" in forbidden.value.remedy


async def test_a_server_that_is_away_is_unavailable(cluster, kube):
    pod = a_stored_pod(cluster)
    await cluster.stop()
    with pytest.raises(Unavailable):
        await write(kube, pod)


async def test_a_request_that_can_never_work_is_denied(cluster, kube):
    pod = a_stored_pod(cluster)
    with pytest.raises(Denied):
        await kube.post("/api/v1/namespaces/default/pods", {"metadata": {"name": "Not Valid"}})
    assert pod


async def test_a_write_has_no_version_that_could_expire(cluster, kube):
    """Who writes expects to be denied; only who lists can begin anew."""
    pod = a_stored_pod(cluster)
    cluster.api.faults.add(Fault(what="refuse", kind="pods", code=410))
    with pytest.raises(Denied, match="410 Expired"):
        await write(kube, pod)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def events_of(kube: Kube, clock: Clock | None = None) -> Events:
    return Events(kube, instance="test", clock=clock or Clock())


async def say(events: Events, pod: model.Pod, message="no endpoint", **more) -> bool:
    return await events.announce(
        about(pod), kind="Warning", reason="NoEndpoint", message=message, **more
    )


def stored_events(cluster):
    return [record.body for record in cluster.store.shelf(EVENTS).records.values()]


async def test_the_same_news_is_one_event_counted(cluster, kube):
    pod, events = a_stored_pod(cluster), events_of(kube)
    for _ in range(3):
        assert await say(events, pod)
    await say(events, pod, "other news")
    found = {each["message"]: each for each in stored_events(cluster)}
    assert found["no endpoint"]["count"] == 3
    assert found["other news"]["count"] == 1
    assert found["no endpoint"]["involvedObject"]["uid"] == pod.uid
    assert found["no endpoint"]["type"] == "Warning"


async def test_a_restarted_watcher_goes_on_counting(cluster, kube):
    pod = a_stored_pod(cluster)
    await say(events_of(kube), pod)
    await say(events_of(kube), pod)
    assert [each["count"] for each in stored_events(cluster)] == [2]


async def test_what_was_said_before_is_not_repeated_unless_it_happened_again(cluster, kube):
    pod = a_stored_pod(cluster)
    await say(events_of(kube), pod)
    events = events_of(kube)
    await say(events, pod, again=False)
    await say(events, pod, again=False)
    assert [each["count"] for each in stored_events(cluster)] == [1]


async def test_an_event_that_expired_is_created_anew(cluster, kube):
    pod, events = a_stored_pod(cluster), events_of(kube)
    await say(events, pod)
    (stored,) = stored_events(cluster)
    cluster.store.delete(EVENTS, "default", stored["metadata"]["name"])
    await say(events, pod)
    assert [each["count"] for each in stored_events(cluster)] == [1]


async def test_one_object_cannot_drown_the_others(cluster, kube):
    clock = Clock()
    noisy, quiet, events = a_stored_pod(cluster), a_stored_pod(cluster, "q"), events_of(kube, clock)
    said = [await say(events, noisy, f"news {at}") for at in range(40)]
    assert 5 <= sum(said) <= 20
    assert await say(events, quiet)
    clock.now += 60
    assert await say(events, noisy, "later")


async def test_an_event_that_expires_while_it_is_looked_at_is_created_anew(cluster, kube):
    pod = a_stored_pod(cluster)
    await say(events_of(kube), pod)

    class Late(Kube):
        async def get(self, path, query=None):
            cluster.store.delete(EVENTS, "default", path.rpartition("/")[2])
            return await super().get(path, query)

    async with Late(str(cluster.kubeconfig)) as late:
        assert await say(events_of(late), pod)
    assert [each["count"] for each in stored_events(cluster)] == [1]


class Busy:
    """A Kube that fails so many times before it works."""

    def __init__(self, kube: Kube, failures: int) -> None:
        self.kube = kube
        self.failures = failures

    async def post(self, path, body):
        if self.failures:
            self.failures -= 1
            raise Unavailable("busy")
        return await self.kube.post(path, body)


async def test_only_what_was_written_is_counted_against_an_object(cluster, kube):
    pod, busy = a_stored_pod(cluster), Busy(kube, 30)
    events = events_of(cast("Kube", busy))
    for _ in range(30):
        with pytest.raises(Unavailable):
            await say(events, pod)
    assert await say(events, pod)


async def test_a_long_message_is_cut_to_what_the_server_takes(cluster, kube):
    pod, events = a_stored_pod(cluster), events_of(kube)
    assert await say(events, pod, "ü" * 5000 + "; write less")
    message = stored_events(cluster)[0]["message"]
    assert 1000 < len(message.encode()) <= 1024
    assert " … " in message
    assert message.endswith("ü; write less")


async def test_an_object_is_told_how_long_it_is_kept_back(cluster, kube):
    clock = Clock()
    pod, events = a_stored_pod(cluster), events_of(kube, clock)
    assert events.kept_back_seconds(about(pod)) == 0
    while await say(events, pod):
        pass
    clock.now += events.kept_back_seconds(about(pod)) - 1
    assert not await say(events, pod)
    clock.now += 1
    assert await say(events, pod)


@pytest.mark.parametrize("name", ["a" * 229 + ".b", "a" * 229 + "-b"])
async def test_an_event_of_a_long_name_has_a_name_that_is_one(cluster, kube, name):
    pod, events = a_stored_pod(cluster, name), events_of(kube)
    assert await say(events, pod)


async def test_what_is_written_bears_our_name(tmp_path):
    seen = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.method, request.query_string, request.headers["User-Agent"]))
        return web.json_response({})

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    async with TestServer(app) as server:
        (tmp_path / "kubeconfig").write_text(
            KUBECONFIG.format(url=str(server.make_url("")).rstrip("/"))
        )
        async with Kube(str(tmp_path / "kubeconfig")) as kube:
            await kube.post("/x", {})
            await kube.patch("/x", {})
    assert seen == [
        (method, "fieldManager=nsm-watcher", "nsm-watcher") for method in ("POST", "PATCH")
    ]
