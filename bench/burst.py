"""Pods at once through the real bus: requests go in as the watcher writes them, a real ipam process answers.

A grant counts when the server has committed it (it republishes what it stored). Every run checks what it measured:
each Pod was granted, and no two of them have one address.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
from nats.aio.msg import Msg

from bench.servers import servers
from schemas import subjects
from schemas.codec import Tombstone, decode
from schemas.grant import Connection
from schemas.intent import Endpoint, IpamSpec, Leader, PodRef, PrefixesInUse, Request, UsedPrefix
from schemas.state import NodeFacts
from services._runtime import streams
from services._runtime.bus import Bus
from services._runtime.client import Client

ROOMY = IpamSpec(prefixes=("172.16.0.0/12",))
EXACT = IpamSpec(  # 1,022 usable addresses, one for the endpoint, 21 left out: 1,000 clients
    prefixes=("172.30.0.0/22",),
    exclude_prefixes=("172.30.3.0/28", "172.30.3.16/30", "172.30.3.20/32"),
)
PODS = 1_000
_IN_FLIGHT = 128
_START_SECONDS = 60.0
_GRANT_SECONDS = 120.0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One burst: seconds since the first request was sent."""

    servers: int
    pods: int
    published: float  # the last request is in its stream
    granted: float  # the last grant is in its stream
    half: float  # half of them are

    @property
    def rate(self) -> float:
        return self.pods / self.granted


class _Grants:
    """Grants as the server commits them."""

    def __init__(self) -> None:
        self.found: dict[subjects.ConnectionKey, Connection] = {}
        self.times: list[float] = []
        self.leader = asyncio.Event()
        self._more = asyncio.Event()

    async def hear(self, message: Msg) -> None:
        key, body = decode(message.subject, message.data)
        if isinstance(body, Connection) and key not in self.found:
            self.found[key] = body
            self.times.append(time.perf_counter())
            self._more.set()
        elif isinstance(body, Leader) and body.service == "ipam" and body.complete:
            self.leader.set()
        elif isinstance(body, Tombstone):
            self.found.pop(key, None)

    async def reach(self, count: int) -> None:
        while len(self.found) < count:
            self._more.clear()
            await self._more.wait()


def run(*, replicas: int, ipam: IpamSpec, pods: int = PODS) -> Result:
    with tempfile.TemporaryDirectory(prefix="nsm-bench-") as folder:
        directory = Path(folder)
        with servers(directory / "nats", replicas) as url:
            return asyncio.run(_burst(url, directory, replicas=replicas, ipam=ipam, pods=pods))


async def _burst(url: str, directory: Path, *, replicas: int, ipam: IpamSpec, pods: int) -> Result:
    async with _watcher(url, replicas) as bus:
        await _cluster(bus, ipam)
        grants = _Grants()
        listener = Client()
        await listener.connect(url.split(","))
        await listener.subscribe(
            f"{subjects.LOG_ROOT}.>", cb=grants.hear, pending_msgs_limit=0, pending_bytes_limit=0
        )
        await listener.flush()
        with _ipam(url, replicas, directory / "ipam.log"):
            async with asyncio.timeout(_START_SECONDS):
                await grants.leader.wait()
            requests = [_request(number) for number in range(pods)]
            started = time.perf_counter()
            async with asyncio.timeout(_GRANT_SECONDS), asyncio.TaskGroup() as group:
                waiting = group.create_task(grants.reach(pods))
                await _publish(bus, requests)
                published = time.perf_counter()
                await waiting
        await listener.close()
    taken = {c.client.addresses for c in grants.found.values()}
    if len(taken) != pods:
        raise AssertionError(f"{pods} Pods have {len(taken)} addresses")
    return Result(
        servers=replicas,
        pods=pods,
        published=published - started,
        granted=grants.times[-1] - started,
        half=grants.times[pods // 2] - started,
    )


@asynccontextmanager
async def _watcher(url: str, replicas: int) -> AsyncIterator[Bus]:
    bus = await Bus.connect(url, name="watcher", replicas=replicas)
    async with asyncio.timeout(_START_SECONDS):
        await bus.ensure_streams()
    try:
        yield bus
    finally:
        await bus.close()


async def _cluster(bus: Bus, ipam: IpamSpec) -> None:
    """A node that has told all it has, an endpoint, and a watcher that wrote everything."""
    node = UsedPrefix(prefix="10.244.1.0/24", used_by="Pod CIDR of node node1")
    await bus.publish(PrefixesInUse(source="node", name="node1", prefixes=(node,)))
    incarnation = bus.incarnations[streams.STATE]
    await bus.publish(NodeFacts(node="node1", complete=True, incarnation=incarnation))
    await bus.publish(
        Endpoint(
            endpoint="vpn",
            pod=_pod("gateway", 2),
            ready=True,
            network_services=("vpn",),
            ipam=ipam,
        )
    )
    known = {name: bus.incarnations[name] for name in streams.TRUTH}
    await bus.publish(Leader(service="watcher", holder="bench", incarnations=known, complete=True))


async def _publish(bus: Bus, requests: list[Request]) -> None:
    slots = asyncio.Semaphore(_IN_FLIGHT)

    async def publish(request: Request) -> None:
        async with slots:
            await bus.publish(request)

    async with asyncio.TaskGroup() as group:
        for request in requests:
            group.create_task(publish(request))


@contextmanager
def _ipam(url: str, replicas: int, log: Path) -> Iterator[None]:
    environment = {
        **os.environ,
        "NSM_NATS_URL": url,
        "NSM_NATS_REPLICAS": str(replicas),
        "NSM_HOLDER": "bench",
        "NSM_LOG_LEVEL": "warning",
    }
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.ipam"],
            env=environment,
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield
    except BaseException:
        print(log.read_text()[-2_000:], file=sys.stderr)
        raise
    finally:
        process.terminate()
        process.wait()


def _pod(name: str, number: int) -> PodRef:
    address = f"10.244.{1 + (number >> 8)}.{number & 255}"
    return PodRef(namespace="bench", name=name, uid=f"uid-{name}", node="node1", ips=(address,))


def _request(number: int) -> Request:
    pod = _pod(f"pod-{number}", number + 3)
    return Request(pod=pod, interface="nsm-1", network_service="vpn")
