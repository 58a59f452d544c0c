"""What became of a Pod's wishes, written back onto it: annotation, condition, Events.

Runs only while we lead, beside the publishing of intent and never in its way. A Pod is judged anew when
it, its grants or its statuses change, and written only where it shows something else.
"""

import asyncio
from collections.abc import Callable, Iterable

import msgspec
import structlog

from schemas.grant import Connection, Refusal
from schemas.intent import Request
from schemas.state import Resolver, Status
from schemas.subjects import (
    ConnectionKey,
    Key,
    LeaderKey,
    NodeKey,
    RefusalKey,
    ResolverKey,
    StatusKey,
)
from services._runtime.mirror import Mirror
from services.watcher.adapters import Denied, Kube, Missing, pods
from services.watcher.core import patience, spoiled
from services.watcher.core import report as reports
from services.watcher.core.intent import Intent
from services.watcher.core.news import announcements
from services.watcher.core.requests import Wanted
from services.watcher.model import CONDITION, STATUS_ANNOTATION, Condition, ObjectRef, Pod, Ref
from services.watcher.service.announcing import Announcer
from services.watcher.service.completing import at_every_completion
from services.watcher.service.queueing import Workqueue

log = structlog.get_logger()

# A connection, or a newer revision of one that works, is made within milliseconds: saying False meanwhile
# would be a flap, or twice the writing.
_GRACE_SECONDS = 0.3
# Endpoint Pods that are made together with their clients are Ready by then, or it is worth a warning.
_COMING_SECONDS = 10.0
_DENIED_SECONDS = 60.0
_LAG_SECONDS = 30.0  # versions of a server whose past is another one never catch up
# That a node's silence has become its word is not told by any message: look again, ever more rarely.
_RECHECK_SECONDS = (0.5, 30.0)
_NOBODY = Wanted()


class _Memory(msgspec.Struct):
    """What we know of a Pod beyond its object: the watch may lag behind what we wrote."""

    uid: str
    announced: reports.Showing
    written: reports.Showing | None = None
    version: int = 0
    written_at: float = 0.0
    passing_since: float | None = None
    unexplained_since: float | None = None
    coming_since: float | None = None
    recheck_seconds: float = _RECHECK_SECONDS[0]


