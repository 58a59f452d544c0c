"""A lab under chaos: Pods come, change and go at random, faults strike, and witnesses watch what must not notice.

What is wanted is known here and nowhere else; what there is, is read from the bus and from the kernel.
"""

import asyncio
import base64
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import ExitStack
from typing import Any, Self
from unittest import mock

import msgspec
from nats.aio.client import Client as NatsClient

from cli import connecting
from lab import control
from lab.api.client import Client, ClientError
from lab.api.kinds import PODS
from lab.layout import Layout
from schemas.codec import decode
from schemas.grant import Connection
from schemas.intent import PodRef
from schemas.subjects import LeaseKey
from services._runtime import streams
from tests import checker
from tests.e2e import names
from tests.e2e.cluster import ANNOTATION, CONDITION, ROOT, Cluster, endpoint, endpoint_pod, pod
from tests.e2e.names import dns_endpoint
from tests.e2e.witness import SETTLED_SECONDS, picture, testify

NAMESPACE = "chaos"
INSIDE = "www.corp.example"
STILL = {"near": "node1", "far": "node2"}  # Pods that nobody changes
ALL = "vpn/nsm-1, gw/nsm-2, corp/nsm-3"
WISHES = ("vpn/nsm-1", "vpn/nsm-1, gw/nsm-2", "gw/nsm-2, corp/nsm-3", "corp/nsm-3", "")
SERVICE_OF = {"nsm-1": "vpn", "nsm-2": "gw", "nsm-3": "corp"}
CHURNED = 8
BACK_SECONDS = 60.0
FOREIGN = ("lo", "eth0")

Grants = dict[tuple[str, str], Connection]  # by Pod and interface


class Wish(msgspec.Struct, frozen=True):
    """What a Pod asks for, since which change of ours."""

    uid: str
    interfaces: frozenset[str]
    change: int


