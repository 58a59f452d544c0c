"""Informer: the truth arrives, whatever happens to the connection. Over real HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from services.watcher import model
from services.watcher.adapters import Informer, Kube, Resource
from services.watcher.adapters import informer as informing
from services.watcher.adapters.lines import split
from tests.watcher.builders import a_pod
from tests.watcher.fakes import CUSTOM_PATH, PATH, FaultyApi

QUICK = (0.01, 0.05)
CUSTOM = Resource(kind=model.Pod, path=CUSTOM_PATH)


class Seen:
    """Changes as told; `until` waits for a condition on them, with every change as the wake-up."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, str]] = []
        self.informer: Informer | None = None
        self._changed = asyncio.Event()

    def __call__(self, ref, before, after):
        verb = "come" if before is None else "gone" if after is None else "changed"
        self.changes.append((verb, ref[1], (after or before).uid))
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    @property
    def names(self) -> set[str]:
        assert self.informer is not None
        return {ref[1] for ref in self.informer.items}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[FaultyApi]:
    served = FaultyApi()
    await served.start(tmp_path)
    yield served
    await served.stop()


@asynccontextmanager
async def informed(tmp_path: Path, **options) -> AsyncIterator[Seen]:
    seen = Seen()
    resource = options.pop("resource", Resource(kind=model.Pod, path=PATH))
    async with Kube(str(tmp_path / "kubeconfig")) as kube:
        seen.informer = Informer(kube, resource, seen, backoff_seconds=QUICK, **options)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(seen.informer.run())
            try:
                async with asyncio.timeout(30):
                    await seen.informer.synced.wait()
                yield seen
            finally:
                task.cancel()


async def test_a_list_of_many_pages_then_a_watch_from_its_version(api, tmp_path, monkeypatch):
    monkeypatch.setattr(informing, "_PAGE", 2)
    for name in "abcde":
        api.put(a_pod(name))
    async with informed(tmp_path) as seen:
        assert seen.names == set("abcde")
        await api.watched(1)
        assert len(api.lists) == 3
        assert api.watches[0]["resourceVersion"] == "105"
        assert api.tokens == {"Bearer fake-token"}


async def test_every_change_is_told_once_and_in_order(api, tmp_path):
    api.put(a_pod("a"))
    async with informed(tmp_path) as seen:
        await api.watched(1)
        api.put(a_pod("a", phase="Failed"))
        await seen.until(lambda: len(seen.changes) == 2)
        api.put(a_pod("b"))
        await seen.until(lambda: len(seen.changes) == 3)
        api.delete("a")
        await seen.until(lambda: len(seen.changes) == 4)
        assert [each[:2] for each in seen.changes] == [
            ("come", "a"),
            ("changed", "a"),
            ("come", "b"),
            ("gone", "a"),
        ]


async def test_what_arrives_together_is_told_once_per_object(api, tmp_path):
    async with informed(tmp_path) as seen:
        await api.watched(1)
        lines = []
        for version, phase in enumerate(("Pending", "Running", "Failed"), start=200):
            lines.append(event("ADDED", a_pod("a", phase=phase), version))
        lines.append(event("ADDED", a_pod("passes by"), 210))
        lines.append(event("DELETED", a_pod("passes by"), 211))
        api.raw(b"".join(lines))
        await seen.until(lambda: bool(seen.changes))
        assert [each[:2] for each in seen.changes] == [("come", "a")]
        assert seen.informer is not None
        assert seen.informer.items["default", "a"].status.phase == "Failed"


async def test_only_what_we_look_at_is_kept(api, tmp_path):
    ours = {"networkservicemesh.io": "vpn", "dns.networkservicemesh.io/capture": "false"}
    applied = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 100_000}
    for name in "ab":
        api.put(a_pod(name, annotations=ours | applied))
    async with informed(tmp_path) as seen:
        assert seen.informer is not None
        one, other = seen.informer.items.values()
        assert one.metadata.annotations == ours
        assert one.status.conditions is other.status.conditions


async def test_a_line_that_is_no_json_is_followed_by_a_list(api, tmp_path):
    async with informed(tmp_path) as seen:
        await api.watched(1)
        api.put(a_pod("a"), told=False)
        api.raw(b"{nonsense}\n")
        await seen.until(lambda: seen.names == {"a"})
        assert len(api.lists) == 2


def event(verb, found, version):
    found["metadata"]["resourceVersion"] = str(version)
    return msgspec.json.encode({"type": verb, "object": found}) + b"\n"


