"""Follows grants and Pods' networks; one connection at a time in order, different ones in parallel.

Every hint (a grant, a result file, the sweep) means the same: look at that connection again, compare what was
granted with what the kernel has, do what is missing, say what is.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import structlog

from schemas.grant import Connection
from schemas.intent import Leader
from schemas.subjects import ConnectionKey, LeaderKey, NodeKey, StatusKey
from services._node.processes import Roots
from services._node.sandboxes import Sandboxes
from services._runtime.bus import Bus
from services._runtime.mirror import Mirror
from services._runtime.run import Runtime
from services._runtime.streams import GRANT, STATE
from services.plumber import core
from services.plumber.adapters import Grants, Kernel, Refused
from services.plumber.model import Pair, Waiting, Wiring
from services.plumber.service.cluster import Cluster
from services.plumber.service.connections import Connections
from services.plumber.service.explaining import Explainer
from services.plumber.service.granted import Granted
from services.plumber.service.lanes import Lanes
from services.plumber.service.node import Node
from services.plumber.service.past import Past, granted_as
from services.plumber.service.reporting import Reporter
from services.plumber.service.retries import Retries
from services.plumber.service.sweeping import Sweep
from services.plumber.service.watching import Watching
from services.plumber.settings import Settings

log = structlog.get_logger()

_ADOPTED = "standing connections adopted"
# Few work at a time, most wait for a round of removals or another end's answer. Measured, 300 connections made, adopted
# and removed, median of six: 10 s, with eight lanes 16 s.
_LANES = 64
_PATIENCE_SECONDS = 2


class Plumber:
    """One node's plumber. `run` is for ever."""

    def __init__(self, bus: Bus, settings: Settings, *, sweep_seconds: float = 10) -> None:
        self.adopted = asyncio.Event()  # everything that stood at the start was looked at
        self._node = settings.node
        self._kernel = Kernel(settings.node_netns, sysctls=settings.sysctls)
        self._reporter = Reporter(bus)
        self._lanes: Lanes[ConnectionKey] = Lanes(self._look_at, width=_LANES)
        self._retries = Retries(self._lanes.add)
        self._connections = Connections(
            self._node,
            self._kernel,
            Grants(settings.runtime_dir),
            self._reporter,
            registry=bus.metrics.registry,
            on_change=self._retries.stir,
            look_at=self._lanes.add,
        )
        self._told = Node(self._node, bus=bus, kernel=self._kernel, reporter=self._reporter)
        self._cluster = Cluster(bus, on_change=self._look_again)
        self._follow(bus)
        self._sandboxes = Sandboxes(
            self._kernel,
            settings.cni_results,
            roots=Roots(processes=settings.processes, cgroups=settings.cgroups),
            wanted=self._granted.pods,
            on_change=self._networks_changed,
        )
        self._sweep = Sweep(
            sweep_seconds, keys=self._granted.connections, before=self._tidy, look=self._lanes.add
        )
        self._watching = Watching(
            self._connections.standing,
            self._sandboxes,
            on_contradiction=self._lanes.add,
            on_loss=self._sweep.hurry,
        )
        self.explain = Explainer(
            self._node,
            kernel=self._kernel,
            connections=self._connections,
            sandboxes=self._sandboxes,
            retries=self._retries,
            granted=self._granted,
            judge=self._judge,
        )
        self._connections.figures.watched.set_function(lambda: self._watching.watched)

    def _follow(self, bus: Bus) -> None:
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
        held = self._connections.held
        self._past = Past(self._said.items, held)
        self._granted = Granted(self._node, grants=self._grants, held=held, past=self._past)

    @classmethod
    async def start(cls, runtime: Runtime, settings: Settings) -> None:
        """Run as a process's service: ready once everything that stood was looked at."""
        plumber = cls(runtime.bus, settings)
        runtime.health.expect(_ADOPTED)
        runtime.health.answer("/explain", plumber.explain)
        _write_address(settings, runtime.health.port)
        async with asyncio.TaskGroup() as group:
            group.create_task(plumber.run())
            await plumber.adopted.wait()
            runtime.health.done(_ADOPTED)

    async def run(self) -> None:
        for applied in self._connections.load():
            self._sandboxes.remember(place.uid for place in applied.places)
            self._cluster.note(applied.grant.key, applied.grant)
        looked = asyncio.Event()
        self._watching.open()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sandboxes.watch(looked.set))
                await looked.wait()
                for task in (
                    self._grants.run(),
                    self._said.run(),
                    self._start(),
                    self._reporter.run(),
                    self._told.run(),
                    self._cluster.run(),
                    self._watching.run(),
                    self._sandboxes.search(),
                    self._sweep.run(),
                ):
                    group.create_task(task)
        finally:
            self._watching.close()
            self._retries.close()
            self._connections.tunnels.close()
            self._kernel.close()

    async def _start(self) -> None:
        await self._grants.synced.wait()
        with contextlib.suppress(TimeoutError):  # it only helps to tell whose the ended grants were
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._said.synced.wait()
        await self._connections.search(list(self._sandboxes.places.values()))
        keys = self._granted.connections()
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

    async def _tidy(self) -> None:
        """What no connection's own look does."""
        await self._told.describe()
        await self._sandboxes.verify()
        granted = self._granted
        self._sandboxes.forget({uid for key in granted.connections() for uid in granted.uids(key)})
        await self._connections.search(list(self._sandboxes.places.values()))
        if self._grants.when_complete.is_set():
            await self._prune()

    async def _prune(self) -> None:
        """Nobody's links go, now that everything that is granted is known."""

        def is_known(connection: str) -> bool:
            return connection in {core.tag(key) for key in self._granted.connections()}

        await self._connections.strays.prune(is_known)

    def _grant_changed(self, key: Any, message: Any) -> None:
        if isinstance(message, Leader):
            self._reporter.enter(message.incarnations.get(STATE, ""), asked=message.asked_again)
        elif isinstance(key, ConnectionKey):
            self._past.note(key, message)
            self._cluster.note(key, message if isinstance(message, Connection) else None)
            self._retries.settled(key)  # another grant, other chances
            self._lanes.add(key)

    def _look_again(self, keys: set[ConnectionKey]) -> None:
        for key in keys:
            self._lanes.add(key)

    def _networks_changed(self, uids: set[str]) -> None:
        self._look_again(self._granted.of_pods(uids))

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
        if self._retries.failed(key, self._granted.uids(key), reason):
            log.warning(
                "connection not as granted",
                connection=key.subject,
                reason=reason,
                exc_info=mistake,
            )

    async def _say_failed(self, key: ConnectionKey, code: str, reason: str) -> None:
        held = self._connections.held.get(key)
        grant = self._granted.desired(key) or (held.grant if held else None)
        if grant is None:
            return  # what was said of it stands, and is buried with it
        try:
            await self._connections.fail(grant, code, reason)
        except Exception:
            log.exception("state of a connection not said", connection=key.subject)

    async def _reconcile(self, key: ConnectionKey) -> str:
        """What is granted becomes what is. Why not, if another try may help. Raises Refused."""
        grant = self._granted.desired(key)
        if grant is None:
            await self._end(key)
            return ""
        await self._end_of_former_pod(key, grant)
        verdict = self._judge(grant)
        if isinstance(verdict, Wiring):
            for end in verdict.ends:
                self._watching.attend(end.place)
            cluster = self._prefixes(grant) or ()
            return await self._connections.wire(key, grant, verdict, cluster=cluster)
        if self._waits_for_prefixes(grant):
            await self._connections.keep(grant, verdict)
            return ""  # looked at again when they come
        uid = grant.client.pod.uid
        self._check_readable({uid, grant.server.pod.uid})
        await self._connections.release(key)
        if grant.client.is_on(self._node) and self._has_ended(uid):
            self._connections.bury(key, uid, grant.revision)
        else:
            self._connections.say(grant, Pair(), verdict)
        return ""

    def _judge(self, grant: Connection) -> Wiring | Waiting:
        return core.judge(
            grant,
            node=self._node,
            places=self._sandboxes.places,
            ended=self._sandboxes.ended,
            cluster=self._prefixes(grant),
        )

    def _prefixes(self, grant: Connection) -> tuple[str, ...] | None:
        """What stays on the CNI: as it is known, else as it was applied; None: nobody knows."""
        if not self._cluster.matters_to(grant):
            return ()
        if self._cluster.prefixes is not None:
            return self._cluster.prefixes
        held = self._connections.held.get(grant.key)
        return held.cluster if held is not None and self._cluster.matters_to(held.grant) else None

    def _waits_for_prefixes(self, grant: Connection) -> bool:
        """What stands need not go because a default route cannot be added yet."""
        uids = {end.pod.uid for end in (grant.client, grant.server) if end.is_on(self._node)}
        return self._prefixes(grant) is None and uids <= self._sandboxes.places.keys()

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
            why = self._sandboxes.told(uid)
            raise Refused(f"the network of Pod {uid} cannot be looked at now: {why}")

    async def _end(self, key: ConnectionKey) -> None:
        """Released: remove what stands, and confirm it, whether or not anything stood."""
        newest = self._past.newest(key)
        if newest is None:
            return  # confirmed before
        if key not in self._connections.held:
            self._check_readable({newest[0]})
        await self._connections.release(key)
        is_over = key not in self._grants.items  # else it was granted anew meanwhile
        if is_over:  # what came and went meanwhile is told along: nobody will remember it
            newest = max(newest, self._past.newest(key) or newest, key=lambda each: each[1])
        self._connections.bury(key, *newest, again=key in self._past.released)
        if is_over:
            self._past.forget(key)


def _write_address(settings: Settings, port: int) -> None:
    """Where this process answers questions, for people on the node."""
    directory = Path(settings.runtime_dir)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "health").write_text(str(port))
