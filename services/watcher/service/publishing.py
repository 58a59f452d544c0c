"""Intent onto the bus: the difference between what must stand and what stands, and nothing else.

Runs only while we lead. First the whole difference, then `complete`, then whatever changes.
"""

import asyncio
from collections.abc import Iterable

import structlog

from schemas.subjects import EndpointKey, Key, NetworkServiceKey, PrefixKey, RequestKey
from services._runtime.leading import Term
from services._runtime.mirror import Mirror
from services.watcher.core.intent import Intent
from services.watcher.service.queueing import Workqueue

log = structlog.get_logger()

OURS = (RequestKey, EndpointKey, NetworkServiceKey, PrefixKey)
_WORKERS = 64  # on a single server they are pipelined; on a replicated one they take turns


class Publisher:
    """`note` what may have changed, at any time; `run` writes it while we lead."""

    def __init__(self, intent: Intent, own: Mirror) -> None:
        self._intent = intent
        self._own = own
        self._queue: Workqueue[Key] | None = None

    def note(self, keys: Iterable[Key]) -> None:
        """These may differ now."""
        if self._queue is not None:
            self._queue.update(keys)

    async def run(self, term: Term) -> None:
        """Make the stream say what Kubernetes says, for the length of a term."""
        first = self._difference()
        remaining = set(first)
        written = asyncio.Event()

        async def work(key: Key) -> None:
            await self._write(term, key)
            remaining.discard(key)
            if not remaining:
                written.set()

        queue: Workqueue[Key] = Workqueue("intent", work, workers=_WORKERS)
        queue.update(first)
        if not first:
            written.set()
        self._queue = queue
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

    async def _write(self, term: Term, key: Key) -> None:
        if not self._differs(key):
            return
        message = self._intent.message(key)
        if message is None:
            await term.bury(key)
        else:
            await term.publish(message)
        log.debug("intent written", subject=key.subject, gone=message is None)
