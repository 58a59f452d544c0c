"""Whatever happens to objects and to the API server, in whatever order: what is published is what a fresh list gives.

A whole watcher between the lab's API server over real HTTP, with its faults, and a real nats-server that is kept from
example to example: what one leaves on the bus the next has to clear away. `NSM_WATCHER_EXAMPLES` asks for more.
"""

import asyncio
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from lab.api.kinds import (
    CONFIG_MAPS,
    KINDS,
    NAMESPACES,
    NETWORK_SERVICE_ENDPOINTS,
    NETWORK_SERVICES,
    NODES,
    PODS,
    Kind,
)
from lab.api.misbehaving import Fault
from lab.nats import NatsServer
from schemas.codec import Tombstone
from schemas.subjects import RequestKey
from services._runtime.bus import Bus
from services.watcher import service
from services.watcher.adapters import Informer
from services.watcher.adapters.decoding import Decoder
from services.watcher.core.intent import Intent
from services.watcher.service.publishing import OURS
from tests.runtime.helpers import running
from tests.watcher.builders import a_node, a_pod, an_endpoint, an_object
from tests.watcher.conftest import Cluster, Reader, a_watcher

SYSTEM = "nsm-system"
EXAMPLES = int(os.environ.get("NSM_WATCHER_EXAMPLES", "20"))
ANNOTATIONS = [None, "", "svc", "svc/nsm-1", "svc/nsm-1, other/nsm-2", "svc@elsewhere/nsm-1?a=b"]

# ---- what happens

pods = st.sampled_from(["a", "b", "c"])
nodes = st.sampled_from(["node1", "node2"])
flags = st.booleans()
wishes = st.sampled_from(ANNOTATIONS)
STEPS = st.one_of(
    st.tuples(st.just("pod"), pods, nodes, wishes, flags),
    st.tuples(st.just("annotate"), pods, wishes),
    st.tuples(st.just("renew"), pods, nodes, wishes),
    st.tuples(st.just("ready"), pods, flags),
    st.tuples(st.just("ends"), pods, st.sampled_from(["Succeeded", "Failed"])),
    st.tuples(st.just("mark"), pods),
    st.tuples(st.just("remove"), pods),
    st.tuples(st.just("namespace"), wishes),
    st.tuples(st.just("node"), nodes, flags),
    st.tuples(st.just("no node"), nodes),
    st.tuples(st.just("endpoint"), st.sampled_from(["x", "y"]), flags),
    st.tuples(st.just("no endpoint"), st.sampled_from(["x", "y"])),
    st.tuples(st.just("rules"), st.sampled_from(["IP", "ETHERNET"])),
    st.tuples(st.just("excluded"), st.sampled_from(["10.7.0.0/16", "10.7.0.0/16\n10.8.0.0/16"])),
)
PAUSES = st.tuples(st.just("pause"), st.sampled_from([0.0, 0.01, 0.05]))
FAULTS = st.one_of(
    st.tuples(
        st.just("fault"),
        st.sampled_from(
            [
                *("drop", "slow", "stale", "mute", "end", "cut", "duplicate", "swap", "ghost"),
                *("lose", "refuse 410", "refuse 429", "refuse 500", "refuse 404"),
                *("error 410", "error 500"),
            ]
        ),
        st.sampled_from(["", "pods", "nodes", "namespaces", "networkserviceendpoints"]),
    ),
    st.tuples(st.just("befall"), st.sampled_from(["cut-all", "compact", "restore", "jump"])),
    st.tuples(st.just("away")),
)
EVENTS = st.lists(st.one_of(STEPS, STEPS, FAULTS, PAUSES), min_size=5, max_size=30)


