"""Spoiled offers: endpoints that cannot be read and never could, and those who wait for what they would offer."""

from collections.abc import Callable, Iterator, Mapping

import msgspec

from schemas.grant import Refusal
from schemas.intent import Request
from services.watcher.core import requests, specs
from services.watcher.model import NetworkServiceEndpoint, OurObject, Problem, Ref, Subject


def offer(
    objects: Mapping[Subject, OurObject],
    bad_specs: Mapping[Subject, Problem],
    namespace: str,
    network_service: str,
) -> Problem | None:
    """What is wrong with an endpoint of a namespace that names a network service."""
    for (kind, ref), problem in sorted(bad_specs.items(), key=lambda item: item[0][1]):
        found = objects.get((kind, ref))
        if (
            ref[0] == namespace
            and isinstance(found, NetworkServiceEndpoint)
            and network_service in specs.names_in(found.spec)
        ):
            return problem
    return None


def home(request: Request) -> str:
    """The namespace whose network service is meant, as far as the request says."""
    return request.network_service_namespace or request.pod.namespace


def explained(
    request: Request, refusal: Refusal, spoiled: Callable[[str, str], Problem | None]
) -> Refusal:
    """Who asks for an endpoint that cannot be read, of which ipam knows nothing, hears what is wrong there."""
    if refusal.reason != "NoEndpoint":
        return refusal
    problem = spoiled(home(request), request.network_service)
    if problem is None:
        return refusal
    message = f"network service {request.network_service}: {problem.message}"
    return msgspec.structs.replace(refusal, reason=problem.reason, message=message)


def asking_in(wanted: Mapping[Ref, requests.Wanted], namespace: str) -> Iterator[Ref]:
    """Pods that ask for network services of a namespace, as far as they say so."""
    for ref, each in wanted.items():
        if ref[0] == namespace or any(
            request.network_service_namespace == namespace for request in each.requests
        ):
            yield ref
