"""The watcher at work: informers feed the core, the core's news go to the bus and back to Kubernetes.

Caches are warm in every replica; publishing, reporting and announcing run for whoever leads.
"""

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial

from prometheus_client import Gauge

from schemas.codec import Tombstone
from schemas.intent import PodRef
from schemas.live import LeaderReport, Mistake
from schemas.state import Status
from schemas.subjects import Key, LeaderKey, StatusKey
from services._runtime.bus import Bus
from services._runtime.health import Health
from services._runtime.leading import Term, lead
from services._runtime.mirror import Mirror
from services._runtime.run import Runtime
from services._runtime.streams import GRANT, INTENT, STATE
from services.watcher import model
from services.watcher.adapters import NOT_INSTALLED, Events, Informer, Kube, Resource, objects
from services.watcher.core import prefixes
from services.watcher.core.intent import Intent, Touched
from services.watcher.core.moves import Moves
from services.watcher.core.news import WARNING, Announcement
from services.watcher.core.repairs import Repairs
from services.watcher.model import ObjectRef, Problem
from services.watcher.service.announcing import Announcer
from services.watcher.service.defining import Definitions
from services.watcher.service.describing import Describer
from services.watcher.service.hearing import Hearing
from services.watcher.service.idling import Idling
from services.watcher.service.publishing import Publisher
from services.watcher.service.reporting import Reporter
from services.watcher.settings import Settings
from services.watcher.wording import shorten

NOT_PUBLISHED = "NotPublished"
_REASON_BYTES = 500


def resources(system_namespace: str) -> list[Resource]:
    """Every kind we watch."""
    return [
        Resource(kind=model.Namespace, path="/api/v1/namespaces"),
        Resource(kind=model.Node, path="/api/v1/nodes"),
        Resource(kind=model.Pod, path="/api/v1/pods"),
        Resource(kind=model.KubeService, path="/api/v1/services"),
        Resource(
            kind=model.ServiceCidr, path="/apis/networking.k8s.io/v1/servicecidrs", optional=True
        ),
        _config_map(*prefixes.KUBEADM),
        _config_map(system_namespace, prefixes.EXCLUDED_NAME),
        *(
            Resource(kind=kind, path=f"{objects.GROUP}/{plural}")
            for kind, plural in objects.PLURALS.items()
        ),
    ]


def _config_map(namespace: str, name: str) -> Resource:
    path = f"/api/v1/namespaces/{namespace}/configmaps"
    return Resource(kind=model.ConfigMap, path=path, name=name)


