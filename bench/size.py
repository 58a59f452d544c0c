"""What a large cluster costs the services: `python -m bench.size [--pods 100000] [--clients 10000] [--nodes 5000]`.

A lab's API server holds the Pods; bus, watcher and ipam are processes of their own; the nodes are played. Told are
the time from the start to the last grant, what each process used, the memory it holds, and how long a restart of each
service takes until its leader has everything again. Beside the memory of the watcher stands the size of the objects
as JSON; beside that of ipam, of its grants.
"""

import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from bench.told import cpu_seconds, memory_mib, process
from bench.watcher import a_pod
from lab.api.kinds import NETWORK_SERVICE_ENDPOINTS, NODES, PODS
from lab.api.kubeconfig import write_kubeconfig
from lab.api.server import LabApi
from lab.api.store import Store
from lab.nats import NatsServer
from schemas.grant import Connection
from schemas.intent import Leader
from schemas.state import NodeFacts
from services._runtime import streams
from services._runtime.bus import Bus
from services._runtime.mirror import Mirror

_SECONDS = 3_600.0


class Size(msgspec.Struct, frozen=True, kw_only=True):
    """How many there are; the clients are among the Pods, spread evenly."""

    pods: int
    clients: int
    nodes: int


def _objects(size: Size) -> list[tuple[Any, dict[str, Any]]]:
    nodes: list[tuple[Any, dict[str, Any]]] = [
        (NODES, {"metadata": {"name": f"node-{number}"}, "spec": {"podCIDR": _pod_cidr(number)}})
        for number in range(size.nodes)
    ]
    endpoint = {
        "metadata": {"name": "vpn", "namespace": "default"},
        "spec": {
            "networkServices": ["vpn"],
            "podSelector": {"matchLabels": {"app": "gateway"}},
            "ipam": {"prefixes": ["172.16.0.0/12"]},
        },
    }
    gateway = a_pod(size.pods)
    gateway["metadata"] |= {"name": "gateway", "labels": {"app": "gateway"}, "annotations": {}}
    pods = [_a_pod(number, size) for number in range(size.pods)]
    return [
        *nodes,
        (NETWORK_SERVICE_ENDPOINTS, endpoint),
        *((PODS, each) for each in [gateway, *pods]),
    ]


def _pod_cidr(number: int) -> str:
    return f"10.{number >> 8}.{number & 255}.0/24"


def _a_pod(number: int, size: Size) -> dict[str, Any]:
    pod = a_pod(number)
    pod["spec"]["nodeName"] = f"node-{number % size.nodes}"
    asks = number * size.clients // size.pods != (number + 1) * size.clients // size.pods
    pod["metadata"]["annotations"] = {"networkservicemesh.io": "vpn"} if asks else {"note": "none"}
    return pod


async def serve(size: Size) -> None:
    """An API server until standard input ends; prints its URL and the bytes of all Pods as JSON."""
    store = Store(history=2 * size.clients)
    total = 0
    for kind, obj in _objects(size):
        status = obj.pop("status", None)
        store.create(kind, obj)
        if status is not None:
            name = obj["metadata"]["name"]
            total += len(msgspec.json.encode([obj, status]))
            store.patch(kind, "default", name, {"status": status}, status=True)
    print(f"{await LabApi(store).start()} {total}", flush=True)
    await asyncio.to_thread(sys.stdin.read)


class Seen:
    """Grants and leaders, as the bus has them."""

    def __init__(self, bus: Bus) -> None:
        self._changed = asyncio.Event()
        self.grants = Mirror(bus, streams.GRANT, ["nsm.>"], on_change=self._heard)
        self.intent = Mirror(bus, streams.INTENT, ["nsm.leader.>"], on_change=self._heard)

    def _heard(self, *_: object) -> None:
        self._changed.set()

    def connections(self) -> list[Connection]:
        return [each for each in self.grants.items.values() if isinstance(each, Connection)]

    def leader(self, service: str) -> Leader | None:
        every = [*self.grants.items.values(), *self.intent.items.values()]
        return next((e for e in every if isinstance(e, Leader) and e.service == service), None)

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(_SECONDS):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def complete(self, service: str, holder: str) -> None:
        def holds() -> bool:
            leader = self.leader(service)
            return leader is not None and leader.complete and leader.holder == holder

        await self.until(holds)


