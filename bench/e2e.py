"""How long a Pod waits for its connection, and for whom: `python -m bench.e2e [--quick]`.

The whole system as it runs on a node, in a lab of its own: API server, watcher, ipam, NATS with file storage, plumbers,
kernel. From the request that creates or annotates the Pod, so a little before the API's event, to the first answered
ping. Where the time goes is told in steps that follow each other:

    api        the request          → the API's event
    watcher    the API's event      → the request is committed on the bus
    ipam       the request          → the grant is committed
    network    the grant            → the Pod has a network (0: it had one)
    plumber    grant and network    → `ready` is committed
    ping       `ready`              → the answer to a ping that was sent then
    told       `ready`              → the Pod's condition says so (nobody waits for it)

Beside it, in the same run: three messages through a nats-server of its own, each sent when the one before was
heard, which is what the bus alone takes (`python -m bench.plumber` has the kernel's part); at last, how soon what is
broken is whole again (`bench.repairs`).
A Pod's network is made by the lab's kubelet, which is one process for all nodes: bursts of new Pods wait for it,
bursts of Pods that run and are annotated do not: those are the product's part alone. Below each burst stands whose
processor time it took. `all` is the time from the first request to the API to the last
answer; `lost` counts pings that were sent after `ready` in vain.
"""

import argparse
import asyncio
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from bench import repairs, shares
from bench.figures import Table, duration, median, worst_of_99
from bench.floor import bus_hops
from bench.hearing import TOKEN_SECONDS
from bench.journeys import INTERFACE, NAMESPACE, Journey, Journeys
from cli import labs
from lab import linux
from lab.api.kinds import NAMESPACES, NETWORK_SERVICE_ENDPOINTS, PODS
from lab.layout import Layout
from schemas.annotation import ANNOTATION

ROOT = Path(__file__).parent.parent
NODES = ("node1", "node2", "node3")
_IN_FLIGHT = 32  # requests to the API at once
_COLUMNS = ("api", "watcher", "ipam", "network", "plumber", "ping", "told")


class Size(msgspec.Struct, frozen=True, kw_only=True):
    singles: int = 50
    bursts: tuple[int, ...] = (100, 500)


FULL = Size()
QUICK = Size(singles=10, bursts=(30,))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="ten Pods, and a burst of thirty")
    size = QUICK if parser.parse_args().quick else FULL
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    _tell_floor()
    directory = Path(tempfile.mkdtemp(prefix="nsm-bench-"))
    os.environ["NSM_LAB_DIR"] = str(directory)
    try:
        words = ("--nodes", str(len(NODES)), "--token-seconds", str(TOKEN_SECONDS))
        began = time.monotonic()
        _nsm("lab", "up", "--detach", *words)
        print(
            f"a lab of {len(NODES)} nodes is up after {time.monotonic() - began:.1f} s", flush=True
        )
        code = labs.in_child(lambda: _from_inside(Layout(directory), size))
    finally:
        _nsm("lab", "down")
        shutil.rmtree(directory, ignore_errors=True)
    sys.exit(code)


def _nsm(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "cli.main", *words], cwd=ROOT, check=True, stdout=2)


def _from_inside(layout: Layout, size: Size) -> int:
    """Where the lab's networks have their names. The namespace of processes is that of children."""
    base = Path("/proc", str(layout.read_state().daemon_pid), "ns")
    kinds = [kind for kind in ("user", "mnt", "pid") if not _is_ours(base / kind)]
    descriptors = [os.open(base / kind, os.O_RDONLY | os.O_CLOEXEC) for kind in kinds]
    for fd in descriptors:
        linux.setns(fd)
        os.close(fd)
    os.chdir(ROOT)
    return labs.in_child(lambda: asyncio.run(_measure(layout, size)))


def _is_ours(namespace: Path) -> bool:
    return namespace.readlink() == Path("/proc/self/ns", namespace.name).readlink()


def _tell_floor() -> None:
    taken = bus_hops()
    print("floor, the bus alone: three messages, each sent when the one before was heard")
    print(f"  p50 {duration(median(taken))}, p99 {duration(worst_of_99(taken))}", flush=True)


async def _measure(layout: Layout, size: Size) -> int:
    async with Journeys.seen(layout, layout.read_state()) as journeys:
        bench = Bench(journeys)
        await bench.prepare()
        print("milliseconds; the steps are medians", flush=True)
        columns = dict.fromkeys(("p50", "p99", "all", *_COLUMNS, "lost"), 8)
        table = Table(Pods=34, **columns)
        for name, service, node in (("on one node", "vpn", "node1"), ("on two", "far", "node1")):
            await bench.singly(
                2, service=service, node=node
            )  # what the first ones wait for is no figure
            found = await bench.singly(size.singles, service=service, node=node)
            table.row(f"one new Pod, {name}", *_cells(found))
        found = await bench.singly(size.singles, service="vpn", node="node1", annotated=True)
        table.row("one running Pod, annotated", *_cells(found))
        for count in size.bursts:
            found = await bench.burst(count)
            table.row(f"{count} new Pods at once", *_cells(found, together=True))
            print(f"    processor ms per Pod: {bench.spent}", flush=True)
            found = await bench.burst(count, annotated=True)
            table.row(f"{count} running Pods, annotated", *_cells(found, together=True))
            print(f"    processor ms per Pod: {bench.spent}", flush=True)
        await repairs.tell(journeys.api, layout, layout.read_state(), len(NODES))
    return 0


