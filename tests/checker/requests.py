"""Every request has one answer, and every answer a request, an endpoint Pod, and the place where it belongs."""

from collections import defaultdict
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from schemas.grant import Connection
from schemas.intent import Endpoint, NetworkService, Request
from schemas.subjects import EndpointKey, NetworkServiceKey, RequestKey
from tests.checker.picture import Picture, name


def keys(picture: Picture) -> Iterator[str]:
    """A body is about its subject."""
    shelves: tuple[dict[Any, Any], ...] = (
        picture.requests,
        picture.connections,
        picture.refusals,
        picture.endpoints,
        picture.pools,
        picture.statuses,
    )
    for shelf in shelves:
        for key, message in shelf.items():
            if message.key != key:
                yield f"{key.subject} holds the body of {message.key.subject}"


def copies(picture: Picture) -> Iterator[str]:
    """A connection stands under its client's node and, as the same, under its endpoint's; nowhere else."""
    found: dict[RequestKey, dict[str, Connection]] = defaultdict(dict)
    for key, connection in picture.connections.items():
        found[RequestKey(key.namespace, key.pod, key.interface)][key.node] = connection
    for request, by_node in found.items():
        label = f"{request.namespace}/{request.pod}/{request.interface}"
        newest = max(by_node.values(), key=lambda c: c.revision)
        wanted = {newest.client.pod.node, newest.server.pod.node}
        if set(by_node) != wanted:
            yield f"{label} stands under {sorted(by_node)}, its ends are on {sorted(wanted)}"
        for node, one in by_node.items():
            if msgspec.structs.replace(one, node=newest.node) != newest:
                yield f"{label}: the copy under {node} says other things than the grant"


def answers(picture: Picture) -> Iterator[str]:
    """Exactly one of grant and refusal for each request, of the same Pod; none for anything else."""
    granted = {
        RequestKey(c.client.pod.namespace, c.client.pod.name, c.client.interface): c
        for c in picture.grants()
    }
    refused = {RequestKey(r.namespace, r.pod, r.interface): r for r in picture.refusals.values()}
    for key, request in picture.requests.items():
        label = f"request {key.namespace}/{key.pod}/{key.interface}"
        if (key in granted) == (key in refused):
            yield f"{label} has {'both grant and refusal' if key in granted else 'no answer'}"
        elif key in granted:
            yield from _answer(label, request, granted[key])
        elif refused[key].uid != request.pod.uid:
            yield f"{label} is of Pod {request.pod.uid}, its refusal of {refused[key].uid}"
    for key in granted.keys() - picture.requests.keys():
        yield f"{key.namespace}/{key.pod}/{key.interface} is granted, and nobody asks for it"
    for key in refused.keys() - picture.requests.keys():
        yield f"{key.namespace}/{key.pod}/{key.interface} is refused, and nobody asks for it"


def _answer(label: str, request: Request, connection: Connection) -> Iterator[str]:
    client = connection.client
    if client.pod.uid != request.pod.uid:
        yield f"{label} is of Pod {request.pod.uid}, granted to {client.pod.uid}"
    if client.pod.node != request.pod.node:
        yield f"{label} is on {request.pod.node}, granted on {client.pod.node}"
    if connection.network_service != request.network_service:
        yield f"{label} asks for {request.network_service}, got {connection.network_service}"
    wanted = request.network_service_namespace
    if wanted and connection.network_service_namespace != wanted:
        got = connection.network_service_namespace
        yield f"{label} asks for namespace {wanted}, got {got}"
    if connection.revision < 1:
        yield f"{label} is granted as revision {connection.revision}"


def endpoints(picture: Picture) -> Iterator[str]:
    """The endpoint Pod exists, offers the network service, may serve this client, and is not the client."""
    for connection in picture.grants():
        label, server = name(connection), connection.server.pod
        key = EndpointKey(connection.endpoint_namespace, connection.endpoint, server.name)
        found = picture.endpoints.get(key)
        if found is None or found.pod.uid != server.uid:
            yield f"{label} leads to {key.subject}, uid {server.uid}, which does not exist"
            continue
        if connection.network_service not in found.network_services:
            yield f"{label} wants {connection.network_service}, {key.subject} does not offer it"
        if server.uid == connection.client.pod.uid:
            yield f"{label} leads to its own Pod"
        if found.pod.node != server.node:
            yield f"{label} leads to {server.name} on {server.node}; that Pod is on {found.pod.node}"
        yield from _allowed(picture, connection, found)


def _allowed(picture: Picture, connection: Connection, endpoint: Endpoint) -> Iterator[str]:
    label, home = name(connection), connection.network_service_namespace
    service = picture.services.get(NetworkServiceKey(home, connection.network_service))
    pod = connection.client.pod
    if home != connection.endpoint_namespace:
        yield f"{label}: the network service is of {home}, the endpoint of another namespace"
    if home != pod.namespace:
        patterns = service.allowed_namespaces if service else ()
        if not any(fnmatchcase(pod.namespace, pattern) for pattern in patterns):
            yield f"{label}: namespace {home} does not allow {pod.namespace}"
    request = picture.requests.get(RequestKey(pod.namespace, pod.name, connection.client.interface))
    if request is not None and not _matches(service, request, endpoint):
        yield f"{label}: endpoint {connection.endpoint} has labels that were not asked for"


def _matches(service: NetworkService | None, request: Request, endpoint: Endpoint) -> bool:
    """Whether any rule that this client may reach leads to the endpoint; without rules its labels do."""
    if service is None or not service.matches:
        return request.labels.items() <= endpoint.labels.items()
    pod = request.pod
    own = {"podName": pod.name, "nodeName": pod.node, "namespace": pod.namespace} | request.labels
    for match in service.matches:
        if not match.source_selector.items() <= own.items():
            continue
        if any(r.destination_selector.items() <= endpoint.labels.items() for r in match.routes):
            return True
        if not match.fallthrough:
            return False
    return False
