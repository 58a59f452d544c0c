"""Which endpoints may serve a request, best first, and why the others fell out."""

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase

import msgspec

from schemas import grant, intent
from schemas.subjects import EndpointKey, NetworkServiceKey
from services.ipam.core.registry import Group, Registry

MOST_SELECTIONS = 1_000  # remembered per network service

Load = Callable[[EndpointKey], int]
Fallen = tuple[str, grant.Candidate]  # why, as a stable reason and in words


class NoChoice(msgspec.Struct, frozen=True):
    """Nothing to try; `reason` is stable CamelCase."""

    reason: str
    message: str
    candidates: tuple[grant.Candidate, ...] = ()


class Choice:
    """Candidates one by one, best first: of thousands, seldom more than the first is looked at."""

    def __init__(
        self,
        registry: Registry,
        request: intent.Request,
        namespace: str,
        *,
        current: EndpointKey | None,
        load: Load,
    ) -> None:
        self.namespace = namespace
        self._request = request
        self._current = current
        self._load = load
        self._offered = registry.offers[namespace, request.network_service]
        self._groups = _groups(registry, request, namespace)

    def candidates(self) -> Iterator[intent.Endpoint]:
        """The current endpoint Pod, unless its node died: then it comes last.

        Then the group with the least load for its weight, and in it the client's node and the least loaded first.
        """
        current = self._current
        is_lost = current is not None and _is_lost(self._offered.get(current), self._request)
        if current is not None and not is_lost and self._may_serve(current):
            yield self._offered[current]
        for key in self._others():
            if key != current and self._may_serve(key):
                yield self._offered[key]
        if current is not None and is_lost and self._may_serve(current):
            yield self._offered[current]

    def ruled_out(self) -> Iterator[Fallen]:
        """Endpoint Pods that are no candidates, and why."""
        for key, endpoint in sorted(self._offered.items(), key=lambda item: _order(item[0])):
            problem = self._problem(key, endpoint)
            if problem is not None:
                code, text = problem
                yield code, grant.Candidate(endpoint=describe(endpoint), reason=text)

    def _others(self) -> Iterator[EndpointKey]:
        groups = self._groups
        if len(groups) > 1:
            groups = tuple(sorted(groups, key=self._share))
        seen: set[EndpointKey] = set()
        for group in groups:
            for at_home in (True, False):
                keys = group.on_node.get(self._request.pod.node, ()) if at_home else group.members
                for key in sorted(keys, key=lambda key: (self._load(key), _order(key))):
                    if key not in seen:
                        seen.add(key)
                        yield key

    def _share(self, group: Group) -> float:
        return sum(map(self._load, group.members)) / group.weight

    def _may_serve(self, key: EndpointKey) -> bool:
        endpoint = self._offered.get(key)
        return endpoint is not None and self._problem(key, endpoint) is None

    def _problem(self, key: EndpointKey, endpoint: intent.Endpoint) -> tuple[str, str] | None:
        request = self._request
        if not any(key in group.members for group in self._groups):
            wanted = ", ".join(f"{k}={v}" for k, v in sorted(request.labels.items()))
            return "NoMatchingEndpoint", f"does not match {wanted or 'its labels'}"
        if endpoint.pod.uid == request.pod.uid:
            return "NoMatchingEndpoint", "is the client itself"
        if key == self._current:
            return None
        if not endpoint.ready:
            return "EndpointNotReady", "is not Ready"
        if not endpoint.pod.node_ready:
            return "EndpointNotReady", f"is on node {endpoint.pod.node}, which is not Ready"
        return None


def choose(
    registry: Registry, request: intent.Request, *, current: EndpointKey | None, load: Load
) -> Choice | NoChoice:
    """Who is to be asked for a connection; nobody, if the network service is not there for this client."""
    home = resolve_namespace(registry, request)
    if isinstance(home, NoChoice):
        return home
    if (home, request.network_service) not in registry.offers:
        return NoChoice("NoEndpoint", _nobody(registry, home, request))
    return Choice(registry, request, home, current=current, load=load)


def resolve_namespace(registry: Registry, request: intent.Request) -> str | NoChoice:
    """The namespace whose network service is meant: as written, else the Pod's own, else the one that allows it."""
    name, own = request.network_service, request.pod.namespace
    if request.network_service_namespace:
        home = request.network_service_namespace
        if home == own or _allows(registry, home, name, own):
            return home
        return NoChoice(
            "NotAllowed",
            f"network service {name}@{home} does not exist or does not allow clients of namespace {own}; "
            f"add {own} to the allowedNamespaces of a NetworkService {name} in namespace {home}",
        )
    if registry.is_known(own, name):
        return own
    existing = registry.namespaces_of(name)
    allowing = sorted(ns for ns in existing if _allows(registry, ns, name, own))
    if len(allowing) > 1:
        return NoChoice(
            "AmbiguousNetworkService",
            f"network service {name} exists in namespaces {' and '.join(allowing)}; "
            f"write {name}@{allowing[0]} to say which",
        )
    return allowing[0] if allowing else own


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


def _allows(registry: Registry, namespace: str, name: str, client_namespace: str) -> bool:
    service = registry.network_services.get(NetworkServiceKey(namespace, name))
    patterns = service.allowed_namespaces if service is not None else ()
    return any(fnmatchcase(client_namespace, pattern) for pattern in patterns)


def _nobody(registry: Registry, home: str, request: intent.Request) -> str:
    name = request.network_service
    elsewhere = registry.namespaces_of(name) - {home}
    hint = " (other namespaces do, but do not allow this one)" if elsewhere else ""
    return (
        f"no endpoint Pod of namespace {home} offers network service {name}{hint}; create a "
        "NetworkServiceEndpoint that names it and a running Pod that its podSelector matches, "
        "or see the events of the one that should"
    )


def _groups(registry: Registry, request: intent.Request, home: str) -> tuple[Group, ...]:
    """What rules, or without rules the annotation's labels, select."""
    name = request.network_service
    service = registry.network_services.get(NetworkServiceKey(home, name))
    offered = registry.offers[home, name]
    known = registry.selections(home, name)
    if service is None or not service.matches:
        wanted = frozenset(request.labels.items())
        if wanted not in known:
            if len(known) > MOST_SELECTIONS:  # labels are the clients' to invent
                known.clear()
            fitting = ((k, e) for k, e in offered.items() if _contains(e.labels, request.labels))
            known[wanted] = (Group.of(fitting, 1),)
        return known[wanted]
    labels = client_labels(request)
    for at, match in enumerate(service.matches):
        if not _contains(labels, match.source_selector):
            continue
        if at not in known:
            known[at] = tuple(
                group
                for group in (_of_route(route, offered) for route in match.routes)
                if group.members and group.weight > 0
            )
        if known[at] or not match.fallthrough:
            return known[at]
    return ()


def _of_route(route: intent.Destination, offered: Mapping[EndpointKey, intent.Endpoint]) -> Group:
    wanted = route.destination_selector
    return Group.of(
        ((k, e) for k, e in offered.items() if _contains(e.labels, wanted)), route.weight
    )


def _is_lost(endpoint: intent.Endpoint | None, request: intent.Request) -> bool:
    """Whether its node died. On the client's own node the link stands as long as the client does."""
    if endpoint is None:
        return False
    return not endpoint.pod.node_ready and endpoint.pod.node != request.pod.node


def _order(key: EndpointKey) -> tuple[str, str]:
    return key.endpoint, key.pod


def _contains(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())