class Chaos:
    """One lab; `async with`."""

    def __init__(self, lab: Cluster, seed: int) -> None:
        self.lab = lab
        self.random = random.Random(seed)
        self.wishes: dict[str, Wish] = {}
        self._layout = Layout(lab.directory)
        self._changes = 0
        self._probes = 0
        self._known: tuple[Grants, dict[str, Wish]] = ({}, {})
        self._still: Grants = {}
        self._links: dict[str, Any] = {}
        self._quiet = asyncio.Event()

    async def __aenter__(self) -> Self:
        state = json.loads((self.lab.directory / "lab.json").read_text())
        self.api = await Client(state["api_url"]).__aenter__()
        with mock.patch.dict(os.environ, self.lab.environment):
            self.bus: NatsClient = await connecting.connect(state["nats_url"], name="chaos")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.bus.close()
        await self.api.__aexit__(None, None, None)

    # -- what is wanted

    async def begin(self) -> None:
        """Endpoints near and far, one with DNS, and the Pods that nobody changes, connected."""
        self.lab.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
            endpoint("vpn", NAMESPACE, "vpn", "172.20.0.0/22", "2001:db8:20::/112"),
            endpoint_pod("vpn-1", NAMESPACE, "vpn"),
            endpoint_pod("vpn-2", NAMESPACE, "vpn", nodeName="node2"),
            endpoint("gw", NAMESPACE, "gw", "172.24.0.0/22"),
            endpoint_pod("gw-1", NAMESPACE, "gw", nodeName="node2"),
            *dns_endpoint("corp", NAMESPACE, "172.28.0.0/22", "www=10.20.0.5"),
            *(pod(name, NAMESPACE, ALL, nodeName=node) for name, node in STILL.items()),
        )
        for name in STILL:
            made = await self._connected(name)
            self._wish(name, made, ALL)
        self._still = await self.grants()
        self._links = self._links_of(STILL)
        self._known = self._still, dict(self.wishes)

    async def churn(self) -> None:
        """Create, edit and delete until `rest`."""
        while not self._quiet.is_set():
            name = f"pod-{self.random.randrange(CHURNED)}"
            try:
                await self._change(name)
            except ClientError as exc:
                if exc.code not in (404, 409):  # its former self is still going
                    raise
            await asyncio.sleep(self.random.uniform(0.05, 0.4))

    def rest(self) -> None:
        self._quiet.set()

    async def _change(self, name: str) -> None:
        text = self.random.choice(WISHES)
        if name not in self.wishes:
            node = f"node{self.random.randint(1, 2)}"
            made = await self.api.create(PODS, pod(name, NAMESPACE, text, nodeName=node))
            self._wish(name, made, text)
        elif self.random.random() < 0.4:
            del self.wishes[name]
            await self.api.delete(PODS, NAMESPACE, name, grace_seconds=0)
        else:
            patch = {"metadata": {"annotations": {ANNOTATION: text}}}
            self._wish(name, await self.api.patch(PODS, NAMESPACE, name, patch), text)

    def _wish(self, name: str, made: dict[str, Any], text: str) -> None:
        self._changes += 1
        interfaces = frozenset(item.partition("/")[2] for item in text.split(", ") if item)
        self.wishes[name] = Wish(made["metadata"]["uid"], interfaces, self._changes)

    # -- faults

    def kill(self, name: str, *, number: str = "KILL", hold: bool = False) -> None:
        held = {"hold": "1"} if hold else {}
        control.call(self._layout, "POST", f"/processes/{name}/kill", signal=number, **held)

    def start(self, name: str) -> None:
        control.call(self._layout, "POST", f"/processes/{name}/start")

    def wipe(self, server: str) -> None:
        """Only while it is held."""
        self._await_end(server)
        shutil.rmtree(self._layout.nats / server.partition("/")[2] / "store" / "jetstream")

    def processes(self, service: str = "") -> dict[str, Any]:
        found = control.call(self._layout, "GET", "/processes")
        return {p["name"]: p for p in found if p["name"].startswith(service)}

    def _await_end(self, name: str) -> None:
        while self.processes()[name]["running"]:
            time.sleep(0.01)

    async def server_that_leads(self, stream: str = streams.GRANT) -> str:
        """The process whose server leads a stream."""
        leader = (await self._info(stream))["cluster"]["leader"]
        return str(leader).replace("nats-", "nats/")

    async def process_that_leads(self, service: str) -> str:
        """The process that holds a lease."""
        asked = {"last_by_subj": LeaseKey(service).subject}
        found = await self._api(f"STREAM.MSG.GET.{streams.LIVE}", asked)
        _, lease = decode(asked["last_by_subj"], base64.b64decode(found["message"]["data"]))
        return str(lease.holder).replace("-", "/")

    async def quorum(self) -> None:
        """Until the servers have a leader, and each stream has one or does not exist."""
        async with asyncio.timeout(BACK_SECONDS):
            await self._api("INFO")
            for stream in (*streams.TRUTH, streams.LIVE):
                while not _is_led(await self._info(stream)):
                    await asyncio.sleep(0.05)

    async def replicas_current(self) -> None:
        """Until every replica of every stream has caught up: a rollout goes on then."""
        async with asyncio.timeout(BACK_SECONDS):
            for stream in streams.TRUTH:
                while not _all_current(await self._info(stream)):
                    await asyncio.sleep(0.1)

    async def _info(self, stream: str) -> dict[str, Any]:
        return await self._api(f"STREAM.INFO.{stream}")

    async def _api(self, operation: str, body: object = None) -> dict[str, Any]:
        """Asks until somebody answers."""
        payload = b"" if body is None else json.dumps(body).encode()
        while True:
            try:
                async with asyncio.timeout(1):
                    answer = await self.bus.request(f"$JS.API.{operation}", payload, timeout=5)
            except Exception:  # noqa: BLE001  whatever a broken bus says
                await asyncio.sleep(0.05)
            else:
                return dict(json.loads(answer.data))

    # -- what came of it

    async def strike(self, what: str, fault: Callable[[], Awaitable[None]]) -> float:
        """A fault, then a new Pod as soon as there is a quorum; nothing granted is lost or changed.

        Seconds from the quorum until the Pod was connected.
        """
        began = time.monotonic()
        await fault()
        struck = time.monotonic()
        await self.quorum()
        back = time.monotonic()
        name = f"probe-{self._probes}"
        self._probes += 1
        made = await self.api.create(PODS, pod(name, NAMESPACE, "vpn/nsm-1"))
        self._wish(name, made, "vpn/nsm-1")
        await self._connected(name)
        took = time.monotonic() - back
        sys.stdout.write(
            f"{what}: fault {struck - began:.1f} s, quorum {back - struck:.1f} s, new Pod {took:.1f} s\n"
        )
        await self.compare(what)
        return took

    async def compare(self, when: str) -> None:
        """What was granted before stands, unless its wish changed."""
        (before, wished), asked = self._known, dict(self.wishes)
        now = await self.grants()
        for key, grant in self._still.items():
            assert now.get(key) == grant, f"{when}: {key} was {grant}, is {now.get(key)}"
        for (name, interface), grant in before.items():
            old = wished.get(name)
            unchanged = old == asked.get(name) == self.wishes.get(name)
            if old is None or not unchanged or grant.client.pod.uid != old.uid:
                continue
            if interface in old.interfaces:
                found = now.get((name, interface))
                assert found is not None, f"{when}: {name}/{interface} was granted and is lost"
                assert _given(found) == _given(grant), f"{when}: {grant} became {found}"
        self._known = now, asked

    async def grants(self) -> Grants:
        seen = await asyncio.to_thread(picture, self.lab)
        assert not checker.double_grants(seen)
        return {(c.client.pod.name, c.client.interface): c for c in seen.grants()}

    async def converge(self) -> None:
        """Every Pod has what it asks for, in the bus and in the kernel, and nothing else is left."""
        for name, wish in self.wishes.items():
            if wish.interfaces:
                await self._connected(name)
        await asyncio.to_thread(testify, self.lab)
        await self.compare("at the end")
        grants = await self.grants()
        wanted = {(name, i) for name, wish in self.wishes.items() for i in wish.interfaces}
        assert grants.keys() == wanted
        for (name, interface), grant in grants.items():
            assert grant.client.pod.uid == self.wishes[name].uid
            assert grant.network_service == SERVICE_OF[interface]
        await self._kernel_equals(grants)
        assert self._links_of(STILL) == self._links

    async def _kernel_equals(self, grants: Grants) -> None:
        ends: dict[str, dict[str, set[str]]] = {name: {} for name in self.wishes}
        for grant in grants.values():
            for end in (grant.client, grant.server):
                addresses = set(end.addresses)
                ends.setdefault(end.pod.name, {})[end.interface] = addresses
        deadline = time.monotonic() + SETTLED_SECONDS
        while True:
            links = await asyncio.to_thread(self._links_of, ends)
            found = {
                name: {i: set(addresses) for i, (_, addresses) in of.items() if i not in FOREIGN}
                for name, of in links.items()
            }
            if found == ends:
                return
            wrong = {n: (found[n], ends[n]) for n in ends if found[n] != ends[n]}
            assert time.monotonic() < deadline, f"in the kernel and granted: {wrong}"

    def _links_of(self, pods: Iterable[str]) -> dict[str, Any]:
        """Index and addresses of each interface of each Pod."""
        told = subprocess.run(
            [sys.executable, "-m", "tests.e2e.kernels", NAMESPACE, *pods],
            env=self.lab.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.splitlines()
        return {
            pod: {link["name"]: (link["index"], link["addresses"]) for link in json.loads(line)}
            for pod, line in zip(pods, told, strict=True)
        }

    async def _connected(self, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + BACK_SECONDS
        while True:
            found = await self.api.get(PODS, NAMESPACE, name)
            conditions = found.get("status", {}).get("conditions", [])
            said: dict[str, Any] = next((c for c in conditions if c["type"] == CONDITION), {})
            if said.get("status") == "True":
                return found
            assert time.monotonic() < deadline, f"{name} in {BACK_SECONDS:.0f} s: {said}"
            await asyncio.sleep(0.03)


class Witnesses:
    """Pings and queries of the Pods that nobody changes, all the while; `with`. A lost one is told at the end."""

    def __init__(self, lab: Cluster) -> None:
        self._lab = lab
        self._stack = ExitStack()
        self._pings: dict[str, Callable[[], str]] = {}
        self._queries: list[tuple[str, float]] = []
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        for name in STILL:
            for interface in ("nsm-1", "nsm-2"):
                ping = self._lab.pinging(name, NAMESPACE, interface)
                self._pings[f"{name}/{interface}"] = self._stack.enter_context(ping)
        self._stub = self._lab.start(
            *("lab", "exec", "near", "-n", NAMESPACE, "--", "python", "-c", names.STUB),
            stdin=subprocess.PIPE,
        )
        self._asking = threading.Thread(target=self._ask)
        self._asking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._asking.join()
        self._stub.kill()
        self._stub.communicate()
        self._stack.close()

    def testify(self, *, resolves: bool = True) -> None:
        """No ping was lost; with `resolves` no query, either."""
        self._ended.set()
        self._asking.join()
        for where, stop in self._pings.items():
            summary = stop()
            assert ", 0% packet loss" in summary, f"{where}: {summary[-300:]}"
        failed = [said for said, _ in self._queries if said != "rcode 0"]
        slow = max(seconds for _, seconds in self._queries)
        sys.stdout.write(
            f"{len(self._queries)} queries, {len(failed)} failed, slowest {slow:.2f} s\n"
        )
        assert self._queries
        assert not (resolves and failed), failed

    def _ask(self) -> None:
        assert self._stub.stdin is not None
        assert self._stub.stdout is not None
        while not self._ended.wait(0.1):
            self._stub.stdin.write(INSIDE + "\n")
            self._stub.stdin.flush()
            said, seconds = self._stub.stdout.readline().rsplit(" ", 1)
            self._queries.append((said, float(seconds)))


def _given(grant: Connection) -> tuple[PodRef, str, tuple[str, ...]]:
    """What may not change behind a client's back."""
    return grant.server.pod, grant.endpoint, grant.client.addresses


def _is_led(info: dict[str, Any]) -> bool:
    # A single server names no leader.
    return bool(info.get("error") or "cluster" not in info or info["cluster"].get("leader"))


def _all_current(info: dict[str, Any]) -> bool:
    others = (info.get("cluster") or {}).get("replicas") or []
    return _is_led(info) and all(r["current"] and not r.get("offline") for r in others)
