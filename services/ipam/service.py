"""The shell of ipam: follow, settle what changed, write it down.

Callbacks of the mirrors only bring the state along and note which requests are touched; one loop settles
those while we lead. A standby keeps its mirrors warm and builds its state from them when its turn comes.
"""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import structlog

from schemas import grant, intent, state, subjects, values
from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.subjects import Key, RequestKey
from services._runtime.bus import Bus
from services._runtime.leading import Term, lead
from services._runtime.mirror import Mirror
from services._runtime.streams import GRANT, INTENT, STATE
from services.ipam.adapters import Store
from services.ipam.core.settling import abandon, settle
from services.ipam.core.state import Holding, State, Use
from services.ipam.model import Writes
from services.ipam.settings import Settings

BATCH = 256  # requests settled before their writes are awaited: as many as the bus pipelines

TOMBSTONES = 100_000  # the newest ones; on the bus they live an hour

log = structlog.get_logger()


class Ipam:
    """Grants and refuses while it leads."""

    def __init__(self, bus: Bus, settings: Settings, *, holder: str) -> None:
        self._bus = bus
        self._settings = settings
        self._holder = holder
        self._intent = Mirror(bus, INTENT, ["nsm.>"], on_change=self._intent_changed)
        self._grants = Mirror(bus, GRANT, ["nsm.>"], on_change=self._grant_changed)
        self._states = Mirror(bus, STATE, ["nsm.>"], on_change=self._state_changed)
        # Who released what, and which node confirmed it: outlives terms, because mirrors keep no tombstones.
        self._released: dict[Key, Tombstone] = {}
        self._confirmed: dict[Key, Tombstone] = {}
        self._state = State()
        self._touched: dict[RequestKey, None] = {}  # in the order they were touched
        self._by_service: dict[str, set[RequestKey]] = {}
        self._service_of: dict[RequestKey, str] = {}
        self._waiting: set[RequestKey] = set()  # refused
        self._exclusions_changed = False
        self._is_leading = False
        self._wake = asyncio.Event()
        self._reported_again = asyncio.Event()

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as tasks:
            for mirror in (self._intent, self._grants, self._states):
                tasks.create_task(mirror.run())
            tasks.create_task(
                lead(self._bus, "ipam", self._grants, self._decide, holder=self._holder)
            )

    # --- leading ---------------------------------------------------------------------------------------

    async def _decide(self, term: Term) -> None:
        await self._intent.synced.wait()
        await self._states.synced.wait()
        await self._write_again(term)
        # Before the watcher wrote all, an endpoint, a prefix or a node that is not there may still come: on
        # half a picture nothing is granted, moved or withdrawn, and no state is built.
        await self._intent.when_complete.wait()
        if term.is_first:
            await self._await_reports(term)
        store = Store(term)
        self._build()
        self._is_leading = True
        try:
            log.info("deciding", grants=len(self._state.grants), requests=len(self._touched))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tell_pools(store))
                await self._settle_for_ever(term, store)
        finally:
            self._is_leading = False

    async def _await_reports(self, term: Term) -> None:
        """On a fresh bus nobody knows what nodes have in their kernels until they have told it again.

        Not for ever: a node that is silent for long is told, and must not keep all others waiting.
        """
        try:
            async with asyncio.timeout(self._settings.adoption_seconds):
                while missing := self._unreported(term.incarnations[STATE]):
                    self._reported_again.clear()
                    await self._reported_again.wait()
        except TimeoutError:
            log.warning(
                "nodes have not reported what they have", nodes=missing[:20], count=len(missing)
            )

    def _unreported(self, incarnation: str) -> list[str]:
        """Nodes that Kubernetes knows and that have not said yet that all their statuses are on this bus."""
        nodes = [
            key.optional_name
            for key in self._intent.items
            if isinstance(key, subjects.PrefixKey) and key.source == "node"
        ]
        facts = {node: self._states.items.get(subjects.NodeKey(node)) for node in nodes}
        return sorted(
            node
            for node, said in facts.items()
            if not (
                isinstance(said, state.NodeFacts)
                and said.complete
                and said.incarnation == incarnation
            )
        )

    async def _settle_for_ever(self, term: Term, store: Store) -> None:
        declared = False
        while True:
            await self._intent.when_complete.wait()
            if self._exclusions_changed:
                self._collect_exclusions()
                self._touch(sorted_keys(self._waiting))
            await self._settle_touched(store)
            if self._touched:
                continue
            if not declared:
                await term.declare_complete()
                declared = True
            await self._wake.wait()
            self._wake.clear()

    def _build(self) -> None:
        """The state from the mirrors; grants first, so that they keep what they have."""
        self._state = State()
        self._touched.clear()
        self._by_service.clear()
        self._service_of.clear()
        self._waiting.clear()
        for key, message in self._grants.items.items():
            if isinstance(message, Connection):
                self._state.grant(message)
            elif isinstance(key, subjects.RefusalKey):
                self._waiting.add(RequestKey(key.namespace, key.pod, key.interface))
            elif isinstance(key, subjects.PoolKey):
                self._state.changed.add((key.namespace, key.endpoint))
        for key, message in self._intent.items.items():
            self._intent_follow(key, message)
        for key, tombstone in self._released.items():
            self._hold_released(key, tombstone)
        for key, message in self._states.items.items():
            self._state_follow(key, message)
        self._collect_exclusions()
        rest = sorted_keys([*self._touched, *self._waiting])
        self._touched = dict.fromkeys([*sorted_keys(self._state.grants), *rest])

    async def _write_again(self, term: Term) -> None:
        """After the stream was made anew: what we hold is the truth, and is written as it was."""
        for key in sorted(self._grants.stale, key=lambda key: key.subject):
            message = self._grants.items.get(key)
            if isinstance(message, Connection | grant.Refusal):
                await term.publish(message)

    async def _settle_touched(self, store: Store) -> None:
        # Who leaves goes first: a renamed interface would collide with itself.
        self._touched = dict.fromkeys(sorted(self._touched, key=self._intent.items.__contains__))
        while self._touched and self._intent.when_complete.is_set():
            batch = list(islice(self._touched, BATCH))
            at = datetime.now(UTC).isoformat(timespec="milliseconds")
            async with asyncio.TaskGroup() as tasks:
                for key in batch:
                    del self._touched[key]
                    writes = self._settle(key)
                    if writes.released and not self._state.held(key):
                        # Its node is gone: nobody has to confirm, and who waits may have the addresses now.
                        self._touch(sorted_keys(self._waiting))
                    if writes != Writes():
                        self._tell(key, writes)
                        tasks.create_task(store.perform(writes, at=at))

    def _settle(self, key: RequestKey) -> Writes:
        request = self._intent.items.get(key)
        standing = self._grants.items.get(_refusal_key(key))
        refusal = standing if isinstance(standing, grant.Refusal) else None
        if isinstance(request, intent.Request):
            reported = self._reported(request)
            writes = settle(self._state, request, refusal=refusal, reported=reported)
            if key in self._state.grants:
                self._waiting.discard(key)
            else:
                self._waiting.add(key)
            return writes
        self._waiting.discard(key)
        self._forget_request(key)
        return abandon(self._state, key, refusal=refusal)

    def _reported(self, request: intent.Request) -> Connection | None:
        key = subjects.StatusKey(
            request.pod.node, request.pod.namespace, request.pod.name, request.interface
        )
        return _applied(key, self._states.items.get(key))

    def _tell(self, key: RequestKey, writes: Writes) -> None:
        where = {"client": f"{key.namespace}/{key.pod}", "interface": key.interface}
        for connection in writes.released:
            log.info("connection released", **where, addresses=connection.client.addresses)
        if writes.granted is not None:
            log.info(
                "connection granted",
                **where,
                endpoint=writes.granted.server.pod.name,
                addresses=writes.granted.client.addresses,
                revision=writes.granted.revision,
            )
        if writes.refused is not None:
            log.info("request refused", **where, reason=writes.refused.reason)

    async def _tell_pools(self, store: Store) -> None:
        """Figures of pools, at most once per interval each."""
        while True:
            await asyncio.sleep(self._settings.pool_interval)
            changed, self._state.changed = self._state.changed, set()
            for object_ in sorted(changed):
                key = subjects.PoolKey(*object_)
                figures, told = self._state.figures(object_), self._grants.items.get(key)
                if figures is None and told is not None:
                    await store.forget(key)
                elif figures is not None and (figures != told or key in self._grants.stale):
                    await store.tell(figures)

    # --- following -------------------------------------------------------------------------------------

    def _intent_changed(self, key: Key, message: Any) -> None:
        if isinstance(key, subjects.PrefixKey):
            self._reported_again.set()  # a node may be gone
        if self._is_leading:
            self._intent_follow(key, message)

    def _intent_follow(self, key: Key, message: Any) -> None:
        gone = isinstance(message, Tombstone)
        match key:
            case RequestKey():
                self._forget_request(key)
                if not gone:
                    self._service_of[key] = message.network_service
                    self._by_service.setdefault(message.network_service, set()).add(key)
                self._touch([key])
            case subjects.EndpointKey():
                names = self._state.registry.put_endpoint(key, None if gone else message)
                self._state.changed.add((key.namespace, key.endpoint))
                self._touch_services(names)
            case subjects.NetworkServiceKey():
                if gone:
                    self._state.registry.network_services.pop(key, None)
                else:
                    self._state.registry.network_services[key] = message
                self._touch_services([key.name])
            case subjects.PrefixKey():
                self._exclude_anew()
                if key.source == "node" and self._state.put_node(
                    key.optional_name, exists=not gone
                ):
                    log.info("node gone, its addresses are free", node=key.optional_name)

    def _grant_changed(self, key: Key, message: Any) -> None:
        """Of our own stream only tombstones matter here: while we lead, the state knows the rest first."""
        if not isinstance(key, subjects.ConnectionKey):
            return
        if isinstance(message, Tombstone) and message.released:
            _note(self._released, key, message)
        else:
            self._released.pop(key, None)

    def _state_changed(self, key: Key, message: Any) -> None:
        if isinstance(key, subjects.StatusKey):
            if isinstance(message, Tombstone):
                _note(self._confirmed, key, message)
            else:
                self._confirmed.pop(key, None)
        if isinstance(key, subjects.NodeKey):
            self._reported_again.set()
        if self._is_leading:
            self._state_follow(key, message)

    def _state_follow(self, key: Key, message: Any) -> None:
        match key:
            case subjects.StatusKey():
                if self._status_changed(key, message):
                    self._touch(sorted_keys(self._waiting))
            case subjects.SeenKey():
                self._exclude_anew()

    def _status_changed(self, key: subjects.StatusKey, message: Any) -> bool:
        """Whether it freed an address."""
        request = RequestKey(key.namespace, key.pod, key.interface)
        if isinstance(message, Tombstone):
            return self._state.gone(request, node=key.node, revision=message.revision)
        applied = _applied(key, message)
        if applied is None:
            return False
        try:
            return self._state.stands(Holding.of(applied))
        except ValueError as exc:
            log.warning("status is ignored", subject=key.subject, reason=str(exc))
            return False

    def _hold_released(self, key: Key, tombstone: Tombstone) -> None:
        assert isinstance(key, subjects.ConnectionKey)
        confirmed = self._confirmed.get(_status_key(key))
        if confirmed is not None and confirmed.revision >= tombstone.revision:
            return
        try:
            self._state.hold(Holding.of_tombstone(key, tombstone))
        except ValueError as exc:
            log.warning("tombstone names no address", subject=key.subject, reason=str(exc))

    def _exclude_anew(self) -> None:
        # Not at once: a cluster of 5,000 nodes tells as many prefixes in a row.
        self._exclusions_changed = True
        self._wake.set()

    def _collect_exclusions(self) -> None:
        self._exclusions_changed = False
        uses: list[Use] = []
        for message in self._intent.items.values():
            if isinstance(message, intent.PrefixesInUse):
                uses += _uses(message.prefixes, message.key)
        for message in self._states.items.values():
            if isinstance(message, state.SeenPrefixes) and message.node in self._state.nodes:
                seen = f"seen on node {message.node}"
                used = (intent.UsedPrefix(prefix=p, used_by=seen) for p in message.prefixes)
                uses += _uses(used, message.key)
        self._state.put_excluded(uses)

    def _forget_request(self, key: RequestKey) -> None:
        name = self._service_of.pop(key, None)
        if name is not None:
            self._by_service[name].discard(key)
            if not self._by_service[name]:
                del self._by_service[name]

    def _touch_services(self, names: Iterable[str]) -> None:
        for name in names:
            self._touch(sorted_keys(self._by_service.get(name, ())))

    def _touch(self, keys: Iterable[RequestKey]) -> None:
        self._touched.update(dict.fromkeys(keys))
        if self._touched:
            self._wake.set()


