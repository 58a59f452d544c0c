"""How fast Pods are told what became of them: `python -m bench.told [--pods 500]`.

A lab's API server and the watcher are processes of their own; ipam and the nodes are played over a real bus. All
Pods ask and wait; then everything is granted and wired at once, and the clock runs until the last Pod's condition
says so, and on until the last Event is there. Beside it, in the same run: the same number of bare patches of a Pod's
status by as many writers as the watcher has, which is what the API server alone takes.
"""

import argparse
import asyncio
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import structlog

from bench.servers import servers
from lab.api.client import Client
from lab.api.kinds import EVENTS, PODS
from lab.api.kubeconfig import write_kubeconfig
from lab.api.server import LabApi
from lab.api.store import Store
from schemas.grant import Connection, End
from schemas.intent import PodRef, Request
from schemas.state import EndStatus, Status
from services._runtime.bus import Bus
from services._runtime.leading import Term, lead
from services._runtime.mirror import Mirror
from services._runtime.streams import GRANT, INTENT
from services.watcher.model import CONDITION
from services.watcher.settings import Settings

ROOT = Path(__file__).parent.parent
_SECONDS = 120.0
_MAC = "02:00:00:00:00:01"
_STRATEGIC = "application/strategic-merge-patch+json"


async def serve() -> None:
    """An API server until standard input ends; prints its URL."""
    api = LabApi(Store(history=100_000))
    print(await api.start(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, flush=True)


@contextmanager
def process(*words: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            env={**os.environ, **environment},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield process
    except BaseException:
        print(log.read_text()[-2_000:], file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.communicate()


class Seen:
    """Pods and Events as the API server tells them."""

    def __init__(self, api: Client) -> None:
        self._api = api
        self._changed = asyncio.Condition()
        self.told: dict[str, tuple[str, float]] = {}
        self.writes = 0
        self.events = 0

    async def pods(self) -> None:
        async for _, pod in self._api.watch(PODS, namespace="default"):
            self.writes += 1
            for each in pod.get("status", {}).get("conditions", []):
                if each["type"] == CONDITION:
                    known = self.told.get(pod["metadata"]["name"], ("", 0.0))
                    if known[0] != each["status"]:
                        self.told[pod["metadata"]["name"]] = (each["status"], time.perf_counter())
            async with self._changed:
                self._changed.notify_all()

    async def happenings(self) -> None:
        async for _, _ in self._api.watch(EVENTS, namespace="default"):
            self.events += 1
            async with self._changed:
                self._changed.notify_all()

    async def until(self, status: str, count: int, *, events: int = 0) -> None:
        def holds() -> bool:
            said = sum(each[0] == status for each in self.told.values())
            return said >= count and self.events >= events

        async with asyncio.timeout(_SECONDS), self._changed:
            await self._changed.wait_for(holds)


class Ipam:
    """The other writer, and the nodes."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.own = Mirror(bus, GRANT, ["nsm.>"], on_change=lambda *_: None)
        self.intent = Mirror(bus, INTENT, ["nsm.request.>"], on_change=self._heard)
        self._term: asyncio.Future[Term] = asyncio.get_running_loop().create_future()
        self._more = asyncio.Event()

    def _heard(self, *_: object) -> None:
        self._more.set()

    async def decide(self, term: Term) -> None:
        await term.declare_complete()
        self._term.set_result(term)
        await asyncio.Event().wait()

    async def requests(self, count: int) -> list[Request]:
        while len(self.intent.items) < count:
            self._more.clear()
            await self._more.wait()
        return [each for each in self.intent.items.values() if isinstance(each, Request)]

    async def connect(self, requests: list[Request]) -> None:
        term = await self._term
        slots = asyncio.Semaphore(64)

        async def one(number: int, request: Request) -> None:
            async with slots:
                grant = _grant(number, request)
                await term.publish(grant)
                await self._bus.publish(_status(grant))

        async with asyncio.TaskGroup() as group:
            for number, request in enumerate(requests):
                group.create_task(one(number, request))


def _grant(number: int, request: Request) -> Connection:
    server = PodRef(namespace="default", name="vpn-0", uid="uid-vpn-0", node=request.pod.node)
    address = f"172.16.{number >> 8}.{number & 255}/32"
    return Connection(
        node=request.pod.node,
        revision=1,
        network_service=request.network_service,
        network_service_namespace="default",
        endpoint="vpn",
        endpoint_namespace="default",
        client=End(pod=request.pod, interface=request.interface, mac=_MAC, addresses=(address,)),
        server=End(pod=server, interface=f"nse-{number}", mac=_MAC, addresses=("172.16.255.1/32",)),
    )


def _status(grant: Connection) -> Status:
    client = grant.client
    end = EndStatus(
        uid=client.pod.uid,
        state="ready",
        interface=client.interface,
        addresses=client.addresses,
        applied=grant,
    )
    return Status(
        node=grant.node,
        namespace=client.pod.namespace,
        pod=client.pod.name,
        interface=client.interface,
        revision=grant.revision,
        client=end,
    )


def _pod(number: int) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"app-{number}",
            "namespace": "default",
            "annotations": {"networkservicemesh.io": "vpn/nsm-1"},
        },
        "spec": {
            "nodeName": f"node-{number % 10}",
            "containers": [{"name": "app", "image": "none"}],
        },
    }


@asynccontextmanager
async def _world(url: str, api_url: str) -> AsyncIterator[tuple[Seen, Ipam]]:
    bus = await Bus.connect(url, name="bench")
    await bus.ensure_streams()
    ipam = Ipam(bus)
    try:
        async with Client(api_url) as api, asyncio.TaskGroup() as group:
            seen = Seen(api)
            tasks = [
                group.create_task(each)
                for each in (
                    seen.pods(),
                    seen.happenings(),
                    ipam.own.run(),
                    ipam.intent.run(),
                    lead(bus, "ipam", ipam.own, ipam.decide, holder="bench"),
                )
            ]
            yield seen, ipam
            for task in tasks:
                task.cancel()
    finally:
        await bus.close()


async def measure(url: str, api_url: str, watcher: int, count: int) -> None:
    async with _world(url, api_url) as (seen, ipam):
        async with asyncio.timeout(_SECONDS):
            requests = await ipam.requests(count)
        await seen.until("False", count)
        writes, cpu = seen.writes, cpu_seconds(watcher)
        begun = time.perf_counter()
        await ipam.connect(requests)
        published = time.perf_counter() - begun
        await seen.until("True", count)
        last = max(at for _, at in seen.told.values()) - begun
        written = seen.writes - writes
        await seen.until("True", count, events=count)
        said = time.perf_counter() - begun
        cpu = cpu_seconds(watcher) - cpu
        print(
            f"{count} Pods: granted after {published:.2f} s, told after {last:.2f} s "
            f"({count / last:.0f}/s), Events after {said:.2f} s; {written / count:.2f} versions and "
            f"{cpu / count * 1e3:.2f} ms CPU of the watcher per Pod, peak {memory_mib(watcher)[1]:.0f} MiB",
            flush=True,
        )
        await _floor(api_url, count)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> tuple[float, float]:
    """What a process holds now, and held at most."""
    text = Path(f"/proc/{pid}/status").read_text()
    now, peak = (int(text.partition(name)[2].split()[0]) / 1024 for name in ("VmRSS:", "VmHWM:"))
    return now, peak


async def _floor(api_url: str, count: int) -> None:
    """As many patches, of which the answer is thrown away."""
    slots = asyncio.Semaphore(Settings().writes_in_flight)
    begun = time.perf_counter()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def one(number: int) -> None:
            told = {"type": "example/bench", "status": "True", "message": str(begun)}
            path = f"{api_url}/api/v1/namespaces/default/pods/app-{number}/status"
            body = msgspec.json.encode({"status": {"conditions": [told]}})
            headers = {"Content-Type": _STRATEGIC}
            async with slots, session.patch(path, data=body, headers=headers) as response:
                await response.read()

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))
    seconds = time.perf_counter() - begun
    print(f"floor, {count} bare patches: {seconds:.2f} s ({count / seconds:.0f}/s)", flush=True)


async def prepare(api_url: str, count: int) -> None:
    async with Client(api_url) as api:
        for number in range(count):
            await api.create(PODS, _pod(number))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pods", type=int, default=500)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        asyncio.run(serve())
        return 0
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="nsm-bench-") as folder:
        here = Path(folder)
        with (
            servers(here / "nats", 1) as url,
            process("bench.told", "--serve", log=here / "api.log") as api,
        ):
            assert api.stdout is not None
            api_url = api.stdout.readline().strip()
            write_kubeconfig(here / "kubeconfig", api_url)
            asyncio.run(prepare(api_url, asked.pods))
            settings = {
                "NSM_NATS_URL": url,
                "WATCHER_KUBECONFIG": str(here / "kubeconfig"),
                "NSM_LOG_LEVEL": "warning",
            }
            with process("services.watcher", log=here / "watcher.log", **settings) as watcher:
                asyncio.run(measure(url, api_url, watcher.pid, asked.pods))
    return 0


if __name__ == "__main__":
    sys.exit(main())
