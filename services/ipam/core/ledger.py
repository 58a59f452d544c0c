"""Who has what: grants, and what nodes still have to take down, with all that is counted along.

Whatever changes, changes what hangs on it and nothing else: nothing here walks over all connections.
"""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from schemas.grant import Connection
from schemas.state import NodeFacts
from schemas.subjects import EndpointKey, RequestKey
from services.ipam.core.automatic import Automatic
from services.ipam.core.blocks import Host
from services.ipam.core.exclusions import Exclusions, Use
from services.ipam.core.holdings import Holding, ObjectKey, endpoint_key
from services.ipam.core.linking import Vnis
from services.ipam.core.paths import Paths
from services.ipam.core.pod_uses import PodUses
from services.ipam.core.pools import Pools
from services.ipam.core.registry import Registry
from services.ipam.core.table import Table
from services.ipam.model import Supernet

REMEMBERED = (
    50_000  # connections whose addresses are given back to a Pod that returns under its name
)
COUNTED = 200_000  # connections whose last revision is known though nothing of them stands


class Ledger:
    """Addresses, routes and tunnel numbers, and whose they are."""

    def __init__(self, supernets: Sequence[Supernet] = ()) -> None:
        self.registry = Registry()
        self.exclusions = Exclusions()
        self.automatic = Automatic(supernets)
        self.pools = Pools(self.registry, self.exclusions, self.automatic, self._claims_of)
        self.pods = PodUses()
        # What nodes still have to take down. Looked at when all is decided (`waiting`), not while choosing: there
        # an interface that is only renamed would get another endpoint, or another address of it, for good.
        self.leaving = PodUses()
        self.vnis = Vnis()
        self.paths = Paths()
        self.grants: dict[RequestKey, Connection] = {}
        self.nodes: set[str] = set()  # that Kubernetes knows
        # That it knew once, or was said to have none of: nobody will ever confirm anything of them.
        self._lost: set[str] = set()
        self.facts: dict[str, NodeFacts] = {}
        self.silent: frozenset[str] = frozenset()
        self._granted: dict[RequestKey, Holding] = {}
        self._held: dict[RequestKey, list[Holding]] = {}
        self._remembered: dict[RequestKey, Holding] = {}
        self._counted: dict[RequestKey, int] = {}  # highest revision that ended
        self._presumed: dict[str, set[tuple[RequestKey, int]]] = {}  # of silent nodes
        self._of_object: dict[ObjectKey, dict[RequestKey, int]] = {}  # who holds anything of it
        self._on_node: dict[str, set[RequestKey]] = {}
        self._routed: Table[ObjectKey, int] = Table()  # routes of grants, by how many
        self._served: dict[EndpointKey, set[RequestKey]] = {}
        self._affected: set[RequestKey] = set()
        self._covered: set[RequestKey] = set()  # whose grants say that they are
        self._merged: tuple[str, ...] | None = None  # of all hard exclusions; None: to be found

    def grant(self, connection: Connection, *, is_new: bool = False) -> None:
        """A connection stands. Raises ValueError for one that cannot be.

        `is_new`: what it replaces is held already. Read from the bus, it is held by what the connection tells of it,
        until its nodes have said this revision.
        """
        holding = Holding.of(connection)
        formers = [
            Holding.of_former(each, holding.key, node=holding.node, nodes=holding.nodes)
            for each in (() if is_new else connection.held)
        ]
        self._forget(holding.key)
        self.grants[holding.key] = connection
        self._granted[holding.key] = holding
        self._served.setdefault(endpoint_key(connection), set()).add(holding.key)
        self.registry.count(endpoint_key(connection), 1)
        for node in holding.nodes:
            self._on_node.setdefault(node, set()).add(holding.key)
        for route in holding.routes:
            self._routed.put(
                route, holding.object, (self._routed.get(route, holding.object) or 0) + 1
            )
        self.pods.put(holding)
        self._enter(holding)
        if self.overlap_of(holding) is not None:
            self._affected.add(holding.key)
        if connection.covered:
            self._covered.add(holding.key)
        for former in formers:
            self.hold(former)

    def hold(self, holding: Holding) -> None:
        """Nodes may still have this in their kernels, granted or not: nobody else gets its addresses."""
        holding = msgspec.structs.replace(holding, nodes=holding.nodes - self._lost)
        if not holding.nodes:
            self._remember(holding)
            return
        held = self._held.get(holding.key, [])
        same = next((each for each in held if each.is_same(holding)), None)
        if same is not None:
            holding = _together(same, holding)
            held.remove(same)
            self.leaving.drop(same)
        self._held[holding.key] = [*held, holding]
        self.leaving.put(holding)
        self._enter(holding)
        if same is not None:
            self._leave(same)

    def release(self, key: RequestKey) -> Connection | None:
        """Withdraw a grant. Its addresses stay held until its nodes say that they are gone."""
        connection = self.grants.get(key)
        if connection is not None:
            self.hold(msgspec.structs.replace(self._granted[key], is_released=True))
            self._forget(key)
        return connection

    def gone(self, key: RequestKey, *, node: str, revision: int) -> bool:
        """A node says that of `key` nothing up to `revision` stands on it. Whether that freed anything."""
        self._count(key, revision)
        return self._gone(key, node, revision)

    def stands(self, holding: Holding, *, node: str = "") -> bool:
        """A node says that this stands there, and so of this key nothing older. Whether that freed anything.

        `node`: that of the status; the client's if not named. What a silent node has of a connection is held as well.
        """
        node = node or holding.node
        granted = self._granted.get(holding.key)
        self._presumed.get(node, set()).discard((holding.key, holding.revision))
        if granted is None or not granted.is_same(holding):
            silent = (holding.nodes & self.silent) - {node}
            for other in silent:
                self._presumed.setdefault(other, set()).add((holding.key, holding.revision))
            self.hold(msgspec.structs.replace(holding, nodes=silent | {node}))
        return self._gone(holding.key, node, holding.revision - 1)

    def held(self, key: RequestKey) -> list[Holding]:
        """What nodes still have to take down of `key`, or have without a grant."""
        return list(self._held.get(key, ()))

    def last_known(self, key: RequestKey) -> Holding | None:
        """What a (namespace, pod, interface) has, or else the newest that it still holds or had."""
        if key in self._granted:
            return self._granted[key]
        known = list(self._held.get(key, ()))
        if key in self._remembered:
            known.append(self._remembered[key])
        return max(known, key=lambda each: each.revision, default=None)

    def last_revision(self, key: RequestKey) -> int:
        """The highest that is known of a (namespace, pod, interface): the next one is above it.

        A node's word on one revision speaks of all below it, so no number is ever given twice.
        """
        last = self._counted.get(key, 0)
        if (granted := self._granted.get(key)) is not None:
            last = max(last, granted.revision)
        for held in self._held.get(key, ()):
            last = max(last, held.revision)
        return last

    def is_outrun(self, key: RequestKey) -> bool:
        """Whether something newer than what is granted is, or was, known: nodes believe the newest."""
        granted = self._granted.get(key)
        return granted is not None and granted.revision < self.last_revision(key)

    def load(self, endpoint: EndpointKey) -> int:
        """Connections that an endpoint Pod serves."""
        return len(self._served.get(endpoint, ()))

    def served(self, endpoint: EndpointKey) -> set[RequestKey]:
        """The connections that an endpoint Pod serves."""
        return set(self._served.get(endpoint, ()))

    # --- what came to be in use ----------------------------------------------------------------------

    def overlap_of(self, holding: Holding) -> Use | None:
        """A hard exclusion that overlaps an address or a route of a connection. A default route may."""
        for host in (*holding.client, *holding.server):
            use = self.exclusions.hard_of_host(host)
            if use is not None:
                return use
        for route in holding.routes:
            if route[2] and (use := next(self.exclusions.hard(route), None)) is not None:
                return use
        return None

    def _check(self, keys: Iterable[RequestKey]) -> None:
        for key in list(keys):
            holding = self._granted.get(key)
            if holding is not None and self.overlap_of(holding) is not None:
                self._affected.add(key)
            else:
                self._affected.discard(key)

    # --- keeping count -------------------------------------------------------------------------------

    def _forget(self, key: RequestKey) -> None:
        connection = self.grants.pop(key, None)
        if connection is None:
            return
        holding = self._granted.pop(key)
        self._affected.discard(key)
        self._covered.discard(key)
        self.paths.lost.discard(key)
        endpoint = endpoint_key(connection)
        self._served[endpoint].discard(key)
        self.registry.count(endpoint, -1)
        if not self._served[endpoint]:
            del self._served[endpoint]
        for node in holding.nodes:
            self._on_node[node].discard(key)
            if not self._on_node[node]:
                del self._on_node[node]
        for route in holding.routes:
            count = (self._routed.get(route, holding.object) or 0) - 1
            if count > 0:
                self._routed.put(route, holding.object, count)
            else:
                self._routed.drop(route, holding.object)
        self.pods.drop(holding)
        self._leave(holding)

    def _gone(self, key: RequestKey, node: str, revision: int) -> bool:
        return self._let_go(key, node, lambda held: held.revision <= revision)

    def _let_go(
        self,
        key: RequestKey,
        node: str,
        is_gone: Callable[[Holding], bool] = lambda _: True,
    ) -> bool:
        """A node has nothing of these any more."""
        freed = False
        for holding in [h for h in self._held.get(key, ()) if node in h.nodes and is_gone(h)]:
            self._held[key].remove(holding)
            self.leaving.drop(holding)
            rest = msgspec.structs.replace(holding, nodes=holding.nodes - {node})
            if rest.nodes:
                self._held[key].append(rest)
                self.leaving.put(rest)
                freed = True  # for the Pod on that node, nobody else
                continue
            self._remember(rest)
            if not self._held[key]:
                del self._held[key]
            freed = self._leave(rest) or freed
        return freed

    def _remember(self, holding: Holding) -> None:
        self._count(holding.key, holding.revision)
        newest = self._remembered.pop(holding.key, holding)
        self._remembered[holding.key] = max(holding, newest, key=lambda each: each.revision)
        if len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _count(self, key: RequestKey, revision: int) -> None:
        self._counted[key] = max(revision, self._counted.pop(key, 0))
        if len(self._counted) > COUNTED:
            del self._counted[next(iter(self._counted))]

    def _enter(self, holding: Holding) -> None:
        owners = self._of_object.setdefault(holding.object, {})
        owners[holding.key] = owners.get(holding.key, 0) + 1
        for host in (*holding.client, *holding.server):
            self.automatic.count(holding.object, host, 1)
        if holding.vni:
            self.vnis.take(holding.vni, holding.key)
        self.pools.changed.add(holding.object)
        pool = self.pools.get(holding.object)
        if pool is not None:
            pool.put(holding.key, (), self._claims(holding.key, holding.object))

    def _leave(self, holding: Holding) -> bool:
        """Free what neither the grant of this key nor anything still held for it needs."""
        owners = self._of_object[holding.object]
        owners[holding.key] -= 1
        if not owners[holding.key]:
            del owners[holding.key]
        if not owners:
            del self._of_object[holding.object]
        for host in (*holding.client, *holding.server):
            self.automatic.count(holding.object, host, -1)
        if holding.vni:
            self.vnis.give_back(holding.vni, holding.key)
        self.pools.changed.add(holding.object)
        pool = self.pools.get(holding.object)
        if pool is None:
            return True
        before = holding.claims(is_granted=False)
        return pool.put(holding.key, before, self._claims(holding.key, holding.object))

    def _claims_of(self, object_: ObjectKey) -> dict[RequestKey, dict[Host, int]]:
        # The pool is being made: what came to be in use before it could not tell whom it affects.
        self._check(self._of_object.get(object_, ()))
        return {key: self._claims(key, object_) for key in self._of_object.get(object_, ())}

    def _claims(self, key: RequestKey, object_: ObjectKey) -> dict[Host, int]:
        """All that `key` has of an object's pool, granted or held."""
        claims: dict[Host, int] = {}
        for held in self._held.get(key, ()):
            if held.object == object_:
                for host, flags in held.claims(is_granted=False).items():
                    claims[host] = claims.get(host, 0) | flags
        granted = self._granted.get(key)
        if granted is not None and granted.object == object_:
            for host, flags in granted.claims(is_granted=True).items():
                claims[host] = claims.get(host, 0) | flags
        return claims


def _together(one: Holding, other: Holding) -> Holding:
    """Two words about one revision: all nodes that either names, released if either says so."""
    return msgspec.structs.replace(
        one if one.server_uid else other,
        nodes=one.nodes | other.nodes,
        is_released=one.is_released or other.is_released,
    )
