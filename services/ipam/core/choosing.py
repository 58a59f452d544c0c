"""Which endpoints may serve a request, best first, and why the others fell out."""

import heapq
from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import chain
from typing import NamedTuple

import msgspec

from schemas import grant, intent
from schemas.grant import Connection
from schemas.reasons import NO_ENDPOINT
from schemas.subjects import EndpointKey, NetworkServiceKey
from services.ipam.core import missing
from services.ipam.core.offering import Group, Name, Offers, contains, is_open
from services.ipam.core.paths import Paths
from services.ipam.core.registry import Registry

_ANOTHER = "run another endpoint Pod: none serves itself"


class NoChoice(msgspec.Struct, frozen=True):
    """Nothing to try; `reason` is stable CamelCase."""

    reason: str
    message: str
    candidates: tuple[grant.Candidate, ...] = ()


class Fallen(NamedTuple):
    """An endpoint Pod that cannot serve, and why: as a stable reason and in words."""

    key: EndpointKey
    code: str
    text: str
    is_general: bool = False  # the same is true of all Pods of its object
    remedy: str = ""  # none: that of the code


class Choice:
    """Candidates one by one, best first: of thousands, seldom more than the first is looked at."""

    def __init__(
        self,
        offers: Offers,
        request: intent.Request,
        service: intent.NetworkService | None,
        *,
        current: EndpointKey | None,
        paths: Paths,
    ) -> None:
        self.namespace = offers.namespace
        self.offers = offers
        self.passed: set[str] = set()  # objects of which nothing more is to be tried
        self._request = request
        self._service = service
        self._current = current
        self._unheard: Collection[str] = paths.unheard_from(request.pod.node)
        self._is_silent = request.key in paths.lost  # the current one
        self._groups, self._rule = _groups(offers, request, service)

    def candidates(self) -> Iterator[intent.Endpoint]:
        """The current endpoint Pod, unless it is lost: then it comes after those that surely are better.

        Then the group with the least load for its weight, and in it the client's node and the least loaded first.
        Last who is not heard from the client's node, and who is leaving.
        """
        current = self._standing()
        is_lost = current is not None and self._is_lost(current)
        if current is not None and not is_lost:
            yield current
        unheard = []
        for endpoint in self._able(self._others()):
            if endpoint.pod.node in self._unheard:
                unheard.append(endpoint)
            else:
                yield endpoint
        if current is not None and is_lost:
            yield current
        leaving = self._able(self._named(group.leaving for group in self._groups))
        for endpoint in chain(unheard, leaving):
            if endpoint.endpoint not in self.passed:
                yield endpoint

    def open_of(self, object_: str) -> Iterator[EndpointKey]:
        """Endpoint Pods of an object that may get new connections of this client, by name."""
        for key in self.offers.of_object(object_):
            endpoint = self.offers.endpoints[key]
            if is_open(endpoint) and self._is_member(key) and not self._is_client(endpoint):
                yield key

    def closed(self) -> Iterator[Fallen]:
        """Endpoint Pods that would do, and get no new connections."""
        for endpoint in self._able(self._named(group.closed for group in self._groups)):
            yield Fallen(endpoint.key, *_why_closed(endpoint))

    def unfit(self) -> Iterator[Fallen]:
        """Endpoint Pods that are not for this client."""
        labels, with_all = self._request.labels, client_labels(self._request)
        why, remedy = missing.unmatched(labels, with_all, self._service, self._rule)
        for name in self.offers.names:
            key = EndpointKey(self.namespace, *name)
            if not self._is_member(key):
                yield Fallen(key, "NoMatchingEndpoint", why, remedy=remedy)
            elif self._is_client(self.offers.endpoints[key]):
                yield Fallen(key, "NoMatchingEndpoint", "is the client itself", remedy=_ANOTHER)

    def _standing(self) -> intent.Endpoint | None:
        endpoint = self.offers.endpoints.get(self._current) if self._current is not None else None
        if endpoint is None or self._is_client(endpoint) or not self._is_member(endpoint.key):
            return None
        return endpoint

    def _able(self, keys: Iterable[EndpointKey]) -> Iterator[intent.Endpoint]:
        """Those of other Pods than the client's and the current one's."""
        for key in keys:
            endpoint = self.offers.endpoints[key]
            if key != self._current and not self._is_client(endpoint):
                yield endpoint

    def _named(self, names: Iterable[Iterable[Name]]) -> Iterator[EndpointKey]:
        return (EndpointKey(self.namespace, *name) for name in heapq.merge(*names))

    def _is_lost(self, current: intent.Endpoint) -> bool:
        """Whether it leaves, is not heard any more, or its node died.

        On the client's own node the link stands as long as the client does.
        """
        is_dead = not current.pod.node_ready and current.pod.node != self._request.pod.node
        return current.leaving or self._is_silent or is_dead

    def _others(self) -> Iterator[EndpointKey]:
        groups = self._groups
        if len(groups) > 1:
            groups = tuple(sorted(groups, key=lambda group: group.load / group.weight))
        seen: set[EndpointKey] = set()
        for group in groups:
            for order in (group.on_node.get(self._request.pod.node), group.open):
                for entry in order.best_first(self.passed) if order is not None else ():
                    key = EndpointKey(self.namespace, entry.object, entry.pod)
                    if key not in seen:
                        seen.add(key)
                        yield key

    def _is_member(self, key: EndpointKey) -> bool:
        return any(key in group.members for group in self._groups)

    def _is_client(self, endpoint: intent.Endpoint) -> bool:
        return endpoint.pod.uid == self._request.pod.uid