class Reporter:
    """`note_*` what changed, at any time; `run` writes while we lead."""

    def __init__(
        self,
        *,
        kube: Kube,
        announcer: Announcer,
        intent: Intent,
        grants: Mirror,
        states: Mirror,
        clock: Callable[[], float],
        heard: Callable[[str], bool | None],
        writers: int,
    ) -> None:
        self._kube = kube
        self._writers = writers
        self._announcer = announcer
        self._intent = intent
        self._grants = grants
        self._states = states
        self._clock = clock
        self._heard = heard
        self._memory: dict[Ref, _Memory] = {}
        self._queue: Workqueue[Ref] | None = None

    def note(self, refs: Iterable[Ref]) -> None:
        """These Pods may have to show something else."""
        if self._queue is not None:
            self._queue.update(refs)

    def note_key(self, key: Key) -> None:
        """A grant, refusal, status or resolver changed, or somebody has told everything now."""
        match key:
            case ConnectionKey() | RefusalKey() | StatusKey() | ResolverKey():
                self.note([(key.namespace, key.pod)])
            case NodeKey():
                on_node = self._intent.pods_on(key.node)
                self._note_anew([ref for ref in on_node if ref in self._intent.wanted])
            case LeaderKey():
                self._note_all_anew()

    def _note_anew(self, refs: list[Ref]) -> None:
        for ref in refs:
            if ref in self._memory:
                self._memory[ref].recheck_seconds = _RECHECK_SECONDS[0]
        self.note(refs)

    async def run(self) -> None:
        """Report for the length of a term."""
        await self._grants.synced.wait()
        await self._states.synced.wait()
        self._memory.clear()
        self._queue = Workqueue("status", self._work, workers=self._writers)
        self._queue.update(list(self._intent.pods))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queue.run())
                group.create_task(at_every_completion(self._grants, self._note_all_anew))
        finally:
            self._queue = None

    def _note_all_anew(self) -> None:
        """Once ipam has told everything, its silence about a request counts."""
        self._note_anew(list(self._intent.wanted))

    async def _work(self, ref: Ref) -> None:
        pod = self._intent.pods.get(ref)
        if pod is None:
            self._memory.pop(ref, None)
            return
        shown = self._shown(pod)
        wanted = self._intent.wanted.get(ref, _NOBODY)
        heard = self._heard(pod.node)
        result = reports.report(pod, wanted, shown, self._facts, heard=heard)
        if result is None:
            self._memory.pop(ref, None)
            return
        memory = self._remember(pod, shown)
        if self._passes_soon(memory, shown, result):
            self._later(ref, _GRACE_SECONDS * 1.05)  # surely past it, or it would be two graces
            return
        if result.kept:
            self._later(ref, memory.recheck_seconds)
            memory.recheck_seconds = min(memory.recheck_seconds * 2, _RECHECK_SECONDS[1])
        self._announce(pod, memory, result)
        try:
            await self._write(pod, memory, shown, result)
        except Missing:
            self._memory.pop(ref, None)  # gone; its successor is on its way
        except Denied as exc:
            self._denied(ref, exc)

    async def _write(
        self, pod: Pod, memory: _Memory, shown: reports.Showing, result: reports.Report
    ) -> None:
        wanted = reports.as_shown(result)
        if wanted.told == shown.told:
            return
        try:
            await self._put(pod, memory, shown, wanted)
        except Denied as exc:
            if wanted.annotation == shown.annotation:
                raise
            # An annotation that is not taken must not hide the condition.
            self._denied(pod.ref, exc)
            bare = reports.without_annotation(wanted, shown, f"{exc}; {exc.remedy}")
            if bare.told != shown.told:
                await self._put(pod, memory, shown, bare)

    async def _put(
        self, pod: Pod, memory: _Memory, shown: reports.Showing, wanted: reports.Showing
    ) -> None:
        annotations = {STATUS_ANNOTATION: wanted.annotation}
        now = await pods.write_status(
            self._kube,
            pod,
            condition=Condition(
                type=CONDITION,
                status=wanted.status,
                reason=wanted.reason,
                message=wanted.message,
            ),
            turned=wanted.status != shown.status,
            annotations=annotations if wanted.annotation != shown.annotation else {},
        )
        self._wrote(memory, now)
        log.info("pod status written", pod=pod.ref, connected=wanted.status, reason=wanted.reason)

    def _denied(self, ref: Ref, exc: Denied) -> None:
        log.warning("status cannot be written", pod=ref, reason=str(exc), remedy=exc.remedy)
        self._later(ref, _DENIED_SECONDS)

    def _shown(self, pod: Pod) -> reports.Showing:
        """What the Pod shows, counting what we wrote and the watch has not brought yet."""
        memory = self._memory.get(pod.ref)
        if memory is None or memory.uid != pod.uid or memory.written is None:
            return reports.showing(pod)
        lag = self._clock() - memory.written_at
        if pod.version >= memory.version or lag > _LAG_SECONDS:
            memory.written = None
            return reports.showing(pod)
        return memory.written

    def _wrote(self, memory: _Memory, now: Pod) -> None:
        memory.written = reports.showing(now)
        memory.version = now.version
        memory.written_at = self._clock()

    def _remember(self, pod: Pod, shown: reports.Showing) -> _Memory:
        memory = self._memory.get(pod.ref)
        if memory is None or memory.uid != pod.uid:
            memory = self._memory[pod.ref] = _Memory(uid=pod.uid, announced=shown)
        return memory

    def _passes_soon(self, memory: _Memory, shown: reports.Showing, result: reports.Report) -> bool:
        if not patience.may_pass(shown, result):
            memory.passing_since = None
            return False
        now = self._clock()
        if memory.passing_since is None:
            memory.passing_since = now
        return now - memory.passing_since < _GRACE_SECONDS

    def _may_be_explained(self, memory: _Memory, result: reports.Report) -> bool:
        """What is lost shows at once; people hear of it together with the reason, if one follows soon."""
        if not patience.may_be_explained(memory.announced, result):
            memory.unexplained_since = None
            return False
        now = self._clock()
        if memory.unexplained_since is None:
            memory.unexplained_since = now
        return now - memory.unexplained_since < _GRACE_SECONDS

    def _announce(self, pod: Pod, memory: _Memory, result: reports.Report) -> None:
        if self._may_be_explained(memory, result):
            self._later(pod.ref, _GRACE_SECONDS * 1.05)
            return
        # Said when it happens, once, whatever becomes of the writes: those are retried.
        coming = self._coming(pod.ref, memory, result)
        for each in announcements(memory.announced, result, but=coming):
            self._announcer.say(_about(pod), each)
        memory.announced = reports.as_shown(result, but=coming)

    def _coming(self, ref: Ref, memory: _Memory, result: reports.Report) -> frozenset[str]:
        """Interfaces of which no warning is due yet, though the condition tells what they lack."""
        coming = patience.coming(memory.announced, result)
        if not coming:
            memory.coming_since = None
            return coming
        now = self._clock()
        if memory.coming_since is None:
            memory.coming_since = now
        left = memory.coming_since + _COMING_SECONDS - now
        if left <= 0:
            return frozenset()
        self._later(ref, left)
        return coming

    def _later(self, ref: Ref, seconds: float) -> None:
        if self._queue is not None:
            self._queue.add_later(ref, seconds)

    def _facts(self, request: Request) -> reports.Facts:
        pod = request.pod
        place = (pod.namespace, pod.name, request.interface)
        granted, refused = ConnectionKey(pod.node, *place), RefusalKey(*place)
        told = StatusKey(pod.node, *place)
        grant = self._grants.items.get(granted)
        if not _answers(request, grant):
            grant = None
        refusal = self._grants.items.get(refused)
        if grant is not None or not _refuses(request, refusal):
            refusal = None
        status = self._states.items.get(told)
        if not isinstance(status, Status) or status.client is None or status.client.uid != pod.uid:
            status = None
        if refusal is not None:
            refusal = spoiled.explained(request, refusal, self._intent.spoiled.why)
        if grant is None and refusal is None:
            settled = self._grants.complete(granted)
        else:
            settled = refusal is not None or status is not None or self._states.complete(told)
        return reports.Facts(
            grant=grant,
            refusal=refusal,
            status=status,
            resolver=self._resolver(request),
            settled=settled,
        )

    def _resolver(self, request: Request) -> Resolver | None:
        pod = request.pod
        told = self._states.items.get(ResolverKey(pod.node, pod.namespace, pod.name))
        return told if isinstance(told, Resolver) and told.uid == pod.uid else None


def _answers(request: Request, grant: object) -> bool:
    return (
        isinstance(grant, Connection)
        and grant.client.pod.uid == request.pod.uid
        and grant.network_service == request.network_service
        and request.network_service_namespace in ("", grant.network_service_namespace)
    )


def _refuses(request: Request, refusal: object) -> bool:
    return (
        isinstance(refusal, Refusal)
        and refusal.uid == request.pod.uid
        and refusal.network_service == request.network_service
    )


def _about(pod: Pod) -> ObjectRef:
    return ObjectRef(
        api_version="v1",
        kind="Pod",
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=pod.uid,
    )