class World:
    """The API server's side of an example."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.store = cluster.store
        self._number = 0

    def begin(self) -> None:
        """So much that whatever happens then touches something."""
        for node in ("node1", "node2"):
            self._node(node, True)
            self._pod(f"at-{node}", node, "svc/nsm-1", True)
        for pod, wish in zip("abc", ("svc/nsm-1", None, "svc, other"), strict=True):
            self._pod(pod, "node1", wish, True)
        self._endpoint("x", True)

    async def step(self, does: str, *what: Any) -> None:
        match does:
            case "pause":
                await asyncio.sleep(what[0])
            case "away":
                self.cluster.api.faults.add(Fault(what="drop", times=0, lasts=0.1))
                self.cluster.api.cut()
            case "fault":
                self._fault(*what)
            case "befall":
                self._befall(what[0])
            case _:
                getattr(self, "_" + does.replace(" ", "_"))(*what)

    def _fault(self, what: str, plural: str) -> None:
        name, _, code = what.partition(" ")
        seconds = 0.02 if name == "slow" else 0
        self.cluster.api.faults.add(
            Fault(what=name, kind=plural, code=int(code or 0), seconds=seconds)  # type: ignore[arg-type]
        )

    def _befall(self, what: Any) -> None:
        back = 0
        if what == "restore":
            oldest = max(shelf._forgotten for shelf in self.store._shelves.values())
            back = min(3, self.store.version - oldest)
        self.cluster.api.befall(Fault(what=what, back=back, seconds=60))

    def _has(self, kind: Kind, name: str, namespace: str = "default") -> bool:
        return self.store.find(kind, namespace, name) is not None

    def _put(self, kind: Kind, body: dict[str, Any]) -> None:
        """Create it, or make it so."""
        name, namespace = body["metadata"]["name"], body["metadata"].get("namespace", "")
        status = body.pop("status", None)
        if self._has(kind, name, namespace):
            self.store.patch(kind, namespace, name, {"spec": body.get("spec", {})})
        else:
            self.store.create(kind, body)
        if status is not None:
            self.store.patch(kind, namespace, name, {"status": status}, status=True)

    def _pod(self, name: str, node: str, wish: str | None, serves: bool) -> None:
        self._number += 1
        if not self._has(PODS, name):
            labels = {"app": "vpn"} if serves else {}
            ips = [f"10.244.9.{self._number}"]
            self._put(PODS, a_pod(name, node=node, asks=wish, labels=labels, ips=ips))

    def _annotate(self, name: str, wish: str | None) -> None:
        if self._has(PODS, name):
            patch = {"metadata": {"annotations": {"networkservicemesh.io": wish}}}
            self.store.patch(PODS, "default", name, patch)

    def _renew(self, name: str, node: str, wish: str | None) -> None:
        self._remove(name)
        self._pod(name, node, wish, True)

    def _ready(self, name: str, ready: bool) -> None:
        if self._has(PODS, name):
            status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
            self.store.patch(PODS, "default", name, {"status": status}, status=True)

    def _ends(self, name: str, phase: str) -> None:
        if self._has(PODS, name):
            self.store.patch(PODS, "default", name, {"status": {"phase": phase}}, status=True)

    def _mark(self, name: str) -> None:
        if self._has(PODS, name):
            self.store.delete(PODS, "default", name, grace_seconds=30)

    def _remove(self, name: str) -> None:
        if self._has(PODS, name):
            self.store.delete(PODS, "default", name, grace_seconds=0)

    def _namespace(self, wish: str | None) -> None:
        patch = {"metadata": {"annotations": {"networkservicemesh.io": wish}}}
        self.store.patch(NAMESPACES, "", "default", patch)

    def _node(self, name: str, ready: bool) -> None:
        cidr = f"10.244.{name[-1]}.0/24"
        node = a_node(name, ready=str(ready), podCIDR=cidr, podCIDRs=[cidr])
        del node["metadata"]["namespace"]
        self._put(NODES, node)

    def _no_node(self, name: str) -> None:
        if self._has(NODES, name, ""):
            self.store.delete(NODES, "", name)

    def _endpoint(self, name: str, wide: bool) -> None:
        prefixes = ["172.16.0.0/16" if wide else "172.16.1.0/24"]
        self._put(NETWORK_SERVICE_ENDPOINTS, an_endpoint(name, ipam={"prefixes": prefixes}))

    def _no_endpoint(self, name: str) -> None:
        if self._has(NETWORK_SERVICE_ENDPOINTS, name):
            self.store.delete(NETWORK_SERVICE_ENDPOINTS, "default", name)

    def _rules(self, payload: str) -> None:
        self._put(NETWORK_SERVICES, an_object("svc", spec={"payload": payload}))

    def _excluded(self, text: str) -> None:
        name = "excluded-prefixes"
        if self._has(CONFIG_MAPS, name, SYSTEM):
            self.store.patch(CONFIG_MAPS, SYSTEM, name, {"data": {"prefixes": text}})
        else:
            body = an_object(name, namespace=SYSTEM, data={"prefixes": text})
            self.store.create(CONFIG_MAPS, body)

    def wanted(self) -> dict[Any, Any]:
        """What must stand by a list of this moment; not asked over HTTP, where it would meet the faults."""
        intent = Intent(system_namespace=SYSTEM)
        for resource in service.resources(SYSTEM):
            group = resource.path.split("/")[2] if resource.path.startswith("/apis/") else ""
            plural = resource.path.rpartition("/")[2]
            kind = next(k for k in KINDS if (k.group, k.plural) == (group, plural))
            raw = b",".join(record.raw for record in self.store.shelf(kind).records.values())
            body = b'{"metadata":{"resourceVersion":"1"},"items":[' + raw + b"]}"
            for each in Decoder(resource.kind).page(body)[1]:
                if resource.has(each):
                    intent.put(resource.kind, each.ref, each)
        return dict(intent.desired)


def published(reader: Reader) -> dict[Any, Any]:
    return {
        key: message
        for key, message in reader.mirror.items.items()
        if isinstance(key, OURS) and not isinstance(message, Tombstone)
    }


async def story(tmp_path: Any, server: NatsServer, events: list[tuple[Any, ...]]) -> None:
    cluster = Cluster(tmp_path / "kubeconfig")
    await cluster.start()
    bus = await Bus.connect(server.url, name="tester")
    await bus.ensure_streams()
    reader = Reader(bus)
    world = World(cluster)
    try:
        async with running(reader.mirror.run()):
            world.begin()
            async with a_watcher(cluster, server):
                await reader.until(lambda: published(reader) == world.wanted())
                while len(cluster.api._watches) < len(service.resources(SYSTEM)):
                    await asyncio.sleep(0.005)
                for event in events:
                    await world.step(*event)
                cluster.api.faults.clear()
                # Their watch has told everything before this.
                cluster.store.create(PODS, a_pod("last", asks="svc/nsm-1"))
                last = RequestKey("default", "last", "nsm-1")
                try:
                    await reader.until(
                        lambda: last in published(reader) and published(reader) == world.wanted()
                    )
                except TimeoutError:
                    is_, must = published(reader), world.wanted()
                    note(f"stands, must not: {[k.subject for k in is_ if k not in must]}")
                    note(f"missing: {[k.subject for k in must if k not in is_]}")
                    both = is_.keys() & must.keys()
                    note(f"differs: {[(is_[k], must[k]) for k in both if is_[k] != must[k]]}")
                    raise
    finally:
        await bus.close()
        await cluster.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as found:
        yield found


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = partial(Informer, silence_seconds=0.5, backoff_seconds=(0.01, 0.05))
    monkeypatch.setattr(service, "Informer", quick)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(events=EVENTS)
@pytest.mark.usefixtures("hasty")
def test_what_is_published_is_what_a_fresh_list_gives(tmp_path, server, events):
    asyncio.run(story(tmp_path, server, events))