def sorted_keys(keys: Iterable[RequestKey]) -> list[RequestKey]:
    """Keys in a fixed order, so that two runs over the same bus grant the same."""
    return sorted(keys, key=lambda key: (key.namespace, key.pod, key.interface))


def _applied(key: subjects.StatusKey, message: Any) -> Connection | None:
    """The grant that a node says it applied at the client's end, if it is about this very connection."""
    if not isinstance(message, state.Status) or message.client is None:
        return None
    applied = message.client.applied
    if applied is None or applied.key != _connection_key(key):
        return None
    return applied


def _note(tombstones: dict[Key, Tombstone], key: Key, tombstone: Tombstone) -> None:
    tombstones.pop(key, None)
    tombstones[key] = tombstone
    if len(tombstones) > TOMBSTONES:
        del tombstones[next(iter(tombstones))]


def _uses(prefixes: Iterable[intent.UsedPrefix], key: Key) -> list[Use]:
    uses = []
    for used in prefixes:
        try:
            uses.append(Use(values.parse_prefix_loosely(used.prefix), used.used_by))
        except ValueError as exc:
            log.warning("prefix in use is no prefix", subject=key.subject, reason=str(exc))
    return uses


def _refusal_key(key: RequestKey) -> subjects.RefusalKey:
    return subjects.RefusalKey(key.namespace, key.pod, key.interface)


def _connection_key(key: subjects.StatusKey) -> subjects.ConnectionKey:
    return subjects.ConnectionKey(key.node, key.namespace, key.pod, key.interface)


def _status_key(key: subjects.ConnectionKey) -> subjects.StatusKey:
    return subjects.StatusKey(key.node, key.namespace, key.pod, key.interface)
