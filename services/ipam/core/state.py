"""What ipam knows: a cache of the bus, with who holds which address.

Addresses are held by grants, and by connections that a node still has to take down.
"""

import ipaddress
from collections.abc import Callable, Iterable, Iterator

import msgspec

from schemas import grant, intent, values
from schemas.codec import Tombstone
from schemas.grant import Connection, PoolFigures
from schemas.grant import Pool as Figures
from schemas.subjects import ConnectionKey, EndpointKey, RequestKey
from schemas.values import Address, Prefix
from services.ipam.core import choosing
from services.ipam.core.pools import Excluded, Pool

REMEMBERED = (
    50_000  # connections whose addresses are given back to a Pod that returns under its name
)

ObjectKey = tuple[str, str]  # namespace and name of a NetworkServiceEndpoint object


class Use(msgspec.Struct, frozen=True):
    """A prefix in use, and by what."""

    prefix: Prefix
    by: str


class Holding(msgspec.Struct, frozen=True):
    """The addresses of a connection, and where they stand: what has to be kept until a node confirms."""

    key: RequestKey
    uid: str
    revision: int
    node: str
    object: ObjectKey
    client: tuple[Address, ...]
    server: tuple[Address, ...]
    is_released: bool = False  # we took it back; otherwise a node has it that we know nothing of

    @classmethod
    def of(cls, connection: Connection) -> "Holding":
        return cls(
            key=request_key(connection),
            uid=connection.client.pod.uid,
            revision=connection.revision,
            node=connection.node,
            object=object_key(connection),
            client=tuple(addresses_of(connection.client)),
            server=tuple(addresses_of(connection.server)),
        )

    @classmethod
    def of_tombstone(cls, key: ConnectionKey, tombstone: Tombstone) -> "Holding":
        """What a released grant held. Raises ValueError if the addresses are none."""
        namespace, _, name = tombstone.endpoint.partition("/")
        return cls(
            key=RequestKey(key.namespace, key.pod, key.interface),
            uid=tombstone.released,
            revision=tombstone.revision,
            node=key.node,
            object=(namespace, name),
            client=tuple(ipaddress.ip_interface(a).ip for a in tombstone.addresses),
            server=tuple(ipaddress.ip_interface(a).ip for a in tombstone.peer_addresses),
            is_released=True,
        )

    @property
    def addresses(self) -> tuple[Address, ...]:
        return (*self.client, *self.server)


