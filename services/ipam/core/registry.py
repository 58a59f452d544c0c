"""Who offers what: endpoints and network services as the watcher tells them, with the indexes that choosing needs."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from schemas import intent
from schemas.subjects import EndpointKey, NetworkServiceKey
from services.ipam.core import blocks
from services.ipam.core.blocks import Block
from services.ipam.core.holdings import ObjectKey
from services.ipam.core.offering import Offers
from services.ipam.core.table import Table

Name = TypeVar("Name", str, tuple[str, str])


class Registry:
    """Changed by `put_endpoint`, `put_network_service` and `count` alone: indexes follow."""

    def __init__(self) -> None:
        self.endpoints: dict[EndpointKey, intent.Endpoint] = {}
        self.objects: dict[ObjectKey, dict[EndpointKey, intent.Endpoint]] = {}
        self.offers: dict[tuple[str, str], Offers] = {}
        self.offered: dict[str, set[str]] = {}  # namespace → network services that it has Pods for
        self.declared: Table[ObjectKey, int] = Table()  # prefixes and routes, by how many Pods
        self._network_services: dict[NetworkServiceKey, intent.NetworkService] = {}
        self._homes: dict[str, Counter[str]] = {}  # network service → namespaces that know it
        self._nodes: dict[ObjectKey, Counter[str]] = {}
        self._specs: dict[ObjectKey, intent.IpamSpec] = {}
        self._load: dict[EndpointKey, int] = {}

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
        self._declare(object_, before, endpoint)
        if endpoint is not None:
            # While an edit is being published, replicas differ: what was told last is the object's.
            if before is None or before.ipam != endpoint.ipam:
                self._specs[object_] = endpoint.ipam
        elif object_ not in self.objects:
            self._specs.pop(object_, None)
        touched = {
            name
            for each in (before, endpoint)
            if each is not None
            for name in each.network_services
        }
        for name in touched:
            self._offer(key, name, endpoint)
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
        offers = self.offers.get((key.namespace, key.name))
        if offers is not None:
            offers.forget_selections()

    def count(self, key: EndpointKey, by: int) -> None:
        """An endpoint Pod serves more connections, or fewer."""
        load = self._load[key] = self._load.get(key, 0) + by
        if not load:
            del self._load[key]
        endpoint = self.endpoints.get(key)
        for name in endpoint.network_services if endpoint is not None else ():
            self.offers[key.namespace, name].count(key, load)

    def load(self, key: EndpointKey) -> int:
        """Connections that an endpoint Pod serves."""
        return self._load.get(key, 0)

    def spec_of(self, object_: ObjectKey) -> intent.IpamSpec | None:
        """Where the addresses of an endpoint come from, as it was told last."""
        return self._specs.get(object_)

    def is_known(self, namespace: str, name: str) -> bool:
        """Whether a network service of that name is declared or offered in a namespace."""
        return namespace in self._homes.get(name, ())

    def namespaces_of(self, name: str) -> set[str]:
        """Namespaces in which a network service of that name is declared or offered."""
        return set(self._homes.get(name, ()))

    def nodes_of(self, object_: ObjectKey) -> Mapping[str, int]:
        """Nodes with Pods of an endpoint, and how many."""
        return self._nodes.get(object_, Counter())

    def _enter(self, key: EndpointKey, object_: ObjectKey, endpoint: intent.Endpoint) -> None:
        self.endpoints[key] = endpoint
        self.objects.setdefault(object_, {})[key] = endpoint
        self._nodes.setdefault(object_, Counter())[endpoint.pod.node] += 1
        for name in endpoint.network_services:
            self._homes.setdefault(name, Counter())[key.namespace] += 1

    def _leave(self, key: EndpointKey, object_: ObjectKey, endpoint: intent.Endpoint) -> None:
        self.objects[object_].pop(key)
        if not self.objects[object_]:
            del self.objects[object_]
        _uncount(self._nodes, object_, endpoint.pod.node)
        for name in endpoint.network_services:
            _uncount(self._homes, name, key.namespace)

    def _declare(
        self, object_: ObjectKey, before: intent.Endpoint | None, after: intent.Endpoint | None
    ) -> None:
        """New ones first: what both declare is never gone in between."""
        for block in _declared(after) if after is not None else ():
            self.declared.put(block, object_, (self.declared.get(block, object_) or 0) + 1)
        for block in _declared(before) if before is not None else ():
            count = (self.declared.get(block, object_) or 1) - 1
            if count:
                self.declared.put(block, object_, count)
            else:
                self.declared.drop(block, object_)

    def _offer(self, key: EndpointKey, name: str, endpoint: intent.Endpoint | None) -> None:
        is_offered = endpoint is not None and name in endpoint.network_services
        offers = self.offers.setdefault((key.namespace, name), Offers(key.namespace, self.load))
        offers.put(key, endpoint if is_offered else None)
        if offers.endpoints:
            self.offered.setdefault(key.namespace, set()).add(name)
        else:
            del self.offers[key.namespace, name]
            _discard(self.offered, key.namespace, name)


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


def _discard(sets: dict[str, set[str]], of: str, what: str) -> None:
    members = sets.get(of, set())
    members.discard(what)
    if not members:
        sets.pop(of, None)


def _uncount(counters: dict[Name, Counter[str]], name: Name, what: str) -> None:
    counters[name][what] -= 1
    if counters[name][what] <= 0:
        del counters[name][what]
    if not counters[name]:
        del counters[name]
