"""What the bus holds at one moment, by kind."""

from collections.abc import Iterable, Mapping
from typing import Any, Self

import msgspec

from schemas import grant, intent, state, subjects
from schemas.codec import Tombstone
from tests.checker.spans import Span, span

READ = tuple(kind for kind in subjects.KEYS if kind not in {"leader", "lease", "alive", "resolver"})

Object = tuple[str, str]  # namespace and name


class Picture(msgspec.Struct, kw_only=True):
    """Every last message. What has a tombstone is absent."""

    requests: dict[subjects.RequestKey, intent.Request] = {}
    endpoints: dict[subjects.EndpointKey, intent.Endpoint] = {}
    services: dict[subjects.NetworkServiceKey, intent.NetworkService] = {}
    prefixes: dict[subjects.PrefixKey, intent.PrefixesInUse] = {}
    connections: dict[subjects.ConnectionKey, grant.Connection] = {}
    refusals: dict[subjects.RefusalKey, grant.Refusal] = {}
    pools: dict[subjects.PoolKey, grant.Pool] = {}
    cluster: dict[subjects.ClusterKey, grant.ClusterPrefixes] = {}
    statuses: dict[subjects.StatusKey, state.Status] = {}
    facts: dict[subjects.NodeKey, state.NodeFacts] = {}
    seen: dict[subjects.SeenKey, state.SeenPrefixes] = {}

    @classmethod
    def of(cls, messages: Iterable[tuple[Any, Any]]) -> Self:
        """From (key, message) pairs; a later one replaces an earlier one."""
        picture = cls()
        for key, message in messages:
            picture.put(key, message)
        return picture

    def put(self, key: Any, message: Any) -> None:
        shelf = self._shelf(key)
        if shelf is None:
            return
        if isinstance(message, Tombstone):
            shelf.pop(key, None)
        else:
            shelf[key] = message

    def _shelf(self, key: Any) -> dict[Any, Any] | None:
        shelves: Mapping[type[Any], dict[Any, Any]] = {
            subjects.RequestKey: self.requests,
            subjects.EndpointKey: self.endpoints,
            subjects.NetworkServiceKey: self.services,
            subjects.PrefixKey: self.prefixes,
            subjects.ConnectionKey: self.connections,
            subjects.RefusalKey: self.refusals,
            subjects.PoolKey: self.pools,
            subjects.ClusterKey: self.cluster,
            subjects.StatusKey: self.statuses,
            subjects.NodeKey: self.facts,
            subjects.SeenKey: self.seen,
        }
        return shelves.get(type(key))

    def grants(self) -> list[grant.Connection]:
        """Each connection once: the message under its client's node."""
        return [c for c in self.connections.values() if c.node == c.client.pod.node]

    def exclusions(self) -> list[Span]:
        """What nothing of ours may overlap, with whose it is."""
        return [
            span(p.prefix, f"{p.prefix} ({p.used_by})")
            for message in self.prefixes.values()
            for p in message.prefixes
        ]

    def objects(self) -> dict[Object, intent.Endpoint]:
        """Endpoint objects by one of their Pods: all replicas carry the same spec."""
        return {(e.pod.namespace, e.endpoint): e for e in self.endpoints.values()}


def name(connection: grant.Connection) -> str:
    """A connection in words."""
    pod = connection.client.pod
    return f"{pod.namespace}/{pod.name}/{connection.client.interface}"


def object_of(connection: grant.Connection) -> Object:
    return connection.endpoint_namespace, connection.endpoint
