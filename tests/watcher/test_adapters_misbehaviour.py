"""Whatever an API server does: what the informer holds is in the end what a fresh list gives.

Each misbehaviour is a test with its name, against the lab's API server over real HTTP.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lab.api.definitions import shipped
from lab.api.kinds import CONFIG_MAPS, DEFINITIONS, KINDS, NETWORK_SERVICE_ENDPOINTS, PODS
from lab.api.kubeconfig import write_kubeconfig
from lab.api.misbehaving import Fault
from services.watcher import model
from services.watcher.adapters import Informer, Kube, Resource
from services.watcher.adapters import informer as informing
from services.watcher.adapters import kube as asking
from services.watcher.adapters.decoding import Decoder
from tests.watcher.builders import a_pod, an_endpoint
from tests.watcher.conftest import Cluster

PATH = "/api/v1/pods"
QUICK = (0.01, 0.05)


class Watching:
    """An informer of Pods at work, and what it told."""

    def __init__(self, cluster: Cluster, kube: Kube, resource: Resource, silence: float) -> None:
        self.cluster = cluster
        self.told: list[tuple[model.Ref, Any, Any]] = []
        self.informer = Informer(
            kube, resource, self._on_change, silence_seconds=silence, backoff_seconds=QUICK
        )
        self._changed = asyncio.Event()

    def _on_change(self, ref: model.Ref, before: Any, after: Any) -> None:
        self.told.append((ref, before, after))
        self._changed.set()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    @property
    def names(self) -> set[str]:
        return {ref[1] for ref in self.informer.items}

    def fresh(self) -> dict[model.Ref, Any]:
        """What a list would say now; not asked over HTTP, where it would meet the faults."""
        resource = self.informer.resource
        kind = next(each for each in KINDS if each.plural == resource.path.rpartition("/")[2])
        records = self.cluster.store.shelf(kind).records.values()
        body = (
            b'{"metadata":{"resourceVersion":"1"},"items":['
            + b",".join(record.raw for record in records)
            + b"]}"
        )
        found = (each for each in Decoder(resource.kind).page(body)[1] if resource.has(each))
        return {each.ref: each for each in found}

    async def converges(self) -> None:
        """Waits until nothing differs, and checks that what was told adds up to it."""
        fresh = self.fresh()
        await self.until(lambda: self.informer.items == fresh)
        added_up: dict[model.Ref, Any] = {}
        for ref, before, after in self.told:
            assert added_up.get(ref) == before, "told as something it was not"
            added_up[ref] = after
        assert {ref: after for ref, after in added_up.items() if after is not None} == fresh


PODS_HERE = Resource(kind=model.Pod, path=PATH)


@asynccontextmanager
async def informed(
    cluster: Cluster, *, resource: Resource = PODS_HERE, silence: float = 5.0, synced: bool = True
) -> AsyncIterator[Watching]:
    async with Kube(str(cluster.kubeconfig)) as kube:
        found = Watching(cluster, kube, resource, silence)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(found.informer.run())
            try:
                if synced:
                    async with asyncio.timeout(20):
                        await found.informer.synced.wait()
                        await watches(cluster, resource)
                yield found
            finally:
                task.cancel()


async def watches(cluster: Cluster, resource: Resource) -> None:
    """Until the informer's watch stands: what happens from now on is an event."""
    plural = resource.path.rpartition("/")[2]
    while not any(watch.kind.plural == plural for watch in cluster.api._watches):
        await asyncio.sleep(0.005)


def put(cluster: Cluster, name: str, **fields: Any) -> None:
    cluster.store.create(PODS, a_pod(name, **fields))


def remove(cluster: Cluster, name: str) -> None:
    cluster.store.delete(PODS, "default", name, grace_seconds=0)


def annotate(cluster: Cluster, name: str, text: str) -> None:
    patch = {"metadata": {"annotations": {"networkservicemesh.io": text}}}
    cluster.store.patch(PODS, "default", name, patch)


def churn(cluster: Cluster) -> None:
    """Something of everything."""
    put(cluster, "new")
    annotate(cluster, "stays", "vpn")
    remove(cluster, "goes")
    remove(cluster, "again")
    put(cluster, "again")


@pytest.fixture
def settled(cluster: Cluster) -> Cluster:
    for name in ("stays", "goes", "again"):
        put(cluster, name)
    return cluster


def fault(cluster: Cluster, what: str, **fields: Any) -> None:
    cluster.api.faults.add(Fault(what=what, **{"kind": "pods", **fields}))  # type: ignore[arg-type]


async def test_a_dropped_connection(settled):
    async with informed(settled) as seen:
        settled.api.cut()
        churn(settled)
        await seen.converges()