async def test_a_new_uid_under_the_same_name_is_gone_and_come(api, tmp_path):
    api.put(a_pod("a", uid="one"))
    async with informed(tmp_path) as seen:
        await api.watched(1)
        api.put(a_pod("a", uid="two"))
        await seen.until(lambda: len(seen.changes) == 3)
        assert seen.changes[1:] == [("gone", "a", "one"), ("come", "a", "two")]


async def test_a_cut_in_the_middle_of_a_line_loses_and_doubles_nothing(api, tmp_path):
    async with informed(tmp_path) as seen:
        await api.watched(1)
        api.put(a_pod("a"))
        await seen.until(lambda: seen.names == {"a"})
        api.raw(b'{"type":"ADDED","object":{"metadata":{"name":"ha')
        api.cut_watches()
        await api.watched(2)
        api.put(a_pod("b"))
        await seen.until(lambda: seen.names == {"a", "b"})
        assert api.watches[1]["resourceVersion"] == "101"
        assert len(api.lists) == 1
        assert len(seen.changes) == 2


@pytest.mark.parametrize("form", ["status", "event"])
async def test_410_in_either_form_lists_again_and_tells_the_difference(api, tmp_path, form):
    api.put(a_pod("stays"))
    api.put(a_pod("goes"))
    async with informed(tmp_path) as seen:
        await api.watched(1)
        api.delete("goes", told=False)
        api.put(a_pod("new"), told=False)
        api.oldest = api.version
        if form == "status":
            api.end_watches()
        else:
            api.error(410)
        await seen.until(lambda: seen.names == {"stays", "new"})
        assert sorted(seen.changes[2:]) == [
            ("come", "new", "uid-default-new"),
            ("gone", "goes", "uid-default-goes"),
        ]


async def test_410_between_pages_begins_the_list_again(api, tmp_path, monkeypatch):
    monkeypatch.setattr(informing, "_PAGE", 1)
    api.put(a_pod("a"))
    api.put(a_pod("b"))
    api.list_answers.extend([200, 410])
    async with informed(tmp_path) as seen:
        assert seen.names == {"a", "b"}
        assert [query.get("continue") for query in api.lists] == [None, "1", None, "1"]


async def test_a_bookmark_moves_the_version_to_resume_from(api, tmp_path):
    async with informed(tmp_path):
        await api.watched(1)
        api.bookmark()
        api.end_watches()
        await api.watched(2)
        assert api.watches[1]["resourceVersion"] == "101"
        assert len(api.lists) == 1


async def test_a_server_with_another_past_is_listed_again(api, tmp_path):
    api.put(a_pod("a"))
    async with informed(tmp_path) as seen:
        await api.watched(1)
        api.objects.clear()
        api.version = 5
        api.put(a_pod("b"), told=False)
        api.raw(b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"6"}}}\n')
        await seen.until(lambda: seen.names == {"b"})


async def test_a_restored_server_that_swallows_its_news_is_seen_through(api, tmp_path):
    api.put(a_pod("a"))
    async with informed(tmp_path, silence_seconds=0.2) as seen:
        await api.watched(1)
        api.restore(version=5)
        await api.watched(2)
        assert api.watches[1]["resourceVersion"] == "101"
        api.put(a_pod("b"))  # below what we watch from: the server does not tell
        await seen.until(lambda: seen.names == {"b"})
        assert seen.changes[1:] == [("come", "b", "uid-default-b"), ("gone", "a", "uid-default-a")]


async def test_an_idle_kind_is_listed_now_and_then_without_a_warning(api, tmp_path):
    api.put(a_pod("a"))
    with capture_logs() as logs:
        async with informed(tmp_path, silence_seconds=0.1) as seen:
            await api.watched(3)
            assert len(api.lists) == 3
            assert [each[0] for each in seen.changes] == ["come"]
            assert seen.informer is not None
            assert seen.informer.silent_seconds() < 10
            api.put(a_pod("b"))
            await seen.until(lambda: seen.names == {"a", "b"})
    assert {each["log_level"] for each in logs} <= {"debug", "info"}


async def test_a_watch_that_is_taken_is_a_word_though_nothing_happens(api, tmp_path):
    async with informed(tmp_path) as seen:
        await api.watched(1)
        assert seen.informer is not None
        seen.informer._heard = time.monotonic() - 1000
        api.cut_watches()
        async with asyncio.timeout(30):
            while seen.informer.silent_seconds() > 100:
                await asyncio.sleep(0.005)
        assert len(api.lists) == 1
        assert not seen.informer.trouble()


async def test_the_api_server_knows_us_by_name(api, tmp_path):
    async with informed(tmp_path):
        await api.watched(1)
        assert api.agents == {"nsm-watcher"}


