"""Definitions of our kinds that are not ours are told: log, metric, and an Event on every object of the kind.

Looked at when our term begins and then every minute: who installs another mesh does not tell us. It is no reason to
be unready: what can be read is obeyed.
"""

import asyncio
from bisect import bisect_right

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Gauge

from services._runtime.errors import Conflict, Unavailable
from services.watcher.adapters import Denied, Kube, Missing
from services.watcher.core import definitions
from services.watcher.core.intent import Intent
from services.watcher.core.news import WARNING, Announcement
from services.watcher.model import ObjectRef, OurObject, Problem, Ref
from services.watcher.service.announcing import Announcer

log = structlog.get_logger()

_LOOK_SECONDS = 60.0
_MOST_TOLD = 100  # objects at a time, going round; each is told once
_DOCUMENT = "/openapi/v3/apis/networkservicemesh.io/v1"


class Definitions:
    """`run` looks and tells for the length of a term."""

    def __init__(
        self, *, kube: Kube, intent: Intent, announcer: Announcer, registry: CollectorRegistry
    ) -> None:
        self._kube = kube
        self._intent = intent
        self._announcer = announcer
        self._known: dict[type[OurObject], Problem | None] = {}
        self._told: dict[type[OurObject], Ref] = {}  # the last one of the last look
        self._gauge = Gauge(
            "nsm_watcher_foreign_definition",
            "1: the API server has a definition of this kind that is not ours",
            ["kind"],
            registry=registry,
        )

    async def run(self) -> None:
        """Look, now and then."""
        while True:
            document = await self._read()
            if document is not None:
                for kind in definitions.FIELDS:
                    self._judge(kind, definitions.problem(kind, document))
            await asyncio.sleep(_LOOK_SECONDS)

    def problems(self) -> list[Problem]:
        """What is wrong with the definitions, kind by kind."""
        return [each for each in self._known.values() if each is not None]

    async def _read(self) -> definitions.Document | None:
        try:
            return msgspec.json.decode(await self._kube.get(_DOCUMENT), type=definitions.Document)
        except Missing:
            return definitions.Document()  # not installed, which its informer tells
        except (Unavailable, Conflict, Denied, msgspec.DecodeError) as exc:
            log.debug("definitions cannot be read", reason=str(exc))
            return None

    def _judge(self, kind: type[OurObject], problem: Problem | None) -> None:
        known, self._known[kind] = self._known.get(kind), problem
        self._gauge.labels(kind.__name__).set(problem is not None)
        if problem is None:
            if known is not None:
                log.info("the definition of a kind is ours again", kind=kind.__name__)
            return
        if known != problem:
            log.error(
                "the definition of a kind is not ours", kind=kind.__name__, reason=problem.message
            )
        what = Announcement(type=WARNING, reason=problem.reason, message=problem.message)
        for each in self._next(kind):
            self._announcer.say(_about(each), what, again=False)

    def _next(self, kind: type[OurObject]) -> list[OurObject]:
        """The objects whose turn it is, from where the last look stopped."""
        found = [each for each in self._intent.objects.values() if type(each) is kind]
        found.sort(key=lambda each: each.ref)
        at = bisect_right(found, self._told.get(kind, ("", "")), key=lambda each: each.ref)
        turn = (found[at:] + found[:at])[:_MOST_TOLD]
        if turn:
            self._told[kind] = turn[-1].ref
        return turn


def _about(found: OurObject) -> ObjectRef:
    namespace, name = found.ref
    return ObjectRef(
        api_version="networkservicemesh.io/v1",
        kind=type(found).__name__,
        namespace=namespace,
        name=name,
        uid=found.uid,
    )
