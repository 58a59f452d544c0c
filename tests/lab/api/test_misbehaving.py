"""Faults as people tell them to a lab, and what befalls its objects. What clients make of them: tests/watcher."""

import asyncio

import aiohttp
import msgspec
import pytest

from lab.api.client import ClientError
from lab.api.errors import ApiError
from lab.api.kinds import CONFIG_MAPS, PODS
from lab.api.misbehaving import Cut, Fault, Faults, Spoiler
from tests.lab.api.builders import a_config_map, a_pod

PODS_PATH = "/api/v1/pods"


@pytest.fixture
async def session(api):
    async with aiohttp.ClientSession(api.url) as session:
        yield session


async def told(response):
    return msgspec.json.decode(await response.read())


async def test_a_fault_is_told_counts_down_and_ends(session):
    fault = {"what": "refuse", "kind": "pods", "code": 503, "times": 2}
    async with session.post("/misbehave", json=fault) as response:
        assert response.status == 200
    for left in (1, None):
        async with session.get(PODS_PATH) as response:
            assert response.status == 503
        async with session.get("/misbehave") as response:
            assert [each["times"] for each in (await told(response))["faults"]] == (
                [left] if left else []
            )
    async with session.get(PODS_PATH) as response:
        assert response.status == 200


async def test_the_client_of_the_command_line_tells_faults_and_ends_them(client):
    told = await client.misbehave({"what": "refuse", "kind": "pods", "code": 503, "times": 0})
    assert [each["what"] for each in told] == ["refuse"]
    with pytest.raises(ClientError, match="misbehaves as told"):
        await client.objects(PODS)
    with pytest.raises(ClientError, match="that is no fault"):
        await client.misbehave({"what": "sulk"})
    await client.behave()
    assert await client.objects(PODS) == []


async def test_delete_ends_all_faults_and_what_hangs_goes_on(session, api):
    api.faults.add(Fault(what="hang", times=0))
    async with asyncio.TaskGroup() as group:
        hanging = group.create_task(session.get(PODS_PATH).__aenter__())
        while not api.faults.over._waiters:
            await asyncio.sleep(0.005)
        async with session.delete("/misbehave") as response:
            assert (await told(response))["faults"] == []
    response = hanging.result()
    assert response.status == 200
    response.release()


async def test_a_fault_ends_by_itself_after_its_time(session, api):
    now = [100.0]
    api.faults = Faults(clock=lambda: now[0])
    api.faults.add(Fault(what="refuse", times=0, lasts=60))
    now[0] += 59.9
    async with session.get(PODS_PATH) as response:
        assert response.status == 500
    now[0] += 0.1
    async with session.get(PODS_PATH) as response:
        assert response.status == 200
    assert api.faults.to_come == []


async def test_a_fault_meets_only_the_kind_and_verb_it_is_for(session, api):
    api.faults.add(Fault(what="refuse", kind="pods", verb="list", code=429, seconds=7))
    async with session.get("/api/v1/nodes") as response:
        assert response.status == 200
    async with session.get(f"{PODS_PATH}?watch=1&timeoutSeconds=1&resourceVersion=1") as response:
        assert response.status == 200
    async with session.get(PODS_PATH) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize("body", [b"", b"{}", b'{"what": "sulk"}', b'{"what": "drop", "x": 1}'])
async def test_what_is_no_fault_is_refused_with_the_reason(session, body):
    async with session.post("/misbehave", data=body) as response:
        assert response.status == 400
        assert "that is no fault" in (await told(response))["message"]


async def test_what_happens_at_once_does(session, api, store):
    before = store.now()
    async with session.post("/misbehave", json={"what": "jump", "seconds": 3600}) as response:
        assert response.status == 200
    assert (store.now() - before).total_seconds() >= 3600
    async with session.post("/misbehave", json={"what": "rotate", "token": "new"}):
        pass
    async with session.get(PODS_PATH) as response:
        assert response.status == 401
    async with session.delete("/misbehave"), session.get(PODS_PATH) as response:
        assert response.status == 200


def lines(*names):
    return [
        b'{"type":"ADDED","object":{"metadata":{"name":"%b"}}}\n' % name.encode() for name in names
    ]


@pytest.mark.parametrize(
    ("what", "expected"),
    [("duplicate", "aabc"), ("lose", "bc"), ("swap", "bac"), ("ghost", "gabc")],
)
def test_events_are_spoilt_as_told(what, expected):
    faults = Faults()
    faults.add(Fault(what=what))
    spoilt = Spoiler(faults, "pods").events(lines("a", "b", "c"))
    found = [msgspec.json.decode(line) for line in spoilt.splitlines()]
    assert "".join(each["object"]["metadata"]["name"][0] for each in found) == expected
    assert [each["type"] for each in found if each["object"]["metadata"]["name"] == "ghost"] == (
        ["DELETED"] if what == "ghost" else []
    )


def test_a_cut_comes_in_the_middle_of_a_line():
    faults = Faults()
    faults.add(Fault(what="lose"), Fault(what="cut"))
    one, two, three = lines("a", "b", "c")
    with pytest.raises(Cut) as cut:
        Spoiler(faults, "pods").events([one, two, three])
    assert two.startswith(cut.value.last)
    assert 0 < len(cut.value.last) < len(two)


# ---- a restored backup


def test_a_restored_store_is_what_it_was_and_gives_the_same_versions_again(store):
    store.create(PODS, a_pod("a"))
    was = store.version
    store.create(PODS, a_pod("b"))
    store.delete(PODS, "default", "a")
    store.restore(was)
    assert [pod["metadata"]["name"] for pod in store.objects(PODS)] == ["a"]
    again = store.create(CONFIG_MAPS, a_config_map("c"))
    assert again["metadata"]["resourceVersion"] == str(was + 1)


def test_who_watches_in_process_is_told_the_difference_and_goes_on(store):
    store.create(PODS, a_pod("a"))
    was = store.version
    heard = []
    store.watch(PODS, lambda verb, pod: heard.append((verb, pod["metadata"]["name"])), replay=False)
    store.create(PODS, a_pod("b"))
    store.delete(PODS, "default", "a")
    store.restore(was)
    store.create(PODS, a_pod("c"))
    assert heard[:2] == [("ADDED", "b"), ("DELETED", "a")]
    assert sorted(heard[2:]) == [("ADDED", "a"), ("ADDED", "c"), ("DELETED", "b")]


def test_nothing_is_restored_from_before_the_window(store):
    store.compact()
    with pytest.raises(ApiError, match="too old resource version"):
        store.restore(1)