class State:
    """Everything ipam knows. Addresses are held by grants and by what nodes still have to take down."""

    def __init__(self) -> None:
        self.registry = choosing.Registry()
        self.grants: dict[RequestKey, Connection] = {}
        self._remembered: dict[RequestKey, Holding] = {}
        self.nodes: set[str] = (
            set()
        )  # that Kubernetes knows: of others nobody will ever confirm anything
        self.excluded: list[Use] = []
        self._exclusions = Excluded()
        self.changed: set[ObjectKey] = set()  # pools whose figures may differ
        self._pools: dict[ObjectKey, Pool] = {}
        self._held: dict[RequestKey, list[Holding]] = {}
        self._load: dict[EndpointKey, int] = {}
        self._of_pod: dict[str, set[RequestKey]] = {}

    # --- what is known -------------------------------------------------------------------------------

    def put_excluded(self, excluded: Iterable[Use]) -> None:
        """Replace every prefix in use in the cluster."""
        uses = list(excluded)
        if uses == self.excluded:
            return
        self.excluded = uses
        self._exclusions = Excluded(use.prefix for use in uses)
        for pool in self._pools.values():
            pool.exclude(self._exclusions)
        self.changed.update(self._pools)

    def pool(self, endpoint: intent.Endpoint) -> Pool:
        """The pool of an endpoint's object, made anew when its spec changed. Raises ValueError."""
        key = (endpoint.pod.namespace, endpoint.endpoint)
        pool = self._pools.get(key)
        if pool is None or pool.spec != endpoint.ipam:
            pool = Pool(endpoint.ipam, self._exclusions)
            self._pools[key] = pool
            self.changed.add(key)
            for holding in self._holdings():
                if holding.object == key:
                    self._enter(holding)
        return pool

    def grant(self, connection: Connection) -> None:
        """A connection stands (granted by us, or read from the bus)."""
        key = request_key(connection)
        self._forget(key)
        self.grants[key] = connection
        endpoint = endpoint_key(connection)
        self._load[endpoint] = self._load.get(endpoint, 0) + 1
        for uid in (connection.client.pod.uid, connection.server.pod.uid):
            self._of_pod.setdefault(uid, set()).add(key)
        self._enter(Holding.of(connection))

    def hold(self, holding: Holding) -> None:
        """A node may still have this in its kernel, granted or not: nobody else gets its addresses."""
        if holding.node not in self.nodes:
            self._remember(holding)
            return
        same = [h for h in self._held.get(holding.key, ()) if _same(h, holding)]
        if any(held.is_released for held in same):
            return
        others = [h for h in self._held.get(holding.key, ()) if h not in same]
        self._held[holding.key] = [*others, holding]
        self._enter(holding)

    def release(self, key: RequestKey) -> Connection | None:
        """Withdraw a grant. Its addresses stay held until a node says that they are gone."""
        connection = self.grants.get(key)
        if connection is not None:
            self.hold(msgspec.structs.replace(Holding.of(connection), is_released=True))
            self._forget(key)
        return connection

    def gone(self, key: RequestKey, *, node: str, revision: int) -> bool:
        """A node says that of `key` nothing up to `revision` stands on it. Whether that freed anything."""
        return self._drop(key, lambda held: held.node == node and held.revision <= revision)

    def stands(self, holding: Holding) -> bool:
        """A node says that this stands, and so of this key nothing older on it. Whether that freed anything."""
        granted = self.grants.get(holding.key)
        if granted is None or not _same(Holding.of(granted), holding):
            self.hold(holding)
        return self.gone(holding.key, node=holding.node, revision=holding.revision - 1)

    def put_node(self, node: str, *, exists: bool) -> bool:
        """Kubernetes knows a node, or not any more: then nothing stands there. Whether that freed anything."""
        if exists:
            self.nodes.add(node)
            return False
        self.nodes.discard(node)
        freed = [self._drop(key, lambda held: held.node == node) for key in list(self._held)]
        return any(freed)

    def held(self, key: RequestKey) -> list[Holding]:
        """What nodes still have to take down of `key`, or have without a grant."""
        return list(self._held.get(key, ()))

    def last_known(self, key: RequestKey) -> Holding | None:
        """What a (namespace, pod, interface) has, still holds, or had last."""
        if key in self.grants:
            return Holding.of(self.grants[key])
        held = self._held.get(key)
        return max(held, key=lambda h: h.revision) if held else self._remembered.get(key)

    def load(self, endpoint: EndpointKey) -> int:
        """Connections that an endpoint Pod serves."""
        return self._load.get(endpoint, 0)

    def figures(self, object_: ObjectKey) -> Figures | None:
        """What a pool holds; None if its endpoint is gone, or has a bad spec, and all is given back."""
        endpoints = self.registry.endpoints.items()
        endpoint = next((e for k, e in endpoints if (k.namespace, k.endpoint) == object_), None)
        try:
            pool = self._pools.get(object_) if endpoint is None else self.pool(endpoint)
        except ValueError:
            return None
        if pool is None:
            return None
        if endpoint is None and not pool.used():
            del self._pools[object_]
            return None
        return Figures(
            namespace=object_[0],
            endpoint=object_[1],
            families=tuple(
                PoolFigures(
                    family=family,
                    prefixes=tuple(str(p) for p in pool.prefixes if p.version == family),
                    size=pool.size(family),
                    used=pool.used(family),
                    free=pool.free(family),
                )
                for family in pool.families
            ),
        )

    def connections_of(self, uid: str) -> list[Connection]:
        """Connections of a Pod, in either role."""
        return [
            self.grants[key] for key in sorted(self._of_pod.get(uid, ()), key=lambda k: k.subject)
        ]

    def used_by_pod(
        self, uid: str, *, but: RequestKey, shared_of: ObjectKey | None = None
    ) -> Iterator[Use]:
        """Prefixes that a Pod's other connections use.

        `shared_of`: the object whose own address on this Pod may appear on one more of its links.
        """
        for connection in self.connections_of(uid):
            key = request_key(connection)
            if key == but:
                continue
            what = f"connection {key.interface} of pod {key.namespace}/{key.pod}"
            is_server = connection.server.pod.uid == uid
            may_share = is_server and object_key(connection) == shared_of
            ends = [connection.client] if may_share else [connection.client, connection.server]
            for end in ends:
                for text in end.addresses:
                    yield Use(values.parse_prefix_loosely(text), what)
            for route in () if is_server else connection.client.routes:
                yield Use(values.parse_prefix(route.destination), f"a route of {what}")

    # --- keeping count -------------------------------------------------------------------------------

    def _forget(self, key: RequestKey) -> None:
        connection = self.grants.pop(key, None)
        if connection is None:
            return
        endpoint = endpoint_key(connection)
        self._load[endpoint] -= 1
        if not self._load[endpoint]:
            del self._load[endpoint]
        for uid in (connection.client.pod.uid, connection.server.pod.uid):
            self._of_pod.get(uid, set()).discard(key)
            if not self._of_pod.get(uid):
                self._of_pod.pop(uid, None)
        self._leave(Holding.of(connection))

    def _holdings(self) -> Iterator[Holding]:
        yield from (Holding.of(connection) for connection in self.grants.values())
        for held in self._held.values():
            yield from held

    def _drop(self, key: RequestKey, is_gone: Callable[[Holding], bool]) -> bool:
        freed = False
        for holding in [h for h in self._held.get(key, ()) if is_gone(h)]:
            self._held[key].remove(holding)
            self._remember(holding)
            freed = self._leave(holding) or freed
        if key in self._held and not self._held[key]:
            del self._held[key]
        return freed

    def _remember(self, holding: Holding) -> None:
        self._remembered.pop(holding.key, None)
        self._remembered[holding.key] = holding
        if len(self._remembered) > REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def _enter(self, holding: Holding) -> None:
        self.changed.add(holding.object)
        pool = self._pools.get(holding.object)
        if pool is not None:
            pool.hold(holding.key.subject, client=holding.client, server=holding.server)

    def _leave(self, holding: Holding) -> bool:
        """Free what neither the grant of this key nor anything still held for it needs."""
        users = list(self._held.get(holding.key, ()))
        if holding.key in self.grants:
            users.append(Holding.of(self.grants[holding.key]))
        needed = {a for user in users if user.object == holding.object for a in user.addresses}
        free = [address for address in holding.addresses if address not in needed]
        self.changed.add(holding.object)
        pool = self._pools.get(holding.object)
        if pool is not None:
            pool.release(holding.key.subject, free)
        return bool(free)


def request_key(connection: Connection) -> RequestKey:
    """The key of the request that a connection answers."""
    pod = connection.client.pod
    return RequestKey(pod.namespace, pod.name, connection.client.interface)


def endpoint_key(connection: Connection) -> EndpointKey:
    """The endpoint Pod at the other end."""
    return EndpointKey(
        connection.endpoint_namespace, connection.endpoint, connection.server.pod.name
    )


def object_key(connection: Connection) -> ObjectKey:
    """The NetworkServiceEndpoint object whose pool a connection draws from."""
    return connection.endpoint_namespace, connection.endpoint


def addresses_of(end: grant.End) -> list[Address]:
    """An end's addresses without their lengths."""
    return [ipaddress.ip_interface(text).ip for text in end.addresses]


def _same(one: Holding, other: Holding) -> bool:
    return (one.node, one.uid, one.revision) == (other.node, other.uid, other.revision)
