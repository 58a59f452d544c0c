"""Which endpoints may serve a request, best first, and why the others fell out."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

import msgspec

from schemas import grant, intent
from schemas.subjects import EndpointKey, NetworkServiceKey


class Choice(msgspec.Struct, frozen=True):
    """Candidates in the order they are to be tried, and what was ruled out before."""

    namespace: str
    candidates: tuple[intent.Endpoint, ...]
    ruled_out: tuple[tuple[str, grant.Candidate], ...]  # (reason code, candidate)


class NoChoice(msgspec.Struct, frozen=True):
    """Nothing to try; `reason` is stable CamelCase."""

    reason: str
    message: str
    candidates: tuple[grant.Candidate, ...] = ()


class Registry(msgspec.Struct):
    """Who offers what. `offers` indexes the endpoints by (namespace, network service)."""

    endpoints: dict[EndpointKey, intent.Endpoint] = {}
    network_services: dict[NetworkServiceKey, intent.NetworkService] = {}
    offers: dict[tuple[str, str], dict[EndpointKey, intent.Endpoint]] = {}

    def put_endpoint(self, key: EndpointKey, endpoint: intent.Endpoint | None) -> set[str]:
        """Add, replace or (None) remove an endpoint Pod; returns the network services it touches."""
        touched: set[str] = set()
        before = self.endpoints.pop(key, None)
        for name in before.network_services if before else ():
            self.offers.get((key.namespace, name), {}).pop(key, None)
            touched.add(name)
        if endpoint is not None:
            self.endpoints[key] = endpoint
            for name in endpoint.network_services:
                self.offers.setdefault((key.namespace, name), {})[key] = endpoint
                touched.add(name)
        return touched

    def namespaces_of(self, network_service: str) -> set[str]:
        """Namespaces in which a network service of that name exists or is offered."""
        declared = {k.namespace for k in self.network_services if k.name == network_service}
        return declared | {
            ns for (ns, name), of in self.offers.items() if of and name == network_service
        }


def choose(
    registry: Registry,
    request: intent.Request,
    *,
    current: EndpointKey | None,
    load: Callable[[EndpointKey], int],
) -> Choice | NoChoice:
    """Order the candidates: the current endpoint, then the same node, then the least loaded.

    Connections across nodes are not plumbed yet, so an endpoint on another node falls out, saying so.
    """
    home = resolve_namespace(registry, request)
    if isinstance(home, NoChoice):
        return home
    offered = registry.offers.get((home, request.network_service), {})
    if not offered:
        return NoChoice("NoEndpoint", _nobody(registry, home, request))
    service = registry.network_services.get(NetworkServiceKey(home, request.network_service))
    weights = _selected(service, request, offered)
    fit: list[tuple[tuple[bool, bool, float, str], intent.Endpoint]] = []
    ruled_out: list[tuple[str, grant.Candidate]] = []
    for key, endpoint in sorted(offered.items(), key=lambda item: item[0].subject):
        is_current = key == current
        problem = _problem(request, endpoint, is_selected=key in weights, is_current=is_current)
        if problem is not None:
            code, text = problem
            ruled_out.append((code, grant.Candidate(endpoint=describe(endpoint), reason=text)))
            continue
        share = load(key) / weights[key]
        fit.append(
            ((not is_current, endpoint.pod.node != request.pod.node, share, key.subject), endpoint)
        )
    fit.sort(key=lambda item: item[0])
    return Choice(home, tuple(endpoint for _, endpoint in fit), tuple(ruled_out))


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
    existing = registry.namespaces_of(name)
    if own in existing:
        return own
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


def _selected(
    service: intent.NetworkService | None,
    request: intent.Request,
    offered: Mapping[EndpointKey, intent.Endpoint],
) -> dict[EndpointKey, float]:
    """Endpoints that rules or labels select, with their weight."""
    if service is None or not service.matches:
        return {key: 1.0 for key, e in offered.items() if _contains(e.labels, request.labels)}
    labels = client_labels(request)
    for match in service.matches:
        if not _contains(labels, match.source_selector):
            continue
        selected = _of_routes(match.routes, offered)
        if selected or not match.fallthrough:
            return selected
    return {}


def _of_routes(
    routes: Iterable[intent.Destination], offered: Mapping[EndpointKey, intent.Endpoint]
) -> dict[EndpointKey, float]:
    selected: dict[EndpointKey, float] = {}
    for route in routes:
        members = [k for k, e in offered.items() if _contains(e.labels, route.destination_selector)]
        for key in members if route.weight > 0 else ():
            # A route's weight is shared by its members: two replicas do not double its share.
            selected[key] = selected.get(key, 0.0) + route.weight / len(members)
    return selected


def _problem(
    request: intent.Request, endpoint: intent.Endpoint, *, is_selected: bool, is_current: bool
) -> tuple[str, str] | None:
    if not is_selected:
        wanted = ", ".join(f"{k}={v}" for k, v in sorted(request.labels.items())) or "its labels"
        return "NoMatchingEndpoint", f"does not match {wanted}"
    if endpoint.pod.uid == request.pod.uid:
        return "NoMatchingEndpoint", "is the client itself"
    if not endpoint.ready and not is_current:
        return "EndpointNotReady", "is not Ready"
    if endpoint.pod.node != request.pod.node:
        nodes = f"is on node {endpoint.pod.node}, the client on node {request.pod.node}"
        return "RemoteNotSupported", f"{nodes}: connections across nodes are not supported yet"
    return None


def _contains(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())
