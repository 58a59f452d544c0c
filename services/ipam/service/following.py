"""From messages to the state of one term, and to the requests that a message concerns.

Level-triggered: a message only says what to look at again, so that the same message twice does nothing. The
state is built in slices, because a leader that is busy for seconds loses its lease.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable
from typing import Any

import msgspec
import structlog

from schemas import grant, state, subjects
from schemas.codec import Tombstone
from schemas.grant import Connection
from schemas.subjects import Key, NodeKey, PrefixKey, RequestKey, SeenKey, StatusKey
from services._runtime.mirror import Mirror
from services.ipam.core.state import Holding, State, request_key
from services.ipam.model import Supernet, is_copy
from services.ipam.service.agenda import Agenda, in_order
from services.ipam.service.excluding import uses_of
from services.ipam.service.past import Past, applied_of
from services.ipam.service.seeking import Seeking
from services.ipam.service.silence import Silence

SLICE = 500  # messages read in one go: some milliseconds

log = structlog.get_logger()


class Mirrors(msgspec.Struct, frozen=True):
    """The bus, as ipam reads it."""

    intent: Mirror
    grants: Mirror
    states: Mirror


class Following:
    """What one term knows."""

    def __init__(self, mirrors: Mirrors, past: Past, *, supernets: Iterable[Supernet]) -> None:
        self.state = State(supernets=tuple(supernets))
        self.agenda = Agenda()
        self.silence = Silence(self.state, self.agenda)
        self.seeking = Seeking(self.agenda)
        self.silent: set[str] = set()
        self.relief = asyncio.Event()  # somebody whom a prefix in use swallowed may find room
        self.excluded_anew = False
        self._mirrors = mirrors
        self._past = past
        self._nodes_came: set[str] = set()

    async def build(self, *, silent: Collection[str]) -> None:
        """The state from the mirrors; what changes meanwhile is followed at the same time."""
        self.hear(silent)
        await self._read(self._mirrors.grants, self._read_grant)
        await self._read(self._mirrors.intent, self.follow)
        self._lose_unknown_nodes()
        for number, (key, tombstone, is_gone) in enumerate(self._past.released()):
            self._hold_released(key, tombstone, is_gone=is_gone)
            if not number % SLICE:
                await asyncio.sleep(0)
        for number, (where, confirmed) in enumerate(self._past.confirmed()):
            self._status_changed(where, confirmed)
            if not number % SLICE:
                await asyncio.sleep(0)
        self._nodes_came.clear()
        await self._read(self._mirrors.states, self.follow)
        granted = in_order(self.state.grants)
        refused = {
            RequestKey(key.namespace, key.pod, key.interface)
            for key in self._mirrors.grants.items
            if isinstance(key, subjects.RefusalKey)
        }
        wanted = {key for key in self._mirrors.intent.items if isinstance(key, RequestKey)}
        rest = (wanted | refused) - self.state.grants.keys()
        # What nodes have stands first: only then is it known what is left for the others.
        reported = {key for key in rest if self._past.reported(key) is not None}
        self.agenda.begin([*granted, *in_order(reported), *in_order(rest - reported)])

    def follow(self, key: Key, message: Any) -> None:
        """One message of NSM_INTENT or NSM_STATE."""
        gone = isinstance(message, Tombstone)
        match key:
            case RequestKey() if gone:
                self.agenda.unwant(key)
            case RequestKey():
                self.agenda.want(key, message.network_service)
            case subjects.EndpointKey():
                self.agenda.touch_services(self.state.put_endpoint(key, None if gone else message))
                self.agenda.hurry(in_order(self.state.served(key)))
                self.relief.set()
            case subjects.NetworkServiceKey():
                self.state.put_network_service(key, None if gone else message)
                self.agenda.touch_services([key.name])
            case PrefixKey() | SeenKey():
                self._exclude(key, message)
            case NodeKey():
                self._facts_changed(key, message)
            case StatusKey():
                if self._status_changed(key, message):
                    self.make_room()
                self.silence.note(key, message)

    def hear(self, silent: Collection[str]) -> None:
        """Who is silent still: nothing that these may hold is given to anybody else."""
        if self.silent == set(silent):
            return
        heard, self.silent = self.silent - set(silent), set(silent)
        self.state.put_silent(self.silent)
        waiting = {key for key in self.agenda.waiting if self._past.reported(key) is not None}
        self.agenda.hurry(in_order(waiting))
        self.agenda.touch(self.state.kept_for(heard))
        self.make_room()

    def refresh(self) -> None:
        """What nodes said before Kubernetes told of them: all that came since in one go."""
        came, self._nodes_came = self._nodes_came, set()
        for key, message in self._mirrors.states.items.items() if came else ():
            if isinstance(key, StatusKey) and key.node in came:
                self._status_changed(key, message)

    def make_room(self) -> None:
        """There may be addresses that were not there before."""
        self.agenda.touch_waiting()
        self.relief.set()

    def _lose_unknown_nodes(self) -> None:
        """The watcher told of every node there is: of others nobody will confirm anything."""
        said = [*self._mirrors.grants.items, *self._mirrors.states.items]
        named = {key.node for key in said if isinstance(key, subjects.ConnectionKey | StatusKey)}
        named |= {key.node for key, _, _ in self._past.released()}
        for node in named - self.state.nodes:
            self.state.put_node(node, exists=False)

    async def _read(self, mirror: Mirror, follow: Any) -> None:
        for number, key in enumerate(list(mirror.items)):
            if (message := mirror.items.get(key)) is not None:
                follow(key, message)
            if not number % SLICE:
                await asyncio.sleep(0)

    def _read_grant(self, key: Key, message: Any) -> None:
        """Of our own stream: while we lead, the state knows everything first."""
        match message:
            case Connection() if not is_copy(message):
                known = self.state.grants.get(request_key(message))
                if known is None or known.revision < message.revision:
                    self._try(key, lambda: self.state.grant(message))
            case grant.Pool():
                self._try(key, lambda: self.state.remember_pool(message))
                self.state.changed.add((message.namespace, message.endpoint))

    @staticmethod
    def _try(key: Key, enter: Callable[[], None]) -> None:
        try:
            enter()
        except ValueError as exc:
            log.warning("own message is of no use", subject=key.subject, reason=str(exc))

    def _exclude(self, key: PrefixKey | SeenKey, message: Any) -> None:
        is_hard = isinstance(key, PrefixKey)
        if isinstance(key, PrefixKey) and key.source == "node":
            self._node_changed(key.optional_name, exists=not isinstance(message, Tombstone))
        if isinstance(key, SeenKey) and key.node not in self.state.nodes:
            message = Tombstone()  # of a node that is gone
        self.state.put_uses(key.subject, uses_of(key, message), is_hard=is_hard)
        self.excluded_anew = self.excluded_anew or is_hard
        self.agenda.touch(self.state.uncovered())
        self.make_room()

    def _node_changed(self, node: str, *, exists: bool) -> None:
        if exists == (node in self.state.nodes):
            return
        if self.state.put_node(node, exists=exists):
            log.info("node gone, its addresses are free", node=node)
        if exists:
            self._nodes_came.add(node)
        seen = SeenKey(node)
        self._exclude(seen, self._mirrors.states.items.get(seen, Tombstone()))

    def _facts_changed(self, key: NodeKey, message: Any) -> None:
        if isinstance(message, state.NodeFacts):
            self.agenda.touch(self.state.put_facts(message))
        else:
            self.state.drop_facts(key.node)
        self.agenda.touch_waiting()

    def _status_changed(self, key: StatusKey, message: Any) -> bool:
        """Whether it freed an address."""
        request = RequestKey(key.namespace, key.pod, key.interface)
        if isinstance(message, Tombstone):
            is_free = self.state.gone(request, node=key.node, revision=message.revision)
        elif (applied := applied_of(key, message)) is None:
            return False
        else:
            try:
                is_free = self.state.stands(Holding.of(applied), node=key.node)
            except ValueError as exc:
                log.warning("status is ignored", subject=key.subject, reason=str(exc))
                return False
        if self.state.is_outrun(request):
            self.agenda.touch([request])
        return is_free

    def _hold_released(
        self, key: subjects.ConnectionKey, tombstone: Tombstone, *, is_gone: bool
    ) -> None:
        try:
            holding = Holding.of_tombstone(key, tombstone)
            formers = Holding.formers_of_tombstone(key, tombstone)
        except ValueError as exc:
            log.warning("tombstone names no address", subject=key.subject, reason=str(exc))
            return
        self.state.hold(holding)  # if only for a moment: the same Pod may have the same again
        for former in formers:
            self.state.hold(former)
        if is_gone:
            self.state.gone(holding.key, node=key.node, revision=tombstone.revision)