def choose(
    registry: Registry,
    request: intent.Request,
    *,
    current: EndpointKey | None,
    previous: Connection | None,
    paths: Paths | None = None,
) -> Choice | NoChoice:
    """Who is to be asked for a connection; nobody, if the network service is not there for this client.

    `current`: the endpoint Pod of what it has; `previous`: what it has or had; `paths`: who hears whom (none: all).
    """
    home = resolve_namespace(registry, request, previous)
    if isinstance(home, NoChoice):
        return home
    offers = registry.offers.get((home, request.network_service))
    if offers is None:
        name = request.network_service
        why = missing.nobody(
            name,
            home,
            offered=registry.offered.get(home, ()),
            elsewhere=registry.namespaces_of(name) - {home},
            is_own=home == request.pod.namespace,
        )
        return NoChoice(NO_ENDPOINT, why)
    service = registry.network_services.get(NetworkServiceKey(home, request.network_service))
    return Choice(offers, request, service, current=current, paths=paths or Paths())


def resolve_namespace(
    registry: Registry, request: intent.Request, previous: Connection | None
) -> str | NoChoice:
    """The namespace whose network service is meant: as written, else the Pod's own, else the one that allows it.

    Of several the one it is connected to: no foreign namespace takes a connection away by offering the same name.
    """
    name, own = request.network_service, request.pod.namespace
    if request.network_service_namespace:
        home = request.network_service_namespace
        if home == own or _allows(registry, home, name, own):
            return home
        is_known = registry.is_known(home, name)
        there = [own] if registry.is_known(own, name) else _allowing(registry, name, own)
        why = missing.not_allowed(name, home, own, is_known=is_known, there=there)
        return NoChoice("NotAllowed", why)
    if registry.is_known(own, name):
        return own
    allowing = _allowing(registry, name, own)
    if len(allowing) > 1:
        standing = _standing_namespace(request, previous)
        if standing in allowing:
            return standing
        return NoChoice(
            "AmbiguousNetworkService",
            f"network service {name} exists in namespaces {' and '.join(allowing)}; "
            f"write {name}@{allowing[0]} to say which",
        )
    return allowing[0] if allowing else own


def _standing_namespace(request: intent.Request, previous: Connection | None) -> str:
    if previous is None or previous.client.pod.uid != request.pod.uid:
        return ""
    is_same = previous.network_service == request.network_service
    return previous.network_service_namespace if is_same else ""


def describe(endpoint: intent.Endpoint) -> str:
    """An endpoint Pod in words, with its labels: `vpn (pod vpn-1, version=v1.0)`."""
    labels = "".join(f", {k}={v}" for k, v in sorted(endpoint.labels.items()))
    return f"{endpoint.endpoint} (pod {endpoint.pod.name}{labels})"


def client_labels(request: intent.Request) -> dict[str, str]:
    """What the rules of a NetworkService are matched against; the annotation wins."""
    automatic = {
        "podName": request.pod.name,
        "nodeName": request.pod.node,
        "namespace": request.pod.namespace,
    }
    return automatic | request.labels


def _allowing(registry: Registry, name: str, client_namespace: str) -> list[str]:
    """Namespaces that let clients of another one connect to it."""
    existing = registry.namespaces_of(name)
    return sorted(ns for ns in existing if _allows(registry, ns, name, client_namespace))


def _allows(registry: Registry, namespace: str, name: str, client_namespace: str) -> bool:
    service = registry.network_services.get(NetworkServiceKey(namespace, name))
    patterns = service.allowed_namespaces if service is not None else ()
    return any(fnmatchcase(client_namespace, pattern) for pattern in patterns)


def _groups(
    offers: Offers, request: intent.Request, service: intent.NetworkService | None
) -> tuple[tuple[Group, ...], int | None]:
    """What the rules, or without rules the annotation's labels, select, and which of the rules it was."""
    if service is None or not service.matches:
        return offers.select(frozenset(request.labels.items()), [(request.labels, 1)]), None
    labels = client_labels(request)
    rule = None
    for at, match in enumerate(service.matches):
        if not contains(labels, match.source_selector):
            continue
        rule = at
        routes = [(r.destination_selector, r.weight) for r in match.routes if r.weight > 0]
        groups = tuple(group for group in offers.select(at, routes) if group.members)
        if groups or not match.fallthrough:
            return groups, rule
    return (), rule


def _why_closed(endpoint: intent.Endpoint) -> tuple[str, str]:
    """Reason and words. A node is not its users' to mend."""
    if endpoint.leaving:
        return "EndpointNotReady", "is being deleted"
    if endpoint.ready:
        return "EndpointNodeNotReady", f"is on node {endpoint.pod.node}, which is not Ready"
    return "EndpointNotReady", "is not Ready"
