"""Follows grants and Pods' networks; one connection at a time in order, different ones in parallel.

Every hint (a grant, a result file, the sweep) means the same: look at that connection again, compare what was
granted with what the kernel has, do what is missing, say what is.
"""

import asyncio
import contextlib
import itertools
import os
from importlib import metadata
from typing import Any

import structlog

from schemas.grant import Connection
from schemas.intent import Leader
from schemas.live import Alive
from schemas.state import NodeFacts, SeenPrefixes
from schemas.subjects import ConnectionKey, LeaderKey, NodeKey, StatusKey
from services._runtime.bus import Bus
from services._runtime.errors import Unavailable
from services._runtime.mirror import Mirror
from services._runtime.run import Runtime
from services._runtime.streams import GRANT, STATE
from services.plumber import core
from services.plumber.adapters import Grants, Kernel, Refused
from services.plumber.model import Pair, Wiring
from services.plumber.service.connections import Connections
from services.plumber.service.lanes import Lanes
from services.plumber.service.past import Past, granted_as
from services.plumber.service.reporting import Reporter
from services.plumber.service.retries import Retries
from services.plumber.service.sandboxes import Sandboxes
from services.plumber.settings import Settings

log = structlog.get_logger()

_ADOPTED = "standing connections adopted"
_LANES = 8
_HEARTBEAT_SECONDS = 3
_ALIVE_SECONDS = 10
_PATIENCE_SECONDS = 2
_SWEPT_AT_ONCE = 100  # connections per sweep: a look costs some 5 ms of one core


