"""The shell of ipam: follow, settle what changed, write it down.

Mirrors are kept warm whoever leads. A term begins by building its state from them; then what is due is
settled in one loop (`settling`), and everything else only says what is due.
"""

import asyncio
import gc
from collections.abc import Iterable
from typing import Any

import structlog

from schemas.subjects import ConnectionKey, Key, NodeKey, PrefixKey, StatusKey
from services._runtime.bus import Bus
from services._runtime.leading import Term, caught_up, lead
from services._runtime.mirror import Mirror
from services._runtime.streams import GRANT, INTENT, STATE
from services.ipam.adapters import Store
from services.ipam.model import Supernet
from services.ipam.service.adopting import Reports, write_again
from services.ipam.service.figures import Figures
from services.ipam.service.following import Following, Mirrors
from services.ipam.service.past import Past
from services.ipam.service.readdressing import Readdressing
from services.ipam.service.repairing import ask_nodes_again, keep_tombstones, repair_copies
from services.ipam.service.settling import Settling
from services.ipam.service.telling import Telling
from services.ipam.settings import Settings

log = structlog.get_logger()


class Ipam:
    """Grants and refuses while it leads."""

    def __init__(self, bus: Bus, settings: Settings, *, holder: str) -> None:
        self._bus = bus
        self._settings = settings
        self._holder = holder
        self._mirrors = Mirrors(
            intent=Mirror(bus, INTENT, ["nsm.>"], on_change=self._intent_changed),
            grants=Mirror(bus, GRANT, ["nsm.>"], on_change=self._grant_changed),
            states=Mirror(bus, STATE, ["nsm.>"], on_change=self._state_changed),
        )
        self._past = Past()
        self._reports = Reports(self._mirrors.states)
        self._figures = Figures(bus.metrics.registry)
        self._following: Following | None = None  # while we lead

    async def run(self) -> None:
        """For ever."""
        own = self._mirrors.grants
        async with asyncio.TaskGroup() as tasks:
            for mirror in (self._mirrors.intent, own, self._mirrors.states):
                tasks.create_task(mirror.run())
            tasks.create_task(lead(self._bus, "ipam", own, self._decide, holder=self._holder))

    async def _decide(self, term: Term) -> None:
        mirrors = self._mirrors
        # What we followed may be behind what the last leader saw: its grants would look like nobody's.
        await caught_up(self._bus, mirrors.intent)
        await caught_up(self._bus, mirrors.states)
        await write_again(term, mirrors.grants)
        # Before the watcher wrote all, an endpoint, a prefix or a node that is not there may still come: on
        # half a picture nothing is granted, moved or withdrawn, and no state is built.
        await mirrors.intent.when_complete.wait()
        silent = await self._reports.silent(term, seconds=self._settings.adoption_seconds)
        await term.declare_silent(silent)
        self._following = following = Following(mirrors, self._past, supernets=self._supernets())
        try:
            # Looking for garbage in all that a large cluster's state is takes seconds, a lease lasts four.
            gc.disable()
            await following.build(silent=silent)
            gc.freeze()
            gc.enable()
            await self._work(term, following)
        finally:
            gc.enable()
            gc.unfreeze()
            self._following = None
            following.silence.close()
            following.seeking.close()
            self._figures.stand_by()

    async def _work(self, term: Term, following: Following) -> None:
        """Until the term ends."""
        own, state, store = self._mirrors.grants, following.state, Store(term)
        telling = Telling(own, state, self._figures, make_room=following.make_room)
        readdressing = Readdressing(
            following, self._figures, per_second=self._settings.readdress_per_second
        )
        settling = Settling(self._mirrors, self._past, following, readdressing, self._figures)
        await telling.tell_prefixes(store)  # before a grant whose default route leads past them
        await repair_copies(own, state, store)
        log.info("deciding", grants=len(state.grants), requests=len(following.agenda))

        def silent() -> set[str]:
            return self._reports.missing(term.incarnations[STATE], following.silent)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(telling.run(store, interval_seconds=self._settings.pool_interval))
            tasks.create_task(readdressing.run())
            tasks.create_task(keep_tombstones(self._past, state, store))
            tasks.create_task(ask_nodes_again(term, self._mirrors.states))
            tasks.create_task(settling.run(term, store, silent=silent))

    def _supernets(self) -> Iterable[Supernet]:
        return (Supernet(prefix, length) for prefix, length in self._settings.supernets())

    def _intent_changed(self, key: Key, message: Any) -> None:
        if isinstance(key, PrefixKey):
            self._reports.note(key, message)
        if self._following is not None:
            self._following.follow(key, message)

    def _grant_changed(self, key: Key, message: Any) -> None:
        if isinstance(key, ConnectionKey):
            self._past.note_grant(key, message)

    def _state_changed(self, key: Key, message: Any) -> None:
        if isinstance(key, StatusKey):
            self._past.note_status(key, message)
        elif isinstance(key, NodeKey):
            self._reports.note(key, message)
        if self._following is not None:
            self._following.follow(key, message)
