"""The captured Pods: each with its answerer, its table, and what was told of it.

A capture is made in the order listen, then redirect, and ended in the other: no query is sent to where nobody
listens. `hold` remembers Pods whose queries came back to us: they are left alone for a while.
"""

import asyncio
import socket
from collections.abc import Callable
from functools import partial

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from schemas.subjects import ResolverKey
from services.dns.adapters import Capture, Gone, Kernel, Place, Refused
from services.dns.core.explaining import Explained
from services.dns.model import Limits, Profile
from services.dns.service.answering import Answerer, Engine

log = structlog.get_logger()

_HOLD_SECONDS = 60.0
_HOLD_MOST_SECONDS = 600.0
_DRAIN_LOOK_SECONDS = 0.02


class Captured:
    """One captured Pod."""

    def __init__(
        self, place: Place, capture: Capture, answerer: Answerer, profile: Profile
    ) -> None:
        self.place = place
        self.capture = capture
        self._answerer = answerer
        self._profile = profile

    @property
    def mode(self) -> str:
        return self.capture.mode

    def replace(self, profile: Profile) -> None:
        if profile != self._profile:
            self._profile = profile
            self._answerer.replace(profile)

    def explain(self, name: str) -> Explained:
        """Who would be asked for a name. Raises ValueError for what is none."""
        return self._answerer.explain(name)

    def discard(self) -> None:
        """Throw away what waits to be read."""
        self._answerer.discard()

    @property
    def in_flight(self) -> int:
        """Queries that are not answered yet."""
        return self._answerer.resolver.in_flight

    async def end(self, kernel: Kernel) -> None:
        """Everything in the Pod's network is closed."""
        try:
            await kernel.release(self.capture)
        finally:
            self._answerer.close()

    def end_at_once(self) -> None:
        """The same, when nothing else works on it any more."""
        self.capture.close()
        self._answerer.close()