class Plumber:
    """One node's plumber. `run` is for ever."""

    def __init__(self, bus: Bus, settings: Settings, *, sweep_seconds: float = 10) -> None:
        self.adopted = asyncio.Event()  # everything that stood at the start was looked at
        self._bus = bus
        self._node = settings.node
        self._sweep_seconds = sweep_seconds
        self._kernel = Kernel(settings.node_netns)
        self._reporter = Reporter(bus)
        self._lanes: Lanes[ConnectionKey] = Lanes(self._look_at, width=_LANES)
        self._retries = Retries(self._lanes.add)
        self._connections = Connections(
            self._node,
            self._kernel,
            Grants(settings.runtime_dir),
            self._reporter,
            on_change=self._retries.stir,
        )
        self._sandboxes = Sandboxes(
            self._kernel, settings.cni_results, on_change=self._networks_changed
        )
        self._grants = Mirror(
            bus,
            GRANT,
            [LeaderKey("ipam").subject, ConnectionKey.all(self._node)],
            on_change=self._grant_changed,
        )
        self._said = Mirror(
            bus,
            STATE,
            [NodeKey(self._node).subject, StatusKey.all(self._node)],
            on_change=lambda _key, _message: None,
        )
        self._past = Past(self._said.items, self._connections.held)

    @classmethod
    async def start(cls, runtime: Runtime, settings: Settings) -> None:
        """Run as a process's service: ready once everything that stood was looked at."""
        plumber = cls(runtime.bus, settings)
        runtime.health.expect(_ADOPTED)
        async with asyncio.TaskGroup() as group:
            group.create_task(plumber.run())
            await plumber.adopted.wait()
            runtime.health.done(_ADOPTED)

    async def run(self) -> None:
        for applied in self._connections.load():
            self._sandboxes.remember((applied.client.uid, applied.server.uid))
        looked = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sandboxes.watch(looked.set))
                await looked.wait()
                for task in (
                    self._grants.run(),
                    self._said.run(),
                    self._start(),
                    self._reporter.run(),
                    self._beat(),
                    self._sweep(),
                ):
                    group.create_task(task)
        finally:
            self._retries.close()
            self._kernel.close()

    async def _start(self) -> None:
        await self._grants.synced.wait()
        with contextlib.suppress(TimeoutError):  # it only helps to tell whose the ended grants were
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._said.synced.wait()
        await self._connections.search(list(self._sandboxes.places.values()))
        keys = self._keys()
        for key in keys:
            self._lanes.add(key)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._lanes.run())
            await self._lanes.worked(keys)
            log.info("adopted", connections=len(self._connections.held))
            self._reporter.complete()
            self.adopted.set()
            await self._grants.when_complete.wait()
            await self._said.synced.wait()
            await self._prune()
            said = {granted_as(key) for key in self._said.items if isinstance(key, StatusKey)}
            for key in (said | self._connections.held.keys()) - self._grants.items.keys():
                self._lanes.add(key)  # absent, and now that counts

    async def _beat(self) -> None:
        while True:
            try:
                await self._bus.publish(Alive(node=self._node), ttl=_ALIVE_SECONDS)
            except Unavailable as exc:
                log.debug("no heartbeat", reason=str(exc))
            await asyncio.sleep(_HEARTBEAT_SECONDS)

    async def _sweep(self) -> None:
        """The net under everything: what is ours and missing comes back, whoever took it."""
        rest: list[ConnectionKey] = []
        while True:
            await self._describe_node()
            await asyncio.sleep(self._sweep_seconds)
            await self._sandboxes.verify()
            self._sandboxes.forget({uid for key in self._keys() for uid in self._uids(key)})
            await self._connections.search(list(self._sandboxes.places.values()))
            if self._grants.when_complete.is_set():
                await self._prune()
            rest = rest or list(self._keys())
            for key in itertools.islice(rest, _SWEPT_AT_ONCE):
                self._lanes.add(key)
            rest = rest[_SWEPT_AT_ONCE:]

    async def _prune(self) -> None:
        """Nobody's links go, now that everything that is granted is known."""

        def is_known(connection: str) -> bool:
            return connection in {core.tag(key) for key in self._keys()}

        await self._connections.strays.prune(is_known)

    async def _describe_node(self) -> None:
        try:
            node = await self._kernel.read_node()
        except OSError as exc:
            log.warning("node network not readable", reason=str(exc))
            return
        facts = NodeFacts(
            node=self._node,
            underlay_address=node.address,
            mtu=node.mtu,
            mechanisms=(core.MECHANISM,),
            kernel=os.uname().release,
            version=metadata.version("nsm-on-nats"),
        )
        self._reporter.describe(facts, SeenPrefixes(node=self._node, prefixes=node.prefixes))

    def _grant_changed(self, key: Any, message: Any) -> None:
        if isinstance(message, Leader):
            self._reporter.enter(message.incarnations.get(STATE, ""))
        elif isinstance(key, ConnectionKey):
            self._past.note(key, message)
            self._retries.settled(key)  # another grant, other chances
            self._lanes.add(key)

    def _networks_changed(self, uids: set[str]) -> None:
        for key in self._keys():
            if uids & self._uids(key):
                self._lanes.add(key)

    def _keys(self) -> set[ConnectionKey]:
        granted = {key for key in self._grants.items if isinstance(key, ConnectionKey)}
        return granted | self._connections.held.keys()

    def _uids(self, key: ConnectionKey) -> set[str]:
        grants = [self._grants.items.get(key)]
        if (held := self._connections.held.get(key)) is not None:
            grants.append(held.grant)
        return {
            uid
            for grant in grants
            if isinstance(grant, Connection)
            for uid in (grant.client.pod.uid, grant.server.pod.uid)
        }

    def _desired(self, key: ConnectionKey) -> Connection | None:
        """What is granted now; what was applied, as long as nobody who may has said otherwise."""
        granted = self._grants.items.get(key)
        if isinstance(granted, Connection):
            return granted
        held = self._connections.held.get(key)
        if held is None or key in self._past.released or self._grants.complete(key):
            return None
        return held.grant

    async def _look_at(self, key: ConnectionKey) -> None:
        """Never raises: what one connection's grant, files or Pods hold costs that connection only."""
        try:
            reason = await self._reconcile(key)
        except Refused as exc:
            self._not_settled(key, str(exc))
            await self._say_failed(key, "KernelError", str(exc))
        except Exception as exc:  # noqa: BLE001  told below, once, with its traceback
            reason = f"{type(exc).__name__}: {exc}"
            self._not_settled(key, reason, mistake=exc)
            await self._say_failed(key, "InternalError", reason)
        else:
            if reason:
                self._not_settled(key, reason)
            else:
                self._retries.settled(key)

    def _not_settled(
        self, key: ConnectionKey, reason: str, *, mistake: Exception | None = None
    ) -> None:
        if self._retries.failed(key, self._uids(key), reason):
            log.warning(
                "connection not as granted",
                connection=key.subject,
                reason=reason,
                exc_info=mistake,
            )

    async def _say_failed(self, key: ConnectionKey, code: str, reason: str) -> None:
        held = self._connections.held.get(key)
        grant = self._desired(key) or (held.grant if held else None)
        if grant is None:
            return  # what was said of it stands, and is buried with it
        try:
            await self._connections.fail(grant, code, reason)
        except Exception:
            log.exception("state of a connection not said", connection=key.subject)

    async def _reconcile(self, key: ConnectionKey) -> str:
        """What is granted becomes what is. Why not, if another try may help. Raises Refused."""
        grant = self._desired(key)
        if grant is None:
            await self._end(key)
            return ""
        await self._end_of_former_pod(key, grant)
        verdict = core.judge(
            grant,
            node=self._node,
            places=self._sandboxes.places,
            ended=self._sandboxes.ended,
        )
        if isinstance(verdict, Wiring):
            return await self._connections.wire(key, grant, verdict)
        uid = grant.client.pod.uid
        self._check_readable({uid, grant.server.pod.uid})
        await self._connections.release(key)
        if grant.client.is_on(self._node) and self._has_ended(uid):
            self._connections.bury(key, uid, grant.revision)
        else:
            self._connections.say(grant, Pair(), verdict)
        return ""

    async def _end_of_former_pod(self, key: ConnectionKey, grant: Connection) -> None:
        """A Pod of the same name, but another one: what the former one had goes, and that is said.

        Also if nothing was ever made for it: ipam waits for our word all the same.
        """
        former = self._past.former(key, grant)
        if former is not None:
            await self._connections.release(key)
            self._past.bury_former(key, former)
            self._connections.bury(key, *former)

    def _has_ended(self, uid: str) -> bool:
        return uid in self._sandboxes.ended and uid not in self._sandboxes.places

    def _check_readable(self, uids: set[str]) -> None:
        """Raises Refused while nobody could look into one of these networks: it may hold what is ours."""
        for uid in uids & (self._sandboxes.unreadable | self._connections.strays.blind):
            raise Refused(f"the network of Pod {uid} cannot be looked at now")

    async def _end(self, key: ConnectionKey) -> None:
        """Released: remove what stands, and confirm it, whether or not anything stood."""
        newest = self._past.newest(key)
        if newest is None:
            return  # confirmed before
        if key not in self._connections.held:
            self._check_readable({newest[0]})
        await self._connections.release(key)
        self._connections.bury(key, *newest, again=key in self._past.released)
        if key not in self._grants.items:  # not granted anew meanwhile
            self._past.forget(key)
