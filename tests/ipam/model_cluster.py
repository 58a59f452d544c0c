"""A cluster in memory: a bus that keeps the last message, nodes with kernels that lag, and ipam's core between them.

Written from the design alone. The shell here is the obvious one: it settles every request after every step until
nothing changes any more. Nodes act when they are told to, and what they say reaches ipam when it is delivered.
"""

from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from schemas.codec import Tombstone
from schemas.grant import ClusterPrefixes, Connection, Refusal
from schemas.intent import Endpoint, PrefixesInUse, Request, UsedPrefix
from schemas.state import EndStatus, NodeFacts, Status
from schemas.subjects import (
    ClusterKey,
    ConnectionKey,
    Key,
    PoolKey,
    PrefixKey,
    RequestKey,
    StatusKey,
)
from schemas.values import parse_prefix
from services.ipam.core.settling import abandon, settle
from services.ipam.core.state import Holding, State, Use
from services.ipam.model import Supernet, Writes
from tests.checker import Picture

replace = msgspec.structs.replace
SUPERNETS = (
    Supernet(parse_prefix("100.112.0.0/16"), 28),
    Supernet(parse_prefix("fd6e:736d:6e61::/112"), 124),
)
ROUNDS = 20


class Cluster:
    """Intent, grants, kernels, and an ipam that may be restarted at any time."""

    def __init__(self) -> None:
        self.facts: dict[str, NodeFacts] = {}
        self.requests: dict[RequestKey, Request] = {}
        self.endpoints: dict[Any, Endpoint] = {}
        self.hard: set[str] = set()
        self.soft: set[str] = set()
        self.grants: dict[ConnectionKey, Connection | Tombstone] = {}
        self.refusals: dict[RequestKey, Refusal] = {}
        self.pools: dict[PoolKey, Any] = {}
        self.statuses: dict[StatusKey, Status | Tombstone] = {}
        self.delivered: dict[StatusKey, Status | Tombstone] = {}
        self.kernels: dict[StatusKey, Connection] = {}
        self.silent: set[str] = set()
        self.former: list[Connection] = []  # revisions that were replaced by another one
        self.unknown: dict[StatusKey, Connection] = {}  # what only a kernel knows of
        self.state = State(SUPERNETS)

    # what Kubernetes and people do

    def add_node(self, facts: NodeFacts) -> None:
        self.facts[facts.node] = facts
        self.state.put_node(facts.node, exists=True)
        self.state.put_facts(facts)
        self.state.put_excluded(*self._uses())

    def lose_node(self, node: str) -> None:
        """Kubernetes says that it is gone, and with it its Pods."""
        del self.facts[node]
        self.silent.discard(node)
        for shelf in (self.kernels, self.statuses, self.delivered):
            for key in [k for k in shelf if k.node == node]:
                del shelf[key]
        for lost in [k for k, r in self.requests.items() if r.pod.node == node]:
            del self.requests[lost]
        for gone in [k for k, e in self.endpoints.items() if e.pod.node == node]:
            self.put_endpoint(gone, None)
        self.state.put_node(node, exists=False)
        self.state.drop_facts(node)
        self.state.put_silent(self.silent)
        self.state.put_excluded(*self._uses())

    def put_endpoint(self, key: Any, endpoint: Endpoint | None) -> None:
        if endpoint is None:
            self.endpoints.pop(key, None)
        else:
            self.endpoints[key] = endpoint
        self.state.registry.put_endpoint(key, endpoint)

    def exclude(self, *, hard: Collection[str], soft: Collection[str]) -> None:
        self.hard, self.soft = set(hard), set(soft)
        self.state.put_excluded(*self._uses())

    # what ipam's shell does

    def settle_all(self) -> None:
        """Until nothing changes any more."""
        for _ in range(ROUNDS):
            written = [self.settle(key) for key in sorted(self.known(), key=words)]
            if not any(written):
                break
        else:
            raise AssertionError("settling does not come to rest")
        self.tell_pools()

    def known(self) -> set[RequestKey]:
        """Requests, and what stands without one."""
        granted = {request_key(k) for k, c in self.grants.items() if isinstance(c, Connection)}
        return {*self.requests, *granted, *self.refusals}

    def settle(self, key: RequestKey, *, readdress: bool = False) -> bool:
        """Answer one request, or its absence; whether anything was written."""
        writes = self.answer(key, readdress=readdress)
        self.write(writes)
        return bool(writes.granted or writes.released or writes.forgiven or writes.refused)

    def answer(self, key: RequestKey, *, readdress: bool = False) -> Writes:
        refusal = self.refusals.get(key)
        request = self.requests.get(key)
        if request is None:
            return abandon(self.state, key, refusal=refusal)
        reported = self.reported(key, request)
        return settle(self.state, request, refusal=refusal, reported=reported, readdress=readdress)

    def reported(self, key: RequestKey, request: Request) -> Connection | None:
        """What the client's node has delivered; where it is silent, what the endpoint's node has."""
        for where in sorted(self.delivered, key=words):
            status = self.delivered[where]
            if request_key(where) != key or not isinstance(status, Status):
                continue
            if status.client is not None and status.client.applied is not None:
                return status.client.applied
        if request.pod.node not in self.silent:
            return None
        for where in sorted(self.delivered, key=words):
            status = self.delivered[where]
            if (
                request_key(where) == key
                and isinstance(status, Status)
                and status.server is not None
            ):
                return status.server.applied
        return None

    def write(self, writes: Writes) -> None:
        for gone in writes.released:
            self.grants[gone.key] = tombstone(gone)
        if writes.forgiven is not None:
            forgiven = writes.forgiven
            del self.refusals[RequestKey(forgiven.namespace, forgiven.pod, forgiven.interface)]
        if writes.refused is not None:
            refused = writes.refused
            self.refusals[RequestKey(refused.namespace, refused.pod, refused.interface)] = refused
        if writes.granted is not None:
            for copy in copies(writes.granted):
                before = self.grants.get(copy.key)
                if isinstance(before, Connection):
                    self.former.append(before)
                self.grants[copy.key] = copy

    def readdress(self) -> list[RequestKey]:
        found = self.state.affected()
        for key in found:
            self.settle(key, readdress=True)
        return found

    def tell_pools(self) -> None:
        self.pools.clear()
        for owner in {(e.pod.namespace, e.endpoint) for e in self.endpoints.values()}:
            pool = self.state.figures(owner)
            if pool is not None:
                self.pools[pool.key] = pool

    def restart(self) -> None:
        """A new process: everything it knows it reads from the bus."""
        for where, has in self.kernels.items():
            if self._is_superseded(where, has):
                self.unknown[where] = has
        self.delivered = dict(self.statuses)
        self.state = State(SUPERNETS)
        for facts in self.facts.values():
            self.state.put_node(facts.node, exists=True)
            self.state.put_facts(facts)
        self.state.put_excluded(*self._uses())
        for endpoint_key, endpoint in self.endpoints.items():
            self.state.registry.put_endpoint(endpoint_key, endpoint)
        for pool in self.pools.values():
            self.state.remember_pool(pool)
        self.state.put_silent(self.silent)
        for key, found in self.grants.items():
            if isinstance(found, Tombstone):
                self.state.hold(Holding.of_tombstone(key, found))
        for found in self.grants.values():
            if isinstance(found, Connection) and found.node == found.client.pod.node:
                self.state.grant(found)
        for where, status in self.statuses.items():
            self._hear(where, status)
        for node in {k.node for k in self.grants} - self.facts.keys():
            self.state.put_node(node, exists=False)

    def deliver(self, key: StatusKey) -> None:
        """What a node said last reaches ipam, once more perhaps."""
        if key in self.statuses:
            self.delivered[key] = self.statuses[key]
            self._hear(key, self.statuses[key])

    def _hear(self, key: StatusKey, status: Status | Tombstone) -> None:
        request = request_key(key)
        if isinstance(status, Tombstone):
            self.state.gone(request, node=key.node, revision=status.revision)
            return
        for section in (status.client, status.server):
            if section is not None and section.applied is not None:
                self.state.stands(Holding.of(section.applied), node=key.node)

    def _uses(self) -> tuple[list[Use], list[Use]]:
        hard = [Use(parse_prefix(p), "the user") for p in sorted(self.hard)]
        return hard, [Use(parse_prefix(p), "a node") for p in sorted(self.soft)]

    # what nodes do

    def undelivered(self) -> list[StatusKey]:
        found = (k for k, s in self.statuses.items() if self.delivered.get(k) != s)
        return sorted(found, key=words)

    def work(self, node: str, *, dies: bool = False) -> list[StatusKey]:
        """What the bus says becomes what this node's kernel has; it says so, unless it dies in between.

        Silent nodes do nothing.
        """
        if node not in self.facts or node in self.silent:
            return []
        wanted = {k: g for k, g in self.grants.items() if k.node == node}
        keys = {status_key(k) for k in wanted} | {k for k in self.kernels if k.node == node}
        # It reads what it said, too: it may have died before it told an end.
        keys |= {
            k for k, s in self.statuses.items() if k.node == node and not isinstance(s, Tombstone)
        }
        statuses = dict(self.statuses)
        done = [k for k in sorted(keys, key=words) if self._apply(k, wanted.get(grant_key(k)))]
        if dies:
            self.statuses = statuses
        return done

    def _apply(self, key: StatusKey, wanted: Connection | Tombstone | None) -> bool:
        has = self.kernels.get(key)
        if isinstance(wanted, Connection):
            said = status_of(key.node, wanted)
            if has == wanted and self.statuses.get(key) == said:
                return False
            self.kernels[key] = wanted
            self.statuses[key] = said
            return True
        said_before = self.statuses.get(key)
        if has is None and wanted is None:
            if said_before is None or isinstance(said_before, Tombstone):
                return False
            end = said_before.client or said_before.server
            has = end.applied if end is not None else None
        # A grant that is absent though its writer wrote everything was taken back, too.
        self.kernels.pop(key, None)
        said_gone = wanted if wanted is not None else tombstone(has) if has else Tombstone()
        changed = self.statuses.get(key) != said_gone
        self.statuses[key] = said_gone
        return changed

    def wipe(self, silent: Collection[str]) -> None:
        """The bus is empty; nodes that are not silent write what they have; ipam begins anew."""
        for shelf in (self.grants, self.refusals, self.pools, self.statuses, self.delivered):
            shelf.clear()
        self.silent = set(silent)
        self.unknown = {k: has for k, has in self.kernels.items() if self._is_half(k, has)}
        for key, has in self.kernels.items():
            if key.node not in self.silent:
                self.statuses[key] = status_of(key.node, has)
        self.restart()

    def _is_half(self, key: StatusKey, has: Connection) -> bool:
        """Only a silent node has it: its tunnel leads nowhere yet, or not any more, so nobody can report it."""
        if key.node not in self.silent:
            return False
        others = {has.client.pod.node, has.server.pod.node} - self.silent
        return any(
            replace(has, node=node).key not in map(grant_key, self.kernels) for node in others
        )

    def _is_superseded(self, key: StatusKey, has: Connection) -> bool:
        """The node died before it told this revision, and the bus holds only the one that replaced it."""
        said, granted = self.statuses.get(key), self.grants.get(grant_key(key))
        is_told = isinstance(said, Status) and said.revision == has.revision
        replaced = isinstance(granted, Connection | Tombstone) and granted.revision != has.revision
        return not is_told and replaced

    def speak(self, node: str) -> None:
        """A silent node is back and says what it has."""
        self.silent.discard(node)
        for key, has in self.kernels.items():
            if key.node == node:
                self.statuses[key] = status_of(node, has)
                self.deliver(key)
        self.state.put_silent(self.silent)

    # what can be seen

    def granted(self) -> dict[RequestKey, Connection]:
        return {
            request_key(k): c
            for k, c in self.grants.items()
            if isinstance(c, Connection) and c.node == c.client.pod.node
        }

    def picture(self) -> Picture:
        """The bus as the independent checker reads it."""
        return Picture.of(self._messages())

    def _messages(self) -> Iterator[tuple[Any, Any]]:
        for shelf in (
            *(self.requests, self.endpoints, self.grants, self.pools, self.statuses),
            {facts.key: facts for facts in self.facts.values()},
            {refusal.key: refusal for refusal in self.refusals.values()},
        ):
            yield from shelf.items()
        used = tuple(UsedPrefix(prefix=p, used_by="the user") for p in sorted(self.hard))
        yield PrefixKey("user"), PrefixesInUse(source="user", prefixes=used)
        yield ClusterKey(), ClusterPrefixes(prefixes=self.state.cluster_prefixes())


