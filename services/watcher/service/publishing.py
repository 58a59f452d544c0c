"""Intent onto the bus: the difference between what must stand and what stands, and nothing else.

Runs only while we lead. First the whole difference, then `complete`, then whatever changes. What belongs
together is written one after the other, in the order that readers need: of a Pod what it no longer asks for
goes first, and a prefix in use is never in no message. What the bus refuses is told to its owner and holds
up nobody; but without every prefix in use nothing is `complete`, or ipam would give away what is taken.
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog

from schemas.intent import Endpoint, Request
from schemas.subjects import EndpointKey, Key, NetworkServiceKey, PrefixKey, RequestKey
from services._runtime.errors import Refused
from services._runtime.leading import Term
from services._runtime.mirror import Mirror
from services.watcher.core import prefixes
from services.watcher.core.intent import Intent
from services.watcher.service.queueing import Workqueue

log = structlog.get_logger()

OURS = (RequestKey, EndpointKey, NetworkServiceKey, PrefixKey)
_WORKERS = 64  # on a single server they are pipelined; on a replicated one they take turns
_REFUSED_SECONDS = 60.0  # somebody may have raised the limit

Lane = tuple[str, ...]  # of keys that are written one after the other
# An address moves from one message to another when a prefix that covers it becomes known.
_PREFIXES: Lane = (PrefixKey.kind,)


class Publisher:
    """`note` what may have changed, at any time; `run` writes it while we lead.

    `on_refused` is told a key and why the bus does not take its message, once until it does.
    """

    def __init__(
        self, intent: Intent, own: Mirror, *, on_refused: Callable[[Key, str], None]
    ) -> None:
        self._intent = intent
        self._own = own
        self._on_refused = on_refused
        self._queue: Workqueue[Lane] | None = None
        self._noted: dict[Lane, set[Key]] = {}
        self.refused: dict[Key, str] = {}  # and why
        self._remaining: set[Key] = set()  # to be written before `complete`

    def note(self, keys: Iterable[Key]) -> None:
        """These may differ now."""
        if self._queue is None:
            return
        lanes: dict[Lane, None] = {}
        for key in sorted(keys, key=self._stays):
            lane = _lane(key)
            lanes[lane] = None
            self._noted.setdefault(lane, set()).add(key)
        self._queue.update(lanes)

    async def run(self, term: Term) -> None:
        """Make the stream say what Kubernetes says, for the length of a term."""
        first = self._difference()
        written = asyncio.Event()

        async def work(lane: Lane) -> None:
            await self._work(term, lane)
            if not self._remaining:
                written.set()

        self._remaining = set(first)
        self._noted.clear()
        self.refused.clear()
        queue = self._queue = Workqueue("intent", work, workers=_WORKERS)
        self.note(first)
        if not first:
            written.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(queue.run())
                await written.wait()
                await term.declare_complete()
                log.info("intent complete", messages=len(self._intent.desired), changed=len(first))
        finally:
            self._queue = None

    def _difference(self) -> list[Key]:
        standing = {key for key in self._own.items if isinstance(key, OURS)}
        return [key for key in {*standing, *self._intent.desired} if self._differs(key)]

    def _differs(self, key: Key) -> bool:
        # What is stale is only remembered: the stream lost it.
        return self._intent.message(key) != self._own.items.get(key) or key in self._own.stale

    async def _work(self, term: Term, lane: Lane) -> None:
        """Write what was noted of a lane; what is refused is tried again later."""
        keys = self._noted.pop(lane, set())
        if any(map(_is_exclusion, keys)):
            keys |= self._intent.exclusions
        left = set(keys)
        try:
            for key in sorted(keys, key=self._turn):
                if await self._write(term, key):
                    left.discard(key)
                if key in left and isinstance(key, PrefixKey):
                    self._remaining.add(key)
                else:
                    self._remaining.discard(key)
        finally:
            if left:
                self._noted.setdefault(lane, set()).update(left)
        if left and self._queue is not None:
            self._queue.add_later(lane, _REFUSED_SECONDS)

    async def _write(self, term: Term, key: Key) -> bool:
        """Whether the stream says now what it must."""
        if self._differs(key):
            message = self._intent.message(key)
            try:
                await (term.bury(key) if message is None else term.publish(message))
            except Refused as exc:
                await self._cannot_write(term, key, message, str(exc))
                return False
            log.debug("intent written", subject=key.subject, gone=message is None)
        self.refused.pop(key, None)
        return True

    async def _cannot_write(self, term: Term, key: Key, message: object, reason: str) -> None:
        if key not in self.refused:
            self.refused[key] = reason
            log.error("the bus refuses a message", subject=key.subject, reason=reason)
            self._on_refused(key, reason)
        standing = self._own.items.get(key)
        if (
            isinstance(message, Request | Endpoint)
            and isinstance(standing, Request | Endpoint)
            and standing.pod.uid != message.pod.uid
        ):
            await term.bury(key)  # that Pod is gone: nobody may be connected to it

    def _stays(self, key: Key) -> bool:
        return isinstance(key, PrefixKey) or self._intent.message(key) is not None

    def _turn(self, key: Key) -> int:
        """When it is written among those of its lane."""
        gone = self._intent.message(key) is None
        if not isinstance(key, PrefixKey):
            return 0 if gone else 1
        if gone:
            return 2
        return 1 if key in self._own.items else 0


def _lane(key: Key) -> Lane:
    match key:
        case RequestKey():
            return (key.kind, key.namespace, key.pod)
        case PrefixKey() if key.source != "node":
            return _PREFIXES
    return (key.kind, key.subject)


def _is_exclusion(key: Key) -> bool:
    return isinstance(key, PrefixKey) and key.source == prefixes.EXCLUDED.source