@asynccontextmanager
async def _seen(url: str, nodes: int) -> AsyncIterator[Seen]:
    bus = await Bus.connect(url, name="bench")
    await bus.ensure_streams()
    incarnation = bus.incarnations[streams.STATE]
    for number in range(nodes):
        facts = NodeFacts(
            node=f"node-{number}",
            underlay_address=f"192.168.{number >> 8}.{number & 255}",
            mechanisms=("veth", "vxlan"),
            complete=True,
            incarnation=incarnation,
        )
        await bus.publish(facts)
    seen = Seen(bus)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(each.run()) for each in (seen.grants, seen.intent)]
        yield seen
        for task in tasks:
            task.cancel()
    await bus.close()


async def measure(size: Size, here: Path, bus: NatsServer, api: tuple[str, int]) -> None:
    kubeconfig, api_bytes = api
    started: dict[str, subprocess.Popen[str]] = {}
    with ExitStack() as stack:

        def start(service: str, holder: str) -> None:
            settings = {
                "NSM_NATS_URL": bus.url,
                "NSM_HOLDER": holder,
                "NSM_LOG_LEVEL": "warning",
                "WATCHER_KUBECONFIG": kubeconfig,
            }
            log = here / f"{service}.log"
            command = process(f"services.{service}", log=log, **settings)
            started[service] = stack.enter_context(command)

        async with _seen(bus.url, size.nodes) as seen:
            began = time.perf_counter()
            start("watcher", "first")
            start("ipam", "first")
            await seen.complete("watcher", "first")
            print(f"all read and asked after {time.perf_counter() - began:.1f} s", flush=True)
            await seen.until(lambda: len(seen.connections()) >= size.clients)
            print(f"all granted after {time.perf_counter() - began:.1f} s", flush=True)
            grants = sum(len(msgspec.json.encode(each)) for each in seen.connections())
            pids = {name: each.pid for name, each in started.items()} | {"nats-server": bus.pid}
            beside = {"watcher": f"; Pods as JSON {api_bytes / 2**20:.0f} MiB"}
            beside["ipam"] = f"; grants as JSON {grants / 2**20:.0f} MiB"
            for name, pid in pids.items():
                now, peak = memory_mib(pid)
                print(
                    f"{name:12} {now:6.0f} MiB, peak {peak:.0f}, {cpu_seconds(pid):.1f} s of CPU"
                    + beside.get(name, ""),
                    flush=True,
                )
            for service in ("watcher", "ipam"):
                started[service].kill()
                started[service].wait()
                began = time.perf_counter()
                start(service, "second")
                await seen.complete(service, "second")
                print(
                    f"{service} killed, and complete again after {time.perf_counter() - began:.1f} s"
                    f", {cpu_seconds(started[service].pid):.1f} s of CPU",
                    flush=True,
                )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pods", type=int, default=100_000)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=5_000)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = Size(pods=asked.pods, clients=asked.clients, nodes=asked.nodes)
    if asked.serve:
        asyncio.run(serve(size))
        return 0
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    words = [f"--{name}={value}" for name, value in msgspec.structs.asdict(size).items()]
    with tempfile.TemporaryDirectory(prefix="nsm-bench-") as folder:
        here = Path(folder)
        with (
            NatsServer(here / "nats") as bus,
            process("bench.size", "--serve", *words, log=here / "api.log") as api,
        ):
            assert api.stdout is not None
            url, total = api.stdout.readline().split()
            write_kubeconfig(here / "kubeconfig", url)
            print(
                f"{size.pods} Pods, {size.clients} of them clients, {size.nodes} nodes", flush=True
            )
            asyncio.run(measure(size, here, bus, (str(here / "kubeconfig"), int(total))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
