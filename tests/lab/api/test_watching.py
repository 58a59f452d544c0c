"""Watches over HTTP: what is sent, in which order, and how a watch ends."""

import asyncio
import contextlib

import aiohttp
import msgspec
import pytest

from lab.api import watching as watching_module
from lab.api.kinds import CONFIG_MAPS, PODS
from lab.api.server import ApiOptions, LabApi
from lab.api.store import Store
from lab.api.watching import Feed
from tests.lab.api.builders import a_config_map, a_pod

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@contextlib.asynccontextmanager
async def watching(api, path="/api/v1/pods", accept="application/json", **query):
    """A watch, as a function that waits for the next event."""
    query = {"watch": "1", **query}
    async with (
        aiohttp.ClientSession(api.url) as session,
        session.get(path, params=query, headers={"Accept": accept}) as response,
    ):
        assert response.status == 200, await response.text()

        async def event():
            line = await asyncio.wait_for(response.content.readline(), 5)
            return msgspec.json.decode(line) if line else None

        yield event


def told(event):
    return event["type"], event["object"]["metadata"]["name"]


@contextlib.asynccontextmanager
async def serving(store, **options):
    api = LabApi(store, options=ApiOptions(**options))
    await api.start()
    try:
        yield api
    finally:
        await api.stop()


async def test_a_watch_from_a_version_sends_what_came_after_it(api, store):
    store.create(PODS, a_pod("a"))
    version = str(store.version)
    store.create(PODS, a_pod("b"))
    async with watching(api, resourceVersion=version) as event:
        assert told(await event()) == ("ADDED", "b")
        store.patch(PODS, "default", "a", {"metadata": {"labels": {"x": "y"}}})
        store.delete(PODS, "default", "b")
        assert told(await event()) == ("MODIFIED", "a")
        deleted = await event()
        assert told(deleted) == ("DELETED", "b")
        assert deleted["object"]["metadata"]["resourceVersion"] == str(store.version)


@pytest.mark.parametrize("query", [{}, {"resourceVersion": "0"}])
async def test_a_watch_without_a_version_starts_with_what_is_there(api, store, query):
    store.create(PODS, a_pod("a"))
    async with watching(api, **query) as event:
        assert told(await event()) == ("ADDED", "a")
        store.create(PODS, a_pod("b"))
        assert told(await event()) == ("ADDED", "b")


async def test_an_object_that_starts_or_ceases_to_match_appears_and_vanishes(api, store):
    store.create(PODS, a_pod("a"))
    async with watching(api, labelSelector="app=x", resourceVersion=str(store.version)) as event:
        for labels in ({"app": "x"}, {"more": "y"}, {"app": "z"}, {"app": "x"}):
            store.patch(PODS, "default", "a", {"metadata": {"labels": labels}})
        events = [await event() for _ in range(4)]
    assert [e["type"] for e in events] == ["ADDED", "MODIFIED", "DELETED", "ADDED"]
    gone = events[2]["object"]["metadata"]
    assert gone["labels"]["app"] == "x", "as it was when it matched last"
    assert int(gone["resourceVersion"]) == store.version - 1, "with the version of the change"


async def test_a_pod_that_is_bound_appears_to_its_node(api, store):
    store.create(PODS, a_pod("a"))
    query = {"fieldSelector": "spec.nodeName=node1", "resourceVersion": str(store.version)}
    async with watching(api, **query) as event:
        store.bind("default", "a", "node1")
        assert told(await event()) == ("ADDED", "a")


async def test_a_watch_sees_its_namespace_and_kind_only(api, store):
    path = "/api/v1/namespaces/kube-system/pods"
    async with watching(api, path, resourceVersion=str(store.version)) as event:
        store.create(PODS, a_pod("here"))
        store.create(CONFIG_MAPS, a_config_map("there", namespace="kube-system"))
        store.create(PODS, a_pod("there", namespace="kube-system"))
        assert told(await event()) == ("ADDED", "there")