def request_key(key: StatusKey | ConnectionKey) -> RequestKey:
    return RequestKey(key.namespace, key.pod, key.interface)


def status_key(key: ConnectionKey) -> StatusKey:
    return StatusKey(key.node, key.namespace, key.pod, key.interface)


def grant_key(key: StatusKey) -> ConnectionKey:
    return ConnectionKey(key.node, key.namespace, key.pod, key.interface)


def words(key: Key) -> str:
    """An order for keys."""
    return key.subject


def copies(connection: Connection) -> list[Connection]:
    nodes = {connection.client.pod.node: None, connection.server.pod.node: None}
    return [replace(connection, node=node) for node in nodes]


def status_of(node: str, connection: Connection) -> Status:
    def section(is_here: bool, uid: str) -> EndStatus | None:
        return EndStatus(uid=uid, state="ready", applied=connection) if is_here else None

    client, server = connection.client, connection.server
    return Status(
        node=node,
        namespace=client.pod.namespace,
        pod=client.pod.name,
        interface=client.interface,
        revision=connection.revision,
        client=section(client.is_on(node), client.pod.uid),
        server=section(server.is_on(node), server.pod.uid),
    )


def tombstone(connection: Connection) -> Tombstone:
    return Tombstone(
        released=connection.client.pod.uid,
        revision=connection.revision,
        endpoint=f"{connection.endpoint_namespace}/{connection.endpoint}",
        addresses=connection.client.addresses,
        peer_addresses=connection.server.addresses,
        vni=connection.vni,
    )
