"""Follows grants and Pods' networks; one Pod at a time: who shall be captured is, who shall not be is not.

Every hint (a grant, a result file, the sweep, a loop) means the same: look at that Pod again. A look takes
milliseconds, so one worker does; what it finds is said on the bus.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from schemas.intent import Leader
from schemas.state import Resolver, ResolverState
from schemas.subjects import ConnectionKey, LeaderKey, ResolverKey
from services._node.processes import Roots
from services._node.sandboxes import Sandboxes
from services._runtime.bus import Bus
from services._runtime.mirror import Mirror
from services._runtime.run import Runtime
from services._runtime.streams import GRANT, STATE
from services.dns.adapters import (
    Conflict,
    Gone,
    Kernel,
    Place,
    Refused,
    captured_ports,
    cluster_servers,
    node_searches,
    node_servers,
)
from services.dns.model import Limits, Profile
from services.dns.service.captures import Captures
from services.dns.service.explaining import Explanation, explanation, pod_of
from services.dns.service.process import freeze_garbage, raise_file_limit
from services.dns.service.reporting import Reporter
from services.dns.service.wanted import Granted, Wanted
from services.dns.settings import Settings

log = structlog.get_logger()

_CAPTURED = "pods captured"
_DRAIN_SECONDS = 2.9  # a query takes no longer
_HUNG_SECONDS = 4.5  # what waits since then is of clients who wait no more, or hardly
_REFRESH_SECONDS = 1.0  # a third of what a capture lives without it
_LOOPS = (
    "our own queries came back to us: something else redirects port 53 of this Pod; "
    "remove it, or opt the Pod out of DNS capture"
)


class Dns:
    """One node's DNS. `run` is for ever."""

    def __init__(
        self,
        bus: Bus,
        settings: Settings,
        *,
        registry: CollectorRegistry,
        sweep_seconds: float = 10,
    ) -> None:
        self.captured = asyncio.Event()  # every Pod that was granted at the start was looked at
        self._node = settings.node
        self._cluster_domain = settings.cluster_domain
        self._sweep_seconds = sweep_seconds
        self._kernel = Kernel(settings.node_netns, captured=captured_ports(settings.target_ports))
        self._reporter = Reporter(bus)
        self._captures = Captures(
            self._kernel,
            registry,
            on_trouble=self._look_again,
            limits=Limits(cached=settings.cache_entries),
        )
        self._grants = Mirror(
            bus,
            GRANT,
            [LeaderKey("ipam").subject, ConnectionKey.all(self._node)],
            on_change=self._grant_changed,
        )
        self._said = Mirror(
            bus, STATE, [ResolverKey.all(self._node)], on_change=lambda _key, _message: None
        )
        self._granted = Granted(
            self._grants.items,
            cluster_servers(settings.cluster_servers),
            node_servers=node_servers(settings.node_servers),
            node_searches=node_searches(settings.cluster_domain),
            cluster_domain=settings.cluster_domain,
        )
        self._sandboxes = Sandboxes(
            self._kernel,
            settings.cni_results,
            roots=Roots(processes=settings.processes, cgroups=settings.cgroups),
            wanted=self._granted.clients,
            on_change=self._networks_changed,
        )
        self._reasons: dict[ResolverKey, str] = {}  # of failures, told once each
        self._waiting: dict[ResolverKey, None] = {}
        self._work = asyncio.Event()
        self._idle = asyncio.Event()

    @classmethod
    async def start(cls, runtime: Runtime, settings: Settings) -> None:
        """Run as a process's service: ready once every Pod that was granted was looked at."""
        raise_file_limit()
        dns = cls(runtime.bus, settings, registry=runtime.metrics.registry)
        runtime.health.expect(_CAPTURED)
        runtime.health.answer("/explain", dns.explain)
        async with asyncio.TaskGroup() as group:
            group.create_task(dns.run())
            await dns.captured.wait()
            freeze_garbage()
            runtime.health.done(_CAPTURED)

    async def run(self) -> None:
        looked = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._sandboxes.watch(looked.set))
                await looked.wait()
                for task in (
                    self._grants.run(),
                    self._said.run(),
                    self._look(),
                    self._start(),
                    self._refresh(),
                    self._sandboxes.search(),
                    self._sweep(),
                ):
                    group.create_task(task)
        finally:
            try:
                await self._captures.drain(_DRAIN_SECONDS)
            finally:
                self._kernel.close()
                self._captures.close()

    async def explain(self, question: Mapping[str, str]) -> Explanation:
        """The answer to `/explain?pod=NAMESPACE/NAME&name=…`. Raises LookupError."""
        key = pod_of(question, self._node)
        return explanation(
            question,
            self._reporter.newest(key),
            self._captures.held.get(key),
            pod=f"{key.namespace}/{key.pod}",
            is_granted=bool(self._granted.uids(key)),
        )

    async def _start(self) -> None:
        await self._grants.synced.wait()
        for key in self._granted.pods():
            self._look_again(key)
        await self._idle.wait()
        log.info("captured", pods=len(self._captures.held))
        self.captured.set()
        await self._said.synced.wait()
        self._reporter.found(self._said.items)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reporter.run())
            await self._grants.when_complete.wait()
            for key in [k for k in self._said.items if isinstance(k, ResolverKey)]:
                self._look_again(key)  # absent, and now that counts

    async def _refresh(self) -> None:
        """From this loop, on purpose: while it hangs, nothing is answered, and nothing may be captured."""
        loop = asyncio.get_running_loop()
        refreshed = loop.time()
        while True:
            if loop.time() - refreshed > _HUNG_SECONDS:
                self._captures.discard()
            refreshed = loop.time()
            await self._captures.refresh()
            await asyncio.sleep(_REFRESH_SECONDS)

    async def _sweep(self) -> None:
        """The net under everything, and the look for redirects that came after ours."""
        while True:
            await asyncio.sleep(self._sweep_seconds)
            await self._sandboxes.verify()
            pods = self._granted.pods() | self._captures.held.keys()
            self._sandboxes.forget({uid for pod in pods for uid in self._granted.uids(pod)})
            for key in pods:
                self._look_again(key)

    def _grant_changed(self, key: Any, message: Any) -> None:
        if isinstance(message, Leader):
            self._reporter.enter(message.incarnations.get(STATE, ""), asked=message.asked_again)
        elif isinstance(key, ConnectionKey):
            self._look_again(self._granted.note(key))

    def _networks_changed(self, uids: set[str]) -> None:
        for key in self._granted.pods() | self._captures.held.keys():
            held = self._captures.held.get(key)
            if uids & self._granted.uids(key) or (held is not None and held.place.uid in uids):
                self._look_again(key)

    def _look_again(self, key: ResolverKey) -> None:
        self._waiting[key] = None
        self._idle.clear()
        self._work.set()

    async def _look(self) -> None:
        while True:
            while self._waiting:
                key = next(iter(self._waiting))
                del self._waiting[key]
                await self._look_at(key)
            self._idle.set()
            self._work.clear()
            await self._work.wait()

    async def _look_at(self, key: ResolverKey) -> None:
        """Never raises: what one Pod's grants or network hold costs that Pod only."""
        wanted = self._granted.wanted(key, living=self._sandboxes.places)
        try:
            await self._settle(key, wanted)
        except Conflict as exc:
            await self._fail(key, wanted, "DNSCaptureConflict", str(exc))
        except Gone as exc:
            await self._fail(key, wanted, "ResolverPending", str(exc))
        except Refused as exc:
            await self._fail(key, wanted, "DNSCaptureFailed", str(exc))
        except Exception as exc:
            log.exception("pod not looked at", subject=key.subject)
            await self._fail(key, wanted, "DNSCaptureFailed", f"{type(exc).__name__}: {exc}")
        else:
            self._reasons.pop(key, None)

    async def _settle(self, key: ResolverKey, wanted: Wanted | None) -> None:
        place = self._sandboxes.places.get(wanted.uid) if wanted else None
        held = self._captures.held.get(key)
        if held is not None and held.place != place:
            why = "its network ended" if wanted else "no connection of it provides DNS"
            await self._captures.release(key, why)
        if wanted is None:
            self._captures.forget(key)
            self._reporter.bury(key, held.place.uid if held else "")
        elif place is None:
            self._say_without_network(key, wanted)
        else:
            await self._serve(key, wanted, place)

    def _say_without_network(self, key: ResolverKey, wanted: Wanted) -> None:
        if wanted.uid in self._sandboxes.ended:
            self._reporter.bury(key, wanted.uid)
        else:
            self._say(key, wanted, "pending", "ResolverPending", "waits for the Pod's network")

    async def _serve(self, key: ResolverKey, wanted: Wanted, place: Place) -> None:
        if self._captures.loops(key):
            raise Conflict(_LOOPS)
        profile = Profile(upstreams=wanted.upstreams, cluster_domain=self._cluster_domain)
        held = self._captures.held.get(key)
        if held is None:
            held = await self._captures.make(key, place, profile)
        else:
            held.replace(profile)
            await self._captures.check(key)
        self._say(key, wanted, "serving", mode=held.mode)

    async def _fail(
        self, key: ResolverKey, wanted: Wanted | None, reason: str, message: str
    ) -> None:
        """Nothing half-made stays; the sweep tries again."""
        if self._reasons.get(key) != message:
            self._reasons[key] = message
            log.warning("pod not captured", subject=key.subject, reason=reason, why=message)
        self._captures.fell_open(key, reason)
        try:
            await self._captures.release(key, message)
        except Exception:
            log.exception("pod not released", subject=key.subject)
        if wanted is not None:
            state: ResolverState = "pending" if reason == "ResolverPending" else "failed"
            self._say(key, wanted, state, reason, message)

    def _say(
        self,
        key: ResolverKey,
        wanted: Wanted,
        state: ResolverState,
        reason: str = "",
        message: str = "",
        *,
        mode: str = "",
    ) -> None:
        self._reporter.say(
            Resolver(
                node=key.node,
                namespace=key.namespace,
                pod=key.pod,
                uid=wanted.uid,
                state=state,
                reason=reason,
                message=message,
                mode=mode,
                upstreams=wanted.upstreams,
            )
        )