@pytest.mark.parametrize("how", ["window", "compaction"])
async def test_a_version_before_the_window_is_answered_with_expired(how):
    store = Store(history=3)
    version = str(store.version)
    for number in range(5):
        store.create(CONFIG_MAPS, a_config_map(f"c{number}"))
    if how == "compaction":
        version = str(store.version - 1)
        store.shelf(CONFIG_MAPS).forget()
    async with (
        serving(store) as api,
        watching(api, "/api/v1/configmaps", resourceVersion=version) as event,
    ):
        error = await event()
        assert error["type"] == "ERROR"
        assert (error["object"]["code"], error["object"]["reason"]) == (410, "Expired")
        assert await event() is None


async def test_bookmarks_come_at_the_start_by_and_by_and_at_the_end():
    store = Store()
    async with serving(store, bookmark_seconds=0.05, bookmark_at_start=True) as api:
        query = {"allowWatchBookmarks": "true", "timeoutSeconds": "1"}
        async with watching(api, resourceVersion=str(store.version), **query) as event:
            first = await event()
            store.create(PODS, a_pod())
            rest = []
            while (line := await event()) is not None:
                rest.append(line)
    assert (first["type"], first["object"]["kind"]) == ("BOOKMARK", "Pod")
    kinds = [line["type"] for line in rest]
    assert kinds.count("ADDED") == 1
    assert kinds.count("BOOKMARK") >= 3
    assert rest[-1]["type"] == "BOOKMARK"
    assert rest[-1]["object"]["metadata"]["resourceVersion"] == str(store.version)


async def test_nobody_gets_a_bookmark_who_did_not_ask():
    store = Store()
    async with serving(store, bookmark_seconds=0.05, bookmark_at_start=True) as api:
        query = {"resourceVersion": str(store.version), "timeoutSeconds": "1"}
        async with watching(api, **query) as event:
            assert await event() is None


async def test_initial_events_end_with_a_marked_bookmark(api, store):
    store.create(PODS, a_pod("a"))
    query = {"sendInitialEvents": "true", "allowWatchBookmarks": "true"}
    query |= {"resourceVersionMatch": "NotOlderThan"}
    async with watching(api, **query) as event:
        assert told(await event()) == ("ADDED", "a")
        mark = await event()
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_a_watch_of_tables_says_its_columns_once(api, store):
    store.create(PODS, a_pod("a"))
    async with watching(api, accept=TABLE) as event:
        first = await event()
        store.create(PODS, a_pod("b"))
        second = await event()
    assert first["object"]["kind"] == "Table"
    assert first["object"]["columnDefinitions"]
    assert second["object"]["columnDefinitions"] == []
    assert second["object"]["rows"][0]["cells"][0] == "b"


async def test_a_watch_ends_when_the_server_stops():
    store = Store()
    api = LabApi(store)
    await api.start()
    async with watching(api, resourceVersion=str(store.version)) as event:
        await api.stop()
        assert await event() is None


async def test_a_reader_that_went_leaves_no_listener_behind(api, store):
    async with watching(api, resourceVersion=str(store.version)):
        assert store.shelf(PODS)._listeners
    async with asyncio.timeout(20):
        while store.shelf(PODS)._listeners:
            await asyncio.sleep(0.01)


async def test_a_reader_too_far_behind_is_cut_off_instead_of_kept_for_ever(store, monkeypatch):
    monkeypatch.setattr(watching_module, "MAX_BEHIND", 3)
    feed = Feed(store, PODS)
    for number in range(9):
        store.create(PODS, a_pod(f"p{number}"))
    assert feed.overrun
    assert len(await feed.take(0)) == 4
    assert not store.shelf(PODS)._listeners


async def test_two_hundred_watchers_all_see_a_change(api, store):
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(api.url, connector=aiohttp.TCPConnector(limit=0))
        )
        query = {"watch": "1", "resourceVersion": str(store.version)}
        responses = [
            await stack.enter_async_context(session.get("/api/v1/pods", params=query))
            for _ in range(200)
        ]
        store.create(PODS, a_pod("seen"))
        async with asyncio.timeout(30):
            lines = await asyncio.gather(*(r.content.readline() for r in responses))
        assert all(b'"seen"' in line for line in lines)
