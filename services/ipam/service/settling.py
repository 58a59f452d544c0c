"""Requests that are due, decided in batches; every release of a batch is written before any grant of it.

So nobody who reads the bus ever sees an address, or a route of one Pod, granted twice.
"""

import asyncio
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from time import perf_counter

import structlog

from schemas import grant, intent, subjects
from schemas.subjects import RequestKey
from services._runtime.leading import Term
from services.ipam.adapters import Store
from services.ipam.core.settling import abandon, is_sought, settle
from services.ipam.model import Writes
from services.ipam.service.figures import Figures
from services.ipam.service.following import Following, Mirrors
from services.ipam.service.past import Past
from services.ipam.service.readdressing import Readdressing

BATCH = 256  # requests decided before their writes are awaited: as many as the bus pipelines
BATCH_SECONDS = 0.05  # nor longer than this: a leader that is busy for seconds loses its lease

log = structlog.get_logger()


class Settling:
    """Settles what is due for as long as the term lasts."""

    def __init__(
        self,
        mirrors: Mirrors,
        past: Past,
        following: Following,
        readdressing: Readdressing,
        figures: Figures,
    ) -> None:
        self._mirrors = mirrors
        self._past = past
        self._following = following
        self._readdressing = readdressing
        self._figures = figures

    async def run(self, term: Term, store: Store, *, silent: Callable[[], set[str]]) -> None:
        """For ever; declares the term complete once all that was due is written."""
        agenda, is_complete = self._following.agenda, False
        while True:
            await self._mirrors.intent.when_complete.wait()
            self._following.hear(silent())
            self._following.refresh()
            if agenda:
                await self._write(self._settle_some(), store)
                self._show()
                continue
            await term.declare_silent(self._following.silent)
            if not is_complete:
                await term.declare_complete()
                is_complete = True
            await agenda.wake.wait()
            agenda.wake.clear()

    def _settle_some(self) -> list[Writes]:
        agenda, started, done = self._following.agenda, perf_counter(), []
        for _ in range(BATCH):
            key = agenda.take()
            if key is None:
                break
            if (writes := self._settle(key)) != Writes():
                done.append(writes)
            if perf_counter() > started + BATCH_SECONDS:
                break
        return done

    async def _write(self, done: list[Writes], store: Store) -> None:
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        async with asyncio.TaskGroup() as tasks:
            for writes in done:
                if writes.released:
                    tasks.create_task(store.release(writes, at=at))
        async with asyncio.TaskGroup() as tasks:
            for writes in done:
                tasks.create_task(store.answer(writes))
        await asyncio.sleep(0)  # also a thousand that are as they should be let others have a turn

    def _settle(self, key: RequestKey) -> Writes:
        started = perf_counter()
        before = self._following.state.grants.get(key)
        try:
            writes = self._decide(key)
        except Exception:
            # Our mistake; what stands keeps standing, and nobody else waits for one request.
            log.exception("request could not be settled", subject=key.subject)
            self._figures.mistakes.inc()
            self._readdressing.settled(key, None, Writes())
            return Writes()
        finally:
            self._figures.decision_seconds.observe(perf_counter() - started)
        if writes.released and not self._following.state.held(key):
            self._following.make_room()  # its node is gone: nobody has to confirm
        is_told = self._readdressing.settled(key, before, writes)
        self._tell(key, writes, is_told=is_told)
        return writes

    def _decide(self, key: RequestKey) -> Writes:
        agenda, state = self._following.agenda, self._following.state
        request = self._mirrors.intent.items.get(key)
        standing = self._mirrors.grants.items.get(
            subjects.RefusalKey(key.namespace, key.pod, key.interface)
        )
        refusal = standing if isinstance(standing, grant.Refusal) else None
        if not isinstance(request, intent.Request):
            self._following.seeking.forget(key)
            return abandon(state, key, refusal=refusal)
        writes = settle(
            state,
            request,
            refusal=refusal,
            reported=self._past.reported(key),
            plumbed=self._plumbed(key, request),
            readdress=self._readdressing.is_due(key),
        )
        if key in state.grants:
            agenda.waiting.discard(key)
        else:
            agenda.waiting.add(key)
        return writes

    def _plumbed(self, key: RequestKey, request: intent.Request) -> Collection[str] | None:
        """The nodes that have something of it; None while it is too soon to ask."""
        seeking, state = self._following.seeking, self._following.state
        plumbed, granted = self._past.plumbed(key), state.grants.get(key)
        is_over = seeking.is_over(key)
        if granted is None or is_over or not is_sought(state, request, granted, plumbed):
            return plumbed
        seeking.wait(key)
        return None

    def _tell(self, key: RequestKey, writes: Writes, *, is_told: bool) -> None:
        where = {"client": f"{key.namespace}/{key.pod}", "interface": key.interface}
        for connection in writes.released:
            self._figures.released.inc()
            log.info("connection released", **where, addresses=connection.client.addresses)
        if writes.granted is not None:
            self._figures.granted.inc()
            if not is_told:
                log.info(
                    "connection granted",
                    **where,
                    endpoint=writes.granted.server.pod.name,
                    addresses=writes.granted.client.addresses,
                    revision=writes.granted.revision,
                )
        if writes.refused is not None:
            self._figures.refused.labels(writes.refused.reason).inc()
            log.info("request refused", **where, reason=writes.refused.reason)

    def _show(self) -> None:
        self._figures.connections.set(len(self._following.state.grants))
        self._figures.waiting.set(len(self._following.agenda.waiting))
        self._figures.silent_nodes.set(len(self._following.silent))