async def test_a_busy_server_is_asked_again(api, tmp_path):
    api.list_answers.extend([500, 429, 503])
    api.watch_answers.extend([500, 504])
    api.put(a_pod("a"))
    async with informed(tmp_path) as seen:
        await api.watched(3)
        assert seen.names == {"a"}


async def test_any_other_error_event_watches_again_without_a_list(api, tmp_path):
    async with informed(tmp_path):
        await api.watched(1)
        api.error(500)
        await api.watched(2)
        assert len(api.lists) == 1


async def test_a_missing_kind_has_no_objects_and_is_asked_for_again(api, tmp_path, monkeypatch):
    monkeypatch.setattr(informing, "_RETRY_MISSING_SECONDS", 0.05)
    api.list_answers.extend([404] * 4)
    api.put(a_pod("a"))
    async with informed(tmp_path, resource=CUSTOM) as seen:
        assert seen.names == set()
        assert len(api.lists) == 3
        await seen.until(lambda: seen.names == {"a"})


@pytest.mark.parametrize("was_there", [True, False])
@pytest.mark.parametrize("optional", [True, False])
async def test_a_kind_that_is_missing_is_a_trouble_unless_it_is_optional(
    api, tmp_path, monkeypatch, *, was_there, optional
):
    monkeypatch.setattr(informing, "_RETRY_MISSING_SECONDS", 0.01)
    monkeypatch.setattr(informing, "_RETRY_OPTIONAL_SECONDS", 0.01)
    monkeypatch.setattr(informing, "_MOST_SILENT_SECONDS", -1.0)  # a silence at once
    api.put(a_pod("a"))
    gone = [404] * 10_000
    resource = Resource(kind=model.Pod, path=CUSTOM_PATH, optional=optional)
    if not was_there:
        api.list_answers.extend(gone)
    async with informed(tmp_path, resource=resource) as seen:
        if was_there:
            await api.watched(1)
            api.list_answers.extend(gone)
            api.watch_answers.append(404)
            api.end_watches()
        await seen.until(lambda: seen.names == set())
        assert seen.informer is not None
        expected = "" if optional else informing.NOT_INSTALLED
        assert seen.informer.trouble() == expected
        api.list_answers.clear()
        monkeypatch.setattr(informing, "_MOST_SILENT_SECONDS", 120.0)
        await seen.until(lambda: seen.names == {"a"})
        assert not seen.informer.trouble()


async def test_one_404_is_no_trouble_yet(api, tmp_path, monkeypatch):
    monkeypatch.setattr(informing, "_RETRY_MISSING_SECONDS", 3600.0)
    async with informed(tmp_path, resource=CUSTOM) as seen:
        await api.watched(1)
        api.watch_answers.append(404)
        api.end_watches()
        informer = seen.informer
        assert informer is not None
        async with asyncio.timeout(30):
            while not informer._missing:
                await asyncio.sleep(0.01)
        assert not informer.trouble()


@pytest.mark.parametrize("answers", [1, 2])
async def test_a_404_or_two_at_the_start_do_not_pass_for_a_list_of_nothing(
    api, tmp_path, monkeypatch, answers
):
    monkeypatch.setattr(informing, "_RETRY_MISSING_SECONDS", 0.01)
    api.list_answers.extend([404] * answers)
    api.put(a_pod("a"))
    async with informed(tmp_path, resource=CUSTOM) as seen:  # until it is synced
        assert seen.names == {"a"}


@pytest.mark.parametrize("groups", [404, 503])
async def test_only_an_api_server_is_believed_that_a_kind_is_gone(
    api, tmp_path, monkeypatch, groups
):
    monkeypatch.setattr(informing, "_RETRY_MISSING_SECONDS", 0.01)
    api.put(a_pod("a"))
    async with informed(tmp_path, resource=CUSTOM) as seen:
        await api.watched(1)
        api.groups = groups
        api.list_answers.extend([404] * 10)
        api.watch_answers.append(404)
        api.end_watches()
        await api.watched(3)
        assert seen.changes == [("come", "a", "uid-default-a")]


async def test_nobody_is_believed_that_there_are_no_pods(api, tmp_path, monkeypatch):
    monkeypatch.setattr(informing, "_RETRY_MISSING_SECONDS", 0.01)
    api.put(a_pod("a"))
    async with informed(tmp_path) as seen:
        await api.watched(1)
        api.watch_answers.extend([404] * 10)
        api.list_answers.extend([404] * 10)
        api.end_watches()
        await api.watched(12)
        assert seen.changes == [("come", "a", "uid-default-a")]