class Watcher:
    """`run()` for ever."""

    def __init__(
        self, *, bus: Bus, kube: Kube, settings: Settings, holder: str, health: Health
    ) -> None:
        self._bus = bus
        self._holder = holder
        self._health = health
        self.intent = Intent(system_namespace=settings.system_namespace)
        self._informers = [
            Informer(kube, resource, partial(self._object_changed, resource.kind))
            for resource in resources(settings.system_namespace)
        ]
        self._own = Mirror(bus, INTENT, ["nsm.>"], on_change=self._own_changed)
        # One filter each: what a writer said before it said `complete` then comes before that word.
        self._grants = Mirror(bus, GRANT, ["nsm.>"], on_change=self._result_changed)
        self._states = Mirror(bus, STATE, ["nsm.>"], on_change=self._state_changed)
        self._repairs = Repairs()
        self._moves = Moves()
        self._publisher = Publisher(self.intent, self._own, on_refused=self._say_refused)
        self._announcer = Announcer(Events(kube, instance=holder, clock=time.monotonic))
        self._hearing = Hearing(
            bus,
            self.intent,
            on_change=lambda pods: self._reporter.note(pods),  # noqa: PLW0108 made below: each needs the other
            clock=time.monotonic,
        )
        self._reporter = Reporter(
            kube=kube,
            announcer=self._announcer,
            intent=self.intent,
            grants=self._grants,
            states=self._states,
            clock=time.monotonic,
            heard=self._hearing.heard,
            writers=settings.writes_in_flight,
        )
        self._idling = Idling(intent=self.intent, announcer=self._announcer)
        self._describer = Describer(
            kube=kube,
            intent=self.intent,
            grants=self._grants,
            states=self._states,
            clock=time.monotonic,
        )
        self._definitions = Definitions(
            kube=kube,
            intent=self.intent,
            announcer=self._announcer,
            registry=bus.metrics.registry,
        )
        self._measure()

    def _measure(self) -> None:
        registry = self._bus.metrics.registry
        objects = Gauge("nsm_watcher_objects", "Objects known", ["resource"], registry=registry)
        silence = Gauge(
            "nsm_watcher_silence_seconds",
            "Since the API server last said something of this kind: a list, an event or a bookmark",
            ["resource"],
            registry=registry,
        )
        for informer in self._informers:
            title = informer.resource.title
            objects.labels(title).set_function(partial(len, informer.items))
            silence.labels(title).set_function(informer.silent_seconds)

    async def run(self) -> None:
        """Keep caches, stand for leader, and lead when it is our turn."""
        self._health.expect("kubernetes")
        self._health.expect("snapshots")
        async with asyncio.TaskGroup() as group:
            for informer in self._informers:
                group.create_task(informer.run())
            for mirror in (self._own, self._grants, self._states):
                group.create_task(mirror.run())
            group.create_task(self._say_ready())
            group.create_task(self._lead())

    async def _lead(self) -> None:
        def word() -> LeaderReport:
            return seen_by(self._informers, self.intent, self._mistakes())

        await lead(self._bus, "watcher", self._own, self._decide, holder=self._holder, word=word)

    def _mistakes(self) -> Iterator[Problem]:
        """What who runs the mesh has to correct."""
        misread = self.intent.misread()
        if misread is not None:
            yield misread
        yield from self._definitions.problems()
        if self._publisher.refused:
            yield _of_refused(self._publisher.refused)

    async def _say_ready(self) -> None:
        for informer in self._informers:
            await informer.synced.wait()
        self._health.done("kubernetes")
        for mirror in (self._own, self._grants, self._states):
            await mirror.synced.wait()
        self._health.done("snapshots")

    async def _decide(self, term: Term) -> None:
        # Half a list would look like half of the wishes withdrawn.
        for informer in self._informers:
            await informer.synced.wait()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publisher.run(term))
            group.create_task(self._announcer.run())
            group.create_task(self._reporter.run())
            group.create_task(self._hearing.run())
            group.create_task(self._idling.run())
            group.create_task(self._describer.run())
            group.create_task(self._definitions.run())
            group.create_task(self._repeat_notices())

    async def _repeat_notices(self) -> None:
        """What is wrong with objects since before our term, unless a predecessor said it already."""
        for about in list(self.intent.notices):
            self._say_notice(about, again=False)

    def _object_changed(
        self, kind: type[model.Object], ref: model.Ref, _: object, after: object
    ) -> None:
        self._heed(self.intent.put(kind, ref, after))
        if isinstance(after, model.Node) and after.ready:
            self._hearing.forget(after.metadata.name)
        if issubclass(kind, model.OurObject):
            self._describer.note([(kind, ref)])

    def _heed(self, touched: Touched) -> None:
        """Pass on what a change of an object touched."""
        self._publisher.note(touched.keys)
        self._describer.note_intent(touched.keys)
        self._reporter.note(touched.pods)
        self._idling.note(touched.idle)
        for about in touched.notices:
            self._say_notice(about, again=True)

    def _say_notice(self, about: ObjectRef, *, again: bool) -> None:
        problem = self.intent.notices.get(about)
        if problem is None:
            return
        what = Announcement(type=WARNING, reason=problem.reason, message=problem.message)
        self._announcer.say(about, what, again=again)

    def _say_refused(self, key: Key, reason: str) -> None:
        about = self.intent.owner(key)
        if about is not None:
            message = (
                f"not published, what stood before stays: {reason}, or make this object smaller"
            )
            what = Announcement(type=WARNING, reason=NOT_PUBLISHED, message=message)
            self._announcer.say(about, what, again=False)

    def _own_changed(self, key: Key, message: object) -> None:
        standing = None if isinstance(message, Tombstone) else message
        self._heed(self.intent.stand(key, standing))
        # Own writes come back equal; what does not is put right.
        if not isinstance(key, LeaderKey) and standing != self.intent.message(key):
            self._publisher.note([key])

    def _state_changed(self, key: Key, message: object) -> None:
        self._result_changed(key, message)
        if isinstance(key, StatusKey) and isinstance(message, Status | Tombstone):
            is_news = self._states.synced.is_set()
            for pod, what in self._repairs.note(key, message, is_news=is_news):
                self._announcer.say(_about(pod), what)
            for pod, what in self._moves.note(key, message, is_news=is_news):
                self._announcer.say(_about(pod), what, again=False)

    def _result_changed(self, key: Key, _: object) -> None:
        self._reporter.note_key(key)
        self._describer.note_key(key)


def _about(pod: PodRef) -> ObjectRef:
    return ObjectRef(
        api_version="v1", kind="Pod", namespace=pod.namespace, name=pod.name, uid=pod.uid
    )


def seen_by(
    informers: Sequence[Informer], intent: Intent, mistakes: Iterable[Problem] = ()
) -> LeaderReport:
    """What the lease tells people: an API server that keeps silent, mistakes, annotations that have no effect."""
    silent = [
        # What a server says may be of any length, and a lease that is too long is lost.
        (each.resource.title, shorten(why, _REASON_BYTES))
        for each in informers
        if (why := each.trouble())
    ]
    return LeaderReport(
        troubles=(_of_api(*silent[0], len(silent) - 1),) if silent else (),
        mistakes=tuple(
            Mistake(reason=each.reason, message=shorten(each.message, _REASON_BYTES))
            for each in mistakes
        ),
        notes=(_of_unheeded(intent.unheeded),) if intent.unheeded else (),
    )


def _of_api(title: str, why: str, more: int) -> str:
    kinds = title + (f" and more ({more})" if more else "")
    if why == NOT_INSTALLED:
        return f"the API server has no {kinds}: {why}, and what there was of it counts as deleted"
    return f"the API server tells nothing of {kinds}: edits wait, connections stay ({why})"


def _of_refused(refused: Mapping[Key, str]) -> Problem:
    key, why = next(iter(refused.items()))
    counted = f"{len(refused)} message" + ("" if len(refused) == 1 else "s")
    return Problem(
        reason=NOT_PUBLISHED,
        message=f"the bus refuses {counted}, such as {key.subject}: what stood before stays ({why})",
    )


def _of_unheeded(pods: Collection[model.Ref]) -> str:
    namespace, name = next(iter(pods))
    counted = f"{len(pods)} Pod" + ("" if len(pods) == 1 else "s")
    return f"{counted} with an annotation that has no effect as it is written, such as {namespace}/{name}"


async def start(settings: Settings, runtime: Runtime) -> None:
    """Connect to Kubernetes and watch."""
    async with Kube(settings.kubeconfig) as kube:
        watcher = Watcher(
            bus=runtime.bus,
            kube=kube,
            settings=settings,
            holder=runtime.settings.holder,
            health=runtime.health,
        )
        await watcher.run()