async def test_dropped_connections_again_and_again(settled):
    async with informed(settled) as seen:
        fault(settled, "drop", times=6)
        settled.api.cut()
        churn(settled)
        await seen.converges()


@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_a_hang_before_the_headers(settled, monkeypatch, verb):
    monkeypatch.setattr(asking, "_REQUEST_SECONDS", 0.3)
    async with informed(settled, silence=0.3) as seen:
        fault(settled, "hang", verb=verb)
        settled.api.befall(Fault(what="compact"))
        settled.api.cut()
        churn(settled)
        await seen.converges()


async def test_a_hang_after_the_headers(settled):
    async with informed(settled, silence=0.3) as seen:
        fault(settled, "mute")
        settled.api.cut()
        churn(settled)
        await seen.converges()


async def test_410_as_status(settled):
    async with informed(settled) as seen:
        fault(settled, "refuse", verb="watch", code=410)
        settled.api.cut()
        churn(settled)
        await seen.converges()


async def test_410_as_event(settled):
    async with informed(settled) as seen:
        fault(settled, "error", code=410)
        settled.api.cut()
        churn(settled)
        await seen.converges()


async def test_410_because_the_past_is_compacted(settled):
    async with informed(settled) as seen:
        fault(settled, "drop", verb="watch", times=2)
        settled.api.cut()
        churn(settled)
        settled.store.compact()
        await seen.converges()


async def test_429_is_not_asked_again_before_its_retry_after(settled):
    async with informed(settled) as seen:
        loop = asyncio.get_running_loop()
        fault(settled, "refuse", verb="watch", code=429, seconds=1)
        begun = loop.time()
        settled.api.cut()
        churn(settled)
        await seen.converges()
        assert loop.time() - begun >= 1


async def test_nobody_stays_away_for_an_hour_because_of_retry_after(settled, monkeypatch):
    monkeypatch.setattr(informing, "_MOST_AWAY_SECONDS", 0.1)
    async with informed(settled) as seen:
        fault(settled, "refuse", verb="watch", code=429, seconds=3600)
        settled.api.cut()
        churn(settled)
        await seen.converges()


@pytest.mark.parametrize("code", [500, 503, 504])
@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_5xx(settled, code, verb):
    async with informed(settled) as seen:
        fault(settled, "refuse", verb=verb, code=code, times=3)
        settled.store.compact()
        settled.api.cut()
        churn(settled)
        settled.store.compact()
        await seen.converges()


async def test_an_error_event_other_than_410(settled):
    async with informed(settled) as seen:
        fault(settled, "error", code=500, times=3)
        settled.api.cut()
        churn(settled)
        await seen.converges()


async def test_a_stale_list(settled):
    churn(settled)
    fault(settled, "stale", back=4)
    async with informed(settled) as seen:
        await seen.converges()
        assert len(seen.told) > len(seen.informer.items), "it began with what had been"


async def test_half_a_line(settled):
    async with informed(settled) as seen:
        fault(settled, "cut", times=3)
        for number in range(5):
            annotate(settled, "stays", str(number))
            await asyncio.sleep(0)
        churn(settled)
        await seen.converges()


async def test_a_line_of_a_megabyte(settled):
    async with informed(settled) as seen:
        big = a_pod("big")
        big["spec"]["containers"][0]["env"] = [{"name": "A", "value": "x" * 1_000_000}]
        settled.store.create(PODS, big)
        churn(settled)
        await seen.converges()


async def test_a_duplicated_event(settled):
    async with informed(settled) as seen:
        fault(settled, "duplicate", times=0)
        churn(settled)
        await seen.converges()


async def test_reordered_status_writes(settled):
    async with informed(settled, silence=0.5) as seen:
        fault(settled, "swap")
        for phase in ("Running", "Failed", "Succeeded"):
            settled.store.patch(PODS, "default", "stays", {"status": {"phase": phase}}, status=True)
        await seen.converges()
        assert seen.informer.items["default", "stays"].status.phase == "Succeeded"


async def test_a_missing_bookmark(settled):
    async with informed(settled, silence=0.2) as seen:
        fault(settled, "unmarked", times=0)
        fault(settled, "mute", times=2)
        settled.api.cut()
        churn(settled)
        await seen.converges()


async def test_an_expired_continue_token(settled, monkeypatch):
    monkeypatch.setattr(informing, "_PAGE", 1)
    fault(settled, "refuse", verb="page", code=410, times=2)
    async with informed(settled) as seen:
        churn(settled)
        await seen.converges()


