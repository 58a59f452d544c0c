"""Who offers what: endpoints and network services as the watcher tells them, with the indexes that choosing needs."""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TypeVar

import msgspec

from schemas import intent
from schemas.subjects import EndpointKey, NetworkServiceKey
from services.ipam.core import blocks
from services.ipam.core.blocks import Block
from services.ipam.core.holdings import ObjectKey
from services.ipam.core.table import Table

Name = TypeVar("Name", str, tuple[str, str])


class Group(msgspec.Struct, frozen=True):
    """Endpoint Pods that one route of a rule, or the annotation's labels, select; those of a node are found at once."""

    weight: int
    members: frozenset[EndpointKey]
    on_node: Mapping[str, list[EndpointKey]]

    @classmethod
    def of(cls, endpoints: Iterable[tuple[EndpointKey, intent.Endpoint]], weight: int) -> "Group":
        on_node: dict[str, list[EndpointKey]] = {}
        for key, endpoint in endpoints:
            on_node.setdefault(endpoint.pod.node, []).append(key)
        return cls(weight, frozenset(key for keys in on_node.values() for key in keys), on_node)


class Registry:
    """Changed by `put_endpoint` and `put_network_service` alone: indexes follow."""

    def __init__(self) -> None:
        self.endpoints: dict[EndpointKey, intent.Endpoint] = {}
        self.objects: dict[ObjectKey, dict[EndpointKey, intent.Endpoint]] = {}
        self.offers: dict[tuple[str, str], dict[EndpointKey, intent.Endpoint]] = {}
        self.declared: Table[ObjectKey, int] = Table()  # prefixes and routes, by how many Pods
        self._network_services: dict[NetworkServiceKey, intent.NetworkService] = {}
        self._homes: dict[str, Counter[str]] = {}  # network service → namespaces that know it
        self._nodes: dict[ObjectKey, Counter[str]] = {}
        self._selections: dict[tuple[str, str], dict[object, tuple[Group, ...]]] = {}

    @property
    def network_services(self) -> Mapping[NetworkServiceKey, intent.NetworkService]:
        return MappingProxyType(self._network_services)

    def put_endpoint(self, key: EndpointKey, endpoint: intent.Endpoint | None) -> set[str]:
        """Add, replace or (None) remove an endpoint Pod; returns the network services it touches."""
        object_ = (key.namespace, key.endpoint)
        before = self.endpoints.pop(key, None)
        if before is not None:
            self._leave(key, object_, before)
        if endpoint is not None:
            self._enter(key, object_, endpoint)
        pods = (each for each in (before, endpoint) if each is not None)
        touched = {name for each in pods for name in each.network_services}
        for name in touched:
            self._selections.pop((key.namespace, name), None)
        return touched

    def put_network_service(
        self, key: NetworkServiceKey, network_service: intent.NetworkService | None
    ) -> None:
        """Add, replace or (None) remove a NetworkService."""
        if self._network_services.pop(key, None) is not None:
            _uncount(self._homes, key.name, key.namespace)
        if network_service is not None:
            self._network_services[key] = network_service
            self._homes.setdefault(key.name, Counter())[key.namespace] += 1
        self._selections.pop((key.namespace, key.name), None)

    def is_known(self, namespace: str, name: str) -> bool:
        """Whether a network service of that name is declared or offered in a namespace."""
        return namespace in self._homes.get(name, ())

    def namespaces_of(self, name: str) -> set[str]:
        """Namespaces in which a network service of that name is declared or offered."""
        return set(self._homes.get(name, ()))

    def nodes_of(self, object_: ObjectKey) -> Mapping[str, int]:
        """Nodes with Pods of an endpoint, and how many."""
        return self._nodes.get(object_, Counter())

    def selections(self, namespace: str, name: str) -> dict[object, tuple[Group, ...]]:
        """What was selected of a network service; forgotten whenever one of its endpoints changes."""
        return self._selections.setdefault((namespace, name), {})

    def _enter(self, key: EndpointKey, object_: ObjectKey, endpoint: intent.Endpoint) -> None:
        self.endpoints[key] = endpoint
        self.objects.setdefault(object_, {})[key] = endpoint
        self._nodes.setdefault(object_, Counter())[endpoint.pod.node] += 1
        for name in endpoint.network_services:
            self.offers.setdefault((key.namespace, name), {})[key] = endpoint
            self._homes.setdefault(name, Counter())[key.namespace] += 1
        for block in _declared(endpoint):
            self.declared.put(block, object_, (self.declared.get(block, object_) or 0) + 1)

    def _leave(self, key: EndpointKey, object_: ObjectKey, endpoint: intent.Endpoint) -> None:
        _unlist(self.objects, object_, key)
        _uncount(self._nodes, object_, endpoint.pod.node)
        for name in endpoint.network_services:
            _unlist(self.offers, (key.namespace, name), key)
            _uncount(self._homes, name, key.namespace)
        for block in _declared(endpoint):
            count = (self.declared.get(block, object_) or 1) - 1
            if count:
                self.declared.put(block, object_, count)
            else:
                self.declared.drop(block, object_)


def _declared(endpoint: intent.Endpoint) -> list[Block]:
    """Prefixes and routes that an endpoint names; what is none is told where it is used."""
    routes = [*endpoint.routes, *(r for policy in endpoint.policies for r in policy.routes)]
    found = []
    for text in [*endpoint.ipam.prefixes, *(route.destination for route in routes)]:
        try:
            block = blocks.read_block(text)
        except ValueError:
            continue
        if block[2]:  # a default route takes nothing from anybody
            found.append(block)
    return found


def _unlist(
    lists: dict[tuple[str, str], dict[EndpointKey, intent.Endpoint]],
    name: tuple[str, str],
    key: EndpointKey,
) -> None:
    lists[name].pop(key, None)
    if not lists[name]:
        del lists[name]


def _uncount(counters: dict[Name, Counter[str]], name: Name, what: str) -> None:
    counters[name][what] -= 1
    if counters[name][what] <= 0:
        del counters[name][what]
    if not counters[name]:
        del counters[name]