@pytest.mark.parametrize(
    "body", ["{}", '{"status": "ok"}', '{"items": []}', "<html>", '{"metadata": {}}']
)
async def test_what_is_no_list_of_kubernetes_is_not_taken_for_an_empty_one(api, tmp_path, body):
    api.put(a_pod("a"))
    async with informed(tmp_path) as seen:
        await api.watched(1)
        api.bodies.extend([body] * 3)
        api.watch_answers.append(410)
        api.end_watches()
        await api.watched(3)
        assert len(api.lists) == 5
        assert seen.changes == [("come", "a", "uid-default-a")]


def test_a_cluster_without_our_kinds_is_believed_within_three_seconds():
    waits = informing._BELIEVE_MISSING_AFTER - 1
    assert waits * informing._RETRY_MISSING_SECONDS * 1.2 < 3


async def test_one_404_is_no_proof_that_a_known_kind_is_gone(api, tmp_path, monkeypatch):
    monkeypatch.setattr(informing, "_RETRY_MISSING_SECONDS", 0.01)
    api.put(a_pod("a"))
    async with informed(tmp_path, resource=CUSTOM) as seen:
        await api.watched(1)
        api.watch_answers.append(404)
        api.end_watches()
        await api.watched(3)
        assert [each[0] for each in seen.changes] == ["come"]
        api.list_answers.extend([404] * 3)
        api.watch_answers.append(404)
        api.end_watches()
        await seen.until(lambda: len(seen.changes) == 3)
        assert [each[0] for each in seen.changes] == ["come", "gone", "come"]


@pytest.mark.parametrize("answer", [404, 403])
async def test_an_optional_kind_that_cannot_be_listed_counts_as_none_and_is_asked_for_rarely(
    api, tmp_path, monkeypatch, answer
):
    monkeypatch.setattr(informing, "_RETRY_MISSING_SECONDS", 0.01)
    monkeypatch.setattr(informing, "_RETRY_OPTIONAL_SECONDS", 0.2)
    api.list_answers.extend([answer] * 4)
    api.put(a_pod("a"))
    resource = Resource(kind=model.Pod, path=CUSTOM_PATH, optional=True)
    with capture_logs() as logs:
        async with informed(tmp_path, resource=resource) as seen:
            assert seen.names == set()
            await seen.until(lambda: seen.names == {"a"})
    assert {each["log_level"] for each in logs} <= {"debug", "info"}


async def test_an_object_of_megabytes_on_one_line_is_read(api, tmp_path):
    async with informed(tmp_path) as seen:
        await api.watched(1)
        api.put(a_pod("big", annotations={"x": "y" * 3_000_000}))
        await seen.until(lambda: seen.names == {"big"})


async def test_an_object_that_cannot_be_read_does_not_hide_the_others(api, tmp_path):
    broken = a_pod("broken")
    broken["spec"]["nodeName"] = 7
    api.put(broken)
    api.put(a_pod("a"))
    async with informed(tmp_path) as seen:
        assert seen.names == {"a"}
        await api.watched(1)
        api.put(a_pod("broken"))
        await seen.until(lambda: seen.names == {"a", "broken"})


async def test_an_object_that_became_unreadable_stays_as_it_was_until_deleted(api, tmp_path):
    api.put(a_pod("a"))
    async with informed(tmp_path) as seen:
        await api.watched(1)
        broken = a_pod("a")
        broken["spec"]["nodeName"] = 7
        api.put(broken)
        api.put(a_pod("b"))
        await seen.until(lambda: seen.names == {"a", "b"})
        api.delete("a")
        await seen.until(lambda: seen.names == {"b"})


async def test_only_the_object_of_the_name_asked_for_counts(api, tmp_path):
    api.put(a_pod("a"))
    api.put(a_pod("b"))
    resource = Resource(kind=model.Pod, path=PATH, name="a")
    async with informed(tmp_path, resource=resource) as seen:
        assert seen.names == {"a"}
        assert api.lists[0]["fieldSelector"] == "metadata.name=a"


@pytest.mark.parametrize(
    ("chunks", "lines"),
    [
        ([b"a\nb\n"], [[b"a", b"b"]]),
        ([b"a", b"b\nc", b"", b"d\n"], [[b"ab"], [b"cd"]]),
        ([b"\n\na\n", b"cut"], [[b"a"]]),
        ([b"a\n", b"\n"], [[b"a"]]),
        ([], []),
    ],
)
async def test_lines_do_not_care_where_chunks_end(chunks, lines):
    async def stream():
        for chunk in chunks:
            yield chunk

    assert [together async for together in split(stream())] == lines