async def test_a_past_compacted_between_two_pages(settled, monkeypatch):
    monkeypatch.setattr(informing, "_PAGE", 1)
    fault(settled, "slow", verb="page", seconds=0.2)
    async with informed(settled, synced=False) as seen:
        await asyncio.sleep(0.05)
        churn(settled)
        settled.store.compact()
        async with asyncio.timeout(30):
            await seen.informer.synced.wait()
        await seen.converges()


async def test_a_changed_uid_under_one_name(settled):
    async with informed(settled) as seen:
        before = seen.informer.items["default", "again"]
        fault(settled, "lose")  # the DELETED
        remove(settled, "again")
        put(settled, "again")
        await seen.converges()
        after = seen.informer.items["default", "again"]
        assert after.uid != before.uid
        told = [each[1:] for each in seen.told if each[0] == ("default", "again")]
        assert told == [(None, before), (before, None), (None, after)]


async def test_401_after_token_rotation(settled):
    settled.api.rotate("first")
    write_kubeconfig(settled.kubeconfig, settled.api.url, "first")
    async with informed(settled) as seen:
        settled.api.rotate("second")
        write_kubeconfig(settled.kubeconfig, settled.api.url, "second")
        settled.api.cut()
        churn(settled)
        await seen.converges()


async def test_401_until_the_new_token_is_there(settled):
    settled.api.rotate("first")
    write_kubeconfig(settled.kubeconfig, settled.api.url, "first")
    async with informed(settled) as seen:
        settled.api.rotate("second")
        settled.api.cut()
        settled.kubeconfig.write_text("{half a file")
        churn(settled)
        await asyncio.sleep(0.2)
        write_kubeconfig(settled.kubeconfig, settled.api.url, "second")
        await seen.converges()


async def test_a_slow_list(settled, monkeypatch):
    monkeypatch.setattr(informing, "_PAGE", 1)
    async with informed(settled) as seen:
        fault(settled, "slow", verb="page", seconds=0.1, times=3)
        fault(settled, "refuse", verb="watch", code=410)
        settled.api.cut()
        churn(settled)
        await seen.converges()


async def test_a_watch_that_ends_at_once(settled):
    async with informed(settled) as seen:
        fault(settled, "end", times=5)
        settled.api.cut()
        churn(settled)
        await seen.converges()


async def test_deleted_without_added(settled):
    async with informed(settled) as seen:
        fault(settled, "ghost", times=0)
        churn(settled)
        await seen.converges()
        assert all(ref[1] != "ghost" for ref, *_ in seen.told)


async def test_a_version_that_goes_back_after_a_restore(settled):
    async with informed(settled, silence=0.4) as seen:
        before = settled.store.version
        churn(settled)
        await seen.converges()
        settled.api.cut()
        settled.store.restore(before)
        put(settled, "after")
        await seen.converges()
        assert seen.names == {"stays", "goes", "again", "after"}


ENDPOINTS = Resource(
    kind=model.NetworkServiceEndpoint, path="/apis/networkservicemesh.io/v1/networkserviceendpoints"
)


def undefine(cluster: Cluster) -> None:
    cluster.store.delete(DEFINITIONS, "", NETWORK_SERVICE_ENDPOINTS.resource)


def define(cluster: Cluster) -> None:
    wanted = NETWORK_SERVICE_ENDPOINTS.resource
    (crd,) = (each for each in shipped() if each["metadata"]["name"] == wanted)
    cluster.store.create(DEFINITIONS, crd)


async def test_a_crd_missing_then_installed(cluster, monkeypatch):
    monkeypatch.setattr(informing, "_RETRY_MISSING_SECONDS", 0.05)
    undefine(cluster)
    async with informed(cluster, resource=ENDPOINTS, synced=False) as seen:
        async with asyncio.timeout(30):
            await seen.informer.synced.wait()
        assert seen.informer.items == {}
        define(cluster)
        cluster.store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
        await seen.until(lambda: seen.names == {"vpn"})
        await seen.converges()


async def test_a_crd_deleted(cluster, monkeypatch):
    monkeypatch.setattr(informing, "_RETRY_MISSING_SECONDS", 0.05)
    cluster.store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint())
    async with informed(cluster, resource=ENDPOINTS) as seen:
        undefine(cluster)
        await seen.until(lambda: seen.names == set())
        define(cluster)
        cluster.store.create(NETWORK_SERVICE_ENDPOINTS, an_endpoint("other"))
        await seen.until(lambda: seen.names == {"other"})
        await seen.converges()


