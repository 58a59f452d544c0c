"""The world around ipam: a watcher that writes intent, plumbers that confirm, and eyes on what ipam writes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from schemas import grant, intent, state
from schemas.codec import Tombstone
from schemas.subjects import ConnectionKey, LeaderKey, PoolKey, RefusalKey, StatusKey
from services._runtime.bus import Bus
from services._runtime.leading import Term, lead
from services._runtime.mirror import Mirror
from services._runtime.streams import GRANT, INTENT, STATE
from services.ipam.service import Ipam
from services.ipam.settings import Settings

SECONDS = 30.0
SECONDS_OF_TEST = 600


def a_pod(name: str, node: str = "node1", uid: str = "") -> intent.PodRef:
    return intent.PodRef(namespace="default", name=name, uid=uid or f"uid-{name}", node=node)


def a_request(
    pod: str, interface: str = "nsm-1", *, uid: str = "", node: str = "node1", service: str = "vpn"
) -> intent.Request:
    return intent.Request(
        pod=a_pod(pod, node, uid=uid), interface=interface, network_service=service
    )


def an_endpoint(
    pod: str = "vpn-1",
    prefix: str = "172.16.1.0/24",
    *,
    exclude: tuple[str, ...] = (),
    node: str = "node1",
    name: str = "vpn",
) -> intent.Endpoint:
    prefixes = tuple(prefix.split(",")) if prefix else ()
    return intent.Endpoint(
        endpoint=name,
        pod=a_pod(pod, node),
        ready=True,
        network_services=(name,),
        ipam=intent.IpamSpec(prefixes=prefixes, exclude_prefixes=exclude),
    )


def a_user_exclusion(*prefixes: str) -> intent.PrefixesInUse:
    used = tuple(intent.UsedPrefix(prefix=prefix, used_by="the user's list") for prefix in prefixes)
    return intent.PrefixesInUse(source="user", prefixes=used)


class World:
    """What a test sees of the bus, and says on it."""

    def __init__(self, bus: Bus, *, nodes: tuple[str, ...]) -> None:
        self.bus = bus
        self.nodes = nodes
        self.changed = asyncio.Event()
        self.said: list[tuple[Any, Any]] = []
        self.on_grant: Callable[[Any, Any], None] = lambda *_: None
        self.intent = Mirror(bus, INTENT, ["nsm.>"], on_change=lambda *_: None)
        self.grants = Mirror(bus, GRANT, ["nsm.>"], on_change=self._on_change)
        self.states = Mirror(bus, STATE, ["nsm.>"], on_change=lambda *_: None)
        self.term: Term
        self.leading = asyncio.Event()
        self.is_complete_at_once = True

    def _on_change(self, key: Any, message: Any) -> None:
        self.said.append((key, message))
        self.on_grant(key, message)
        self.changed.set()

    async def watcher(self, term: Term) -> None:
        self.term = term
        for node in self.nodes:
            await term.publish(intent.PrefixesInUse(source="node", name=node))
        if self.is_complete_at_once:
            await term.declare_complete()
        self.leading.set()
        await asyncio.Event().wait()

    async def report(self, *nodes: str, **facts: Any) -> None:
        """Nodes say that all their statuses are on this bus."""
        incarnation = (await self.bus.ensure_streams())[STATE]
        for node in nodes or self.nodes:
            await self.bus.publish(
                state.NodeFacts(node=node, complete=True, incarnation=incarnation, **facts)
            )

    async def want(self, *messages: Any) -> None:
        """The watcher says so; what nobody else says in the same moment in parallel."""
        async with asyncio.TaskGroup() as tasks:
            for message in messages:
                tasks.create_task(self.term.publish(message))

    async def drop(self, *messages: Any) -> None:
        """The watcher says that these are gone."""
        async with asyncio.TaskGroup() as tasks:
            for message in messages:
                tasks.create_task(self.term.bury(message.key))

    async def until(self, holds: Callable[[], Any], seconds: float = SECONDS) -> Any:
        async with asyncio.timeout(seconds):
            while not (found := holds()):
                self.changed.clear()
                await self.changed.wait()
            return found

    async def granted(self, pod: str, interface: str = "nsm-1", node: str = "node1") -> Any:
        key = ConnectionKey(node, "default", pod, interface)
        return await self.until(lambda: self.grants.items.get(key))

    async def refused(self, pod: str, interface: str = "nsm-1") -> Any:
        key = RefusalKey("default", pod, interface)
        return await self.until(lambda: self.grants.items.get(key))

    async def pool(self, holds: Callable[[grant.Pool], bool], name: str = "vpn") -> Any:
        """The pool's figures, as soon as they are so."""
        key = PoolKey("default", name)

        def so() -> Any:
            pool = self.grants.items.get(key)
            return pool if pool is not None and holds(pool) else None

        return await self.until(so)

    async def released(self, connection: grant.Connection) -> Tombstone:
        """The notice that a connection was taken back."""
        await self.until(lambda: connection.key not in self.grants.items)
        tombstone = next(m for k, m in reversed(self.said) if k == connection.key)
        assert isinstance(tombstone, Tombstone)
        return tombstone

    async def plumb(self, connection: grant.Connection) -> None:
        """The node of this copy says that it stands."""
        await self.bus.publish(status_of(connection))

    async def unplumb(self, connection: grant.Connection, at: str = "") -> None:
        """The node of this copy says that it is gone."""
        tombstone = Tombstone(
            released=connection.client.pod.uid, revision=connection.revision, at=at
        )
        await self.bus.bury(status_key(connection.key), tombstone)

    def leader(self) -> Any:
        """Who leads, as the guard says."""
        return self.grants.items.get(LeaderKey("ipam"))