class Captures:
    """`held` by Pod. `on_trouble` is told of Pods to look at again."""

    def __init__(
        self,
        kernel: Kernel,
        registry: CollectorRegistry,
        *,
        on_trouble: Callable[[ResolverKey], None],
        limits: Limits | None = None,
    ) -> None:
        self.held: dict[ResolverKey, Captured] = {}
        self._kernel = kernel
        self._on_trouble = on_trouble
        self._engine = Engine(registry, limits=limits)
        self._holds: dict[ResolverKey, tuple[float, float]] = {}  # until; how long
        self._looping: set[ResolverKey] = set()
        self._captured = Gauge(
            "nsm_dns_captured_pods", "Pods whose port 53 is captured", ["mode"], registry=registry
        )
        self._pinned = Gauge(
            "nsm_dns_held_netns", "Network namespaces that we keep alive", registry=registry
        )
        self._fell_open = Counter(
            "nsm_dns_fell_open",
            "Captures that ended although their Pods should be captured",
            ["reason"],
            registry=registry,
        )

    async def make(self, key: ResolverKey, place: Place, profile: Profile) -> Captured:
        """Capture a Pod. Raises Conflict, Refused or Gone; then nothing of ours stands there."""
        listeners: list[socket.socket] = []
        answerer = Answerer(
            partial(self._open, place, listeners),
            engine=self._engine,
            profile=profile,
            on_loop=partial(self._looped, key),
        )
        try:
            try:
                port = answerer.open()
            except OSError as exc:
                raise Refused(f"listeners: {exc.strerror or exc}") from exc
            families = _families(listeners, port)
            listeners.clear()  # the answerer's, who may close them
            capture = await self._kernel.capture(place, port, families=families)
        except BaseException:
            answerer.close()
            raise
        captured = self.held[key] = Captured(place, capture, answerer, profile)
        self._show()
        log.info("pod captured", subject=key.subject, uid=place.uid, mode=captured.mode)
        return captured

    async def release(self, key: ResolverKey, why: str) -> None:
        """Let go of a Pod; one that is not captured is no error."""
        captured = self.held.pop(key, None)
        self._looping.discard(key)
        if captured is None:
            return
        await captured.end(self._kernel)
        self._show()
        log.info("pod released", subject=key.subject, uid=captured.place.uid, reason=why)

    def fell_open(self, key: ResolverKey, reason: str) -> None:
        """A Pod, if captured, is about to be released although it should not be."""
        if key in self.held:
            self._fell_open.labels(reason).inc()

    async def check(self, key: ResolverKey) -> None:
        """Raises Conflict if somebody else redirects the port of a captured Pod by now."""
        captured = self.held[key]
        try:
            await self._kernel.check(captured.place, captured.capture)
        except (Gone, Refused) as exc:
            log.debug("pod not checked", subject=key.subject, reason=str(exc))

    async def refresh(self) -> None:
        """Keep what is held alive for the next seconds; call it every second."""
        by_capture = {captured.capture: key for key, captured in self.held.items()}
        for lost in await self._kernel.refresh(list(by_capture)):
            key = by_capture[lost]
            if key in self.held and self.held[key].capture is lost:
                self.fell_open(key, "table lost")
                await self.release(key, "its table is not there any more")
                self._on_trouble(key)

    def discard(self) -> None:
        """Throw away what came before we hung: to ask it all at once would only drown what comes now."""
        for captured in self.held.values():
            captured.discard()

    async def drain(self, seconds: float) -> None:
        """Before the end: nothing new comes to us, and who asked gets an answer. Takes that long at most."""
        await self._kernel.stop([captured.capture for captured in self.held.values()])
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        # Looked at, not told: a count for this would cost every query of all the other time.
        while loop.time() < until and any(  # noqa: ASYNC110
            captured.in_flight for captured in self.held.values()
        ):
            await asyncio.sleep(_DRAIN_LOOK_SECONDS)

    def close(self) -> None:
        """After the kernel's worker has ended."""
        for captured in self.held.values():
            captured.end_at_once()
        self.held.clear()
        self._engine.close()

    def loops(self, key: ResolverKey) -> bool:
        """Whether a Pod's queries came back to us, now or lately."""
        until, _ = self._holds.get(key, (0.0, 0.0))
        return key in self._looping or asyncio.get_running_loop().time() < until

    def forget(self, key: ResolverKey) -> None:
        """The Pod is none of ours any more."""
        self._holds.pop(key, None)

    def _open(
        self,
        place: Place,
        listeners: list[socket.socket],
        family: int,
        kind: int,
        *,
        upstream: str,
    ) -> socket.socket:
        made = self._kernel.open_socket(place, family, kind, upstream=upstream)
        if not upstream:
            listeners.append(made)
        return made

    def _looped(self, key: ResolverKey) -> None:
        if key in self._looping or key not in self.held:
            return
        self._looping.add(key)
        _, seconds = self._holds.get(key, (0.0, _HOLD_SECONDS / 2))
        seconds = min(seconds * 2, _HOLD_MOST_SECONDS)
        self._holds[key] = asyncio.get_running_loop().time() + seconds, seconds
        log.warning("our own queries come back", subject=key.subject, paused_seconds=seconds)
        self._on_trouble(key)

    def _show(self) -> None:
        for mode in ("owned", "timed"):
            held = sum(captured.mode == mode for captured in self.held.values())
            self._captured.labels(mode).set(held)
        self._pinned.set(len({captured.place.cookie for captured in self.held.values()}))


def _families(listeners: list[socket.socket], port: int) -> list[int]:
    """Those that are listened on for UDP and TCP; a Pod may have no IPv6, and what could not be bound is closed."""
    kinds: set[tuple[int, int]] = set()
    for each in listeners:
        if each.fileno() < 0:
            continue
        if each.getsockname()[1] == port:
            kinds.add((each.family, each.type))
        else:
            each.close()
    return [
        family
        for family in (socket.AF_INET, socket.AF_INET6)
        if {(family, socket.SOCK_DGRAM), (family, socket.SOCK_STREAM)} <= kinds
    ]