JUNK = ["", "\x00\x01", "{[}", "- " * 10_000, "10.0.0.0/99\nnonsense", "💥" * 50_000]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
async def test_a_config_map_with_junk(cluster, junk):
    path = "/api/v1/namespaces/nsm-system/configmaps"
    resource = Resource(kind=model.ConfigMap, path=path, name="excluded-prefixes")
    metadata = {"name": "excluded-prefixes", "namespace": "nsm-system"}
    body = {"metadata": metadata, "data": {"prefixes": junk}, "binaryData": {"x": "AAAA"}}
    async with informed(cluster, resource=resource) as seen:
        cluster.store.create(CONFIG_MAPS, body)
        await seen.converges()
        (found,) = seen.informer.items.values()
        assert found.data == {"prefixes": junk}


@pytest.mark.parametrize("seconds", [86_400.0, -86_400.0])
async def test_a_clock_jump(settled, seconds):
    async with informed(settled) as seen:
        settled.store.jump(seconds)
        churn(settled)
        await seen.converges()


async def test_an_api_server_gone_for_a_minute(settled):
    """A minute in short: long enough that the back-off is at its longest."""
    async with informed(settled) as seen:
        await settled.stop()
        churn(settled)
        await asyncio.sleep(0.5)
        await settled.restart()
        await seen.converges()


async def test_an_api_server_behind_a_dead_balancer_for_a_minute(settled):
    async with informed(settled) as seen:
        settled.api.befall(Fault(what="drop", times=0, lasts=0.5))
        settled.api.cut()
        churn(settled)
        await asyncio.sleep(0.6)
        await seen.converges()


async def test_a_thousand_events_in_a_millisecond(settled):
    async with informed(settled) as seen:
        told = len(seen.told)
        for number in range(1000):
            annotate(settled, "stays", str(number))
        await seen.converges()
        assert len(seen.told) - told < 100, "a burst costs what it changed, not what it said"


# ---- any of them, in any order

NAMES = st.sampled_from(["a", "b", "c", "d"])
STEPS = st.one_of(
    st.tuples(st.sampled_from(["put", "remove", "annotate", "renew"]), NAMES),
    st.tuples(st.just("pause"), st.just("")),
    st.tuples(
        st.just("at once"), st.sampled_from(["cut-all", "compact", "restore", "jump", "rotate"])
    ),
    st.tuples(
        st.just("fault"),
        st.sampled_from(
            [
                *("drop", "slow", "stale", "mute", "end", "cut", "duplicate", "swap", "ghost"),
                *("refuse 410", "refuse 429", "refuse 500", "refuse 404", "error 410", "error 500"),
            ]
        ),
    ),
)


def step(cluster: Cluster, does: str, what: str, number: int) -> None:
    here = {ref[1] for ref in cluster.store.shelf(PODS).records}
    match does:
        case "put" if what not in here:
            put(cluster, what)
        case "remove" if what in here:
            remove(cluster, what)
        case "annotate" if what in here:
            annotate(cluster, what, str(number))
        case "renew" if what in here:
            remove(cluster, what)
            put(cluster, what)
        case "at once":
            token = f"token-{number}" if what == "rotate" else ""
            if what == "restore":
                oldest = max(shelf._forgotten for shelf in cluster.store._shelves.values())
                back = min(3, cluster.store.version - oldest)
            else:
                back = 0
            cluster.api.befall(Fault(what=what, back=back, seconds=60, token=token))  # type: ignore[arg-type]
            if token:
                write_kubeconfig(cluster.kubeconfig, cluster.api.url, token)
        case "fault":
            name, _, code = what.partition(" ")
            fault(cluster, name, code=int(code or 0), seconds=0.02 if name == "slow" else 0)


async def story(tmp_path: Any, steps: list[tuple[str, str]]) -> None:
    cluster = Cluster(tmp_path / "kubeconfig")
    await cluster.start()
    try:
        for name in "ab":
            put(cluster, name)
        async with informed(cluster, silence=0.4) as seen:
            for number, (does, what) in enumerate(steps):
                step(cluster, does, what, number)
                if does == "pause":
                    await asyncio.sleep(0.02)
            cluster.api.faults.clear()
            await seen.converges()
    finally:
        await cluster.stop()


@settings(
    max_examples=30,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=st.lists(STEPS, min_size=3, max_size=25))
def test_any_events_and_faults_in_any_order_end_in_what_a_list_says(tmp_path, steps):
    asyncio.run(story(tmp_path, steps))


async def test_a_server_that_is_away_is_a_trouble_until_it_is_back(settled):
    async with informed(settled) as seen:
        assert not seen.informer.trouble()
        await settled.stop()
        async with asyncio.timeout(20):
            while not seen.informer.trouble():
                await asyncio.sleep(0.01)
        assert PATH in seen.informer.trouble()
        await settled.restart()
        async with asyncio.timeout(20):
            while seen.informer.trouble():
                await asyncio.sleep(0.01)