def status_key(key: ConnectionKey) -> StatusKey:
    return StatusKey(key.node, key.namespace, key.pod, key.interface)


def status_of(connection: grant.Connection) -> state.Status:
    """What the node of this copy says: a section per end that lives there."""

    def section(end: grant.End) -> state.EndStatus | None:
        if not end.is_on(connection.node):
            return None
        return state.EndStatus(uid=end.pod.uid, state="ready", applied=connection)

    return state.Status(
        node=connection.node,
        namespace=connection.client.pod.namespace,
        pod=connection.client.pod.name,
        interface=connection.client.interface,
        revision=connection.revision,
        client=section(connection.client),
        server=section(connection.server),
    )


@asynccontextmanager
async def a_world(
    url: str,
    *,
    complete: bool = True,
    reports: bool = True,
    nodes: tuple[str, ...] = ("node1",),
    replicas: int = 1,
) -> AsyncIterator[World]:
    bus = await Bus.connect(url, name="test", replicas=replicas)
    try:
        await bus.ensure_streams()
        world = World(bus, nodes=nodes)
        world.is_complete_at_once = complete
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(world.intent.run()),
                tasks.create_task(world.grants.run()),
                tasks.create_task(world.states.run()),
                tasks.create_task(_lead(bus, world)),
            ]
            async with asyncio.timeout(SECONDS):
                await world.leading.wait()
                await world.grants.synced.wait()
            if reports:
                await world.report()
            yield world
            for task in running:
                task.cancel()
    finally:
        await bus.close()


async def _lead(bus: Bus, world: World) -> None:
    # A long lease: the test is the only watcher there is, also while it starves.
    await lead(
        bus,
        "watcher",
        world.intent,
        world.watcher,
        holder="watcher-0",
        lease_seconds=SECONDS_OF_TEST,
    )


@asynccontextmanager
async def an_ipam(url: str, holder: str = "ipam-0", **settings: Any) -> AsyncIterator[Ipam]:
    bus = await Bus.connect(url, name="ipam")
    try:
        async with asyncio.TaskGroup() as tasks:
            ipam = Ipam(bus, Settings(**{"pool_interval": 0.05, **settings}), holder=holder)
            task = tasks.create_task(ipam.run())
            yield ipam
            task.cancel()
    finally:
        await bus.close()


async def knows(ipam: Ipam, message: Any) -> None:
    """ipam's own mirror has it: from here on it could act on it."""
    async with asyncio.timeout(SECONDS):
        while message.key not in ipam._mirrors.intent.items:
            await asyncio.sleep(0.01)
