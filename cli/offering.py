"""NetworkServiceEndpoints that offer nothing: ipam hears of none that cannot be read, nor of one without Pods.

So where it says that nobody offers a network service, the objects themselves tell why.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from schemas import grant, intent
from services.watcher.core import specs, spoiled
from services.watcher.model import NetworkServiceEndpoint, Problem

NOBODY = spoiled.NOBODY


def homes_of_unserved(messages: Iterable[Any]) -> set[str]:
    """Namespaces of the network services that nobody offers although somebody asks for them."""
    held = list(messages)
    unserved = {
        (each.namespace, each.pod, each.interface)
        for each in held
        if isinstance(each, grant.Refusal) and each.reason == NOBODY
    }
    return {
        spoiled.home(each)
        for each in held
        if isinstance(each, intent.Request)
        and (each.pod.namespace, each.pod.name, each.interface) in unserved
    }


def explained(
    request: intent.Request, refusal: grant.Refusal, endpoints: Sequence[NetworkServiceEndpoint]
) -> grant.Refusal:
    """A refusal as the watcher tells it to the Pod."""
    if refusal.reason != NOBODY:
        return refusal
    known = spoiled.Spoiled()
    for each in endpoints:
        read = specs.read_endpoint(each)
        problem = read if isinstance(read, Problem) else None
        known.put(each.ref, specs.names_in(each.spec), problem)
    return spoiled.explained(request, refusal, known.why)


def remedy_of(request: intent.Request, refusal: grant.Refusal) -> str:
    """What its message says last, where an endpoint has no Pod; empty: that is not why nobody serves."""
    remedy = spoiled.remedy(spoiled.home(request))
    return remedy if refusal.reason == NOBODY and refusal.message.endswith(remedy) else ""


def why_idle(endpoint: NetworkServiceEndpoint) -> str:
    """Why the bus does not speak of an endpoint that is there."""
    read = specs.read_endpoint(endpoint)
    problem = read if isinstance(read, Problem) else spoiled.idle(endpoint.ref)
    return f"{problem.reason}: {problem.message}"
