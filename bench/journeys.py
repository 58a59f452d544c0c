"""What happens to Pods of a lab on their way to a connection, and when: seen from outside, by one clock.

The API's watch tells of the Pod, the bus tells each step as the server commits it, the CNI's result file has its own
time, and the kernel of the Pod's network answers a ping that is sent the moment the bus says `ready`. Nothing is
asked for twice: watching costs little, and what it costs makes the figures worse, never better.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.msg import Msg

from bench.hearing import committed, heard
from lab.api.client import Client
from lab.api.kinds import PODS
from lab.layout import Layout, State
from schemas import subjects
from schemas.annotation import ANNOTATION
from schemas.codec import decode
from schemas.grant import Connection
from schemas.intent import Request
from schemas.state import Status
from services._node import netns

NAMESPACE = "bench"
INTERFACE = "nsm-1"
CONDITION = "networkservicemesh.io/connected"
STATUS = "networkservicemesh.io/status"

_ECHO = struct.Struct("!BBHHH")
_PING_SECONDS = 0.2  # until it is sent once more, and counted as lost
_GIVE_UP_SECONDS = 120.0


class Journey(msgspec.Struct, kw_only=True):
    """One Pod's. Times are those of the wall clock, 0: not yet."""

    name: str
    asked: float = 0.0  # the API was asked to create or to annotate the Pod
    event: float = 0.0  # it told of that
    request: float = 0.0
    grant: float = 0.0
    network: float = 0.0  # the CNI's result was written
    ready: float = 0.0
    answered: float = 0.0  # the first ping
    told: float = 0.0  # the Pod's condition says it
    uid: str = ""
    peer: str = ""
    lost: int = 0  # pings that were sent after `ready` and not answered

    @property
    def seconds(self) -> float:
        return self.answered - self.asked

    @property
    def steps(self) -> dict[str, float]:
        """Seconds each one waited for. What follows overlaps nothing; the sum is `seconds`."""
        wired = max(self.grant, self.network)
        event = min(self.event, self.request)  # the watcher may hear of it before we do
        return {
            "api": event - self.asked,
            "watcher": self.request - event,
            "ipam": self.grant - self.request,
            "network": wired - self.grant,
            "plumber": self.ready - wired,
            "ping": self.answered - self.ready,
            "told": self.told - self.ready,
        }


class Journeys:
    """Those under way, by name of the Pod."""

    def __init__(self, layout: Layout, api: Client) -> None:
        self.api = api
        self._layout = layout
        self._known: dict[str, Journey] = {}
        self._changed = asyncio.Condition()
        self._uids: dict[str, str] = {}
        self._running: set[str] = set()
        self._standing: set[subjects.StatusKey] = set()
        self._tasks: asyncio.TaskGroup | None = None

    @classmethod
    @asynccontextmanager
    async def seen(cls, layout: Layout, state: State) -> AsyncIterator["Journeys"]:
        """Watching a lab."""
        async with Client(state.api_url) as api, asyncio.TaskGroup() as tasks:
            found = cls(layout, api)
            found._tasks = tasks
            async with heard(state.nats_url, found._hear, name="nsm-bench"):
                watching = tasks.create_task(found._watch())
                yield found
                watching.cancel()

    def begin(self, name: str) -> Journey:
        """Call it right before the API is asked."""
        journey = self._known[name] = Journey(name=name, asked=time.time())
        return journey

    async def end(self, journeys: list[Journey]) -> None:
        """Until all of them have arrived, and their Pods say so."""
        await self._until(
            "every Pod is connected", lambda: all(each.answered and each.told for each in journeys)
        )

    async def until_running(self, names: list[str]) -> None:
        await self._until("every Pod runs", lambda: self._running.issuperset(names))

    async def until_gone(self) -> None:
        """Neither a Pod nor a link of those that travelled is left."""
        self._known.clear()
        await self._until(
            "everything is removed", lambda: not self._standing and not self._travellers()
        )

    def _travellers(self) -> list[str]:
        return [name for name in self._uids if name.startswith("app")]

    async def _until(self, what: str, holds: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(_GIVE_UP_SECONDS), self._changed:
                await self._changed.wait_for(holds)
        except TimeoutError:
            late = [j for j in self._known.values() if not (j.told and j.answered)][:3]
            raise AssertionError(f"{what}: not within {_GIVE_UP_SECONDS:g} s; {late}") from None

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # ---- what the API tells

    async def _watch(self) -> None:
        async for kind, pod in self.api.watch(PODS, namespace=NAMESPACE):
            name = pod["metadata"]["name"]
            if kind == "DELETED":
                self._uids.pop(name, None)
                self._running.discard(name)
            else:
                self._see(name, pod)
            await self._note()

    def _see(self, name: str, pod: dict[str, Any]) -> None:
        self._uids[name] = pod["metadata"]["uid"]
        if pod.get("status", {}).get("phase") == "Running":
            self._running.add(name)
        journey = self._known.get(name)
        if journey is None or ANNOTATION not in (pod["metadata"].get("annotations") or {}):
            return
        journey.event = journey.event or time.time()
        # Either of API and bus may be heard first, whoever was faster.
        conditions = pod.get("status", {}).get("conditions", [])
        connected = any(c["type"] == CONDITION and c["status"] == "True" for c in conditions)
        if connected and INTERFACE in pod["metadata"]["annotations"].get(STATUS, ""):
            journey.told = journey.told or time.time()

    # ---- what the bus tells

    async def _hear(self, message: Msg) -> None:
        now = committed(message)
        key, body = decode(message.subject, message.data)
        if getattr(key, "namespace", "") != NAMESPACE or not hasattr(key, "interface"):
            return
        if isinstance(key, subjects.StatusKey):
            (self._standing.add if isinstance(body, Status) else self._standing.discard)(key)
            await self._note()
        journey = self._known.get(key.pod)
        if journey is None:
            return
        match body:
            case Request():
                journey.request = journey.request or now
            case Connection():
                journey.grant = journey.grant or now
                journey.peer = body.server.addresses[0].partition("/")[0]
                self._arrived(journey)
            case Status(client=client) if client is not None and client.state == "ready":
                journey.ready, journey.uid = journey.ready or now, client.uid
                self._arrived(journey)

    def _arrived(self, journey: Journey) -> None:
        """Of grant and status either may be heard first: they are of two streams."""
        if journey.network or not (journey.ready and journey.peer):
            return
        pod = self._layout.pod_dir(journey.uid)
        journey.network = (pod / "netns").lstat().st_mtime
        assert self._tasks is not None
        self._tasks.create_task(self._ping(journey, pod / "netns"))

    async def _ping(self, journey: Journey, network: Path) -> None:
        loop = asyncio.get_running_loop()
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
        with netns.open_socket(network, socket.AF_INET, kind, socket.IPPROTO_ICMP) as opened:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, INTERFACE.encode())
            opened.connect((journey.peer, 0))
            while not journey.answered:
                opened.send(_ECHO.pack(8, 0, 0, 0, journey.lost + 1))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PING_SECONDS):
                        await loop.sock_recv(opened, 128)
                        journey.answered = time.time()
                        break
                journey.lost += 1
        await self._note()