def _cells(journeys: Sequence[Journey], *, together: bool = False) -> list[str]:
    waited = [each.seconds for each in journeys]
    steps = [each.steps for each in journeys]
    figures = [median(waited), worst_of_99(waited)]
    figures += [median([each[name] for each in steps]) for name in _COLUMNS]
    shown = [f"{figure * 1e3:.1f}" for figure in figures]
    first, last = min(j.asked for j in journeys), max(j.answered for j in journeys)
    shown.insert(2, f"{(last - first) * 1e3:.0f}" if together else "-")
    return [*shown, str(sum(each.lost for each in journeys))]


class Bench:
    """Pods that are made, connected and removed."""

    def __init__(self, journeys: Journeys) -> None:
        self._journeys = journeys
        self._api = journeys.api
        self._slots = asyncio.Semaphore(_IN_FLIGHT)
        self.spent = ""  # the processor time of the last Pods together, by process

    async def prepare(self) -> None:
        """An endpoint with a Pod on each node, and one that has a Pod on another node only."""
        await self._api.create(NAMESPACES, {"metadata": {"name": NAMESPACE}})
        for service, prefix, nodes in (
            ("vpn", "172.20.0.0/16", NODES),
            ("far", "172.21.0.0/16", NODES[1:2]),
        ):
            await self._api.create(NETWORK_SERVICE_ENDPOINTS, _endpoint(service, prefix))
            names = [f"{service}-{node}" for node in nodes]
            for name, node in zip(names, nodes, strict=True):
                await self._api.create(PODS, _pod(name, node, labels={"nse": service}))
            await self._journeys.until_running(names)

    async def singly(
        self, count: int, *, service: str, node: str, annotated: bool = False
    ) -> list[Journey]:
        """One after the other, each alone in the cluster."""
        found: list[Journey] = []
        for _ in range(count):
            found += await self._travel([_pod("app", node)], service, annotated=annotated)
        return found

    async def burst(self, count: int, *, annotated: bool = False) -> list[Journey]:
        pods = [_pod(f"app{n}", NODES[n % len(NODES)]) for n in range(count)]
        return await self._travel(pods, "vpn", annotated=annotated)

    async def _travel(
        self, pods: Sequence[dict[str, Any]], service: str, *, annotated: bool
    ) -> list[Journey]:
        names = [pod["metadata"]["name"] for pod in pods]
        if annotated:
            await self._together(self._api.create(PODS, pod) for pod in pods)
            await self._journeys.until_running(names)
        before = shares.now()
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(self._ask(pod, service, annotated=annotated)) for pod in pods
            ]
        found = [each.result() for each in asked]
        await self._journeys.end(found)
        self.spent = shares.told(before, shares.now(), per=len(found))
        await self._together(
            self._api.delete(PODS, NAMESPACE, name, grace_seconds=0) for name in names
        )
        await self._journeys.until_gone()
        return found

    async def _ask(self, pod: dict[str, Any], service: str, *, annotated: bool) -> Journey:
        annotation = {"metadata": {"annotations": {ANNOTATION: f"{service}/{INTERFACE}"}}}
        name = pod["metadata"]["name"]
        async with self._slots:
            journey = self._journeys.begin(name)
            if annotated:
                await self._api.patch(PODS, NAMESPACE, name, annotation)
            else:
                metadata = pod["metadata"] | annotation["metadata"]
                await self._api.create(PODS, pod | {"metadata": metadata})
        return journey

    async def _together(self, requests: Iterable[Coroutine[Any, Any, Any]]) -> None:
        async def one(request: Coroutine[Any, Any, Any]) -> None:
            async with self._slots:
                await request

        async with asyncio.TaskGroup() as group:
            for request in requests:
                group.create_task(one(request))


def _pod(name: str, node: str, *, labels: dict[str, str] | None = None) -> dict[str, Any]:
    """Its container pauses: a lab starts no process for it."""
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels or {}},
        "spec": {"nodeName": node, "containers": [{"name": "app", "image": "none"}]},
    }


def _endpoint(name: str, prefix: str) -> dict[str, Any]:
    spec = {
        "networkServices": [name],
        "podSelector": {"matchLabels": {"nse": name}},
        "ipam": {"prefixes": [prefix]},
    }
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


if __name__ == "__main__":
    main()
