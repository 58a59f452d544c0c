"""NetworkServiceEndpoints that offer nothing: ipam hears of none that cannot be read, nor of one without Pods.

So where it says that nobody offers a network service, the objects themselves tell why.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any

from schemas import grant, intent
from schemas.reasons import NO_ENDPOINT
from services.watcher.core import specs, spoiled
from services.watcher.model import NetworkServiceEndpoint, Problem

Why = Callable[[str, str], Problem | None]  # of a network service: its namespace, and its name


def homes_of_unserved(messages: Iterable[Any]) -> set[str]:
    """Namespaces of the network services that nobody offers although somebody asks for them."""
    held = list(messages)
    unserved = {
        (each.namespace, each.pod, each.interface)
        for each in held
        if isinstance(each, grant.Refusal) and each.reason == NO_ENDPOINT
    }
    return {
        spoiled.home(each)
        for each in held
        if isinstance(each, intent.Request)
        and (each.pod.namespace, each.pod.name, each.interface) in unserved
    }


def why_of(endpoints: Sequence[NetworkServiceEndpoint], messages: Iterable[Any]) -> Why:
    """What the watcher would say, by what is written and what the bus holds. Reads nothing before it is asked."""

    @cache
    def known() -> spoiled.Spoiled:
        found = spoiled.Spoiled()
        for each in endpoints:
            read = specs.read_endpoint(each)
            problem = read if isinstance(read, Problem) else None
            found.put(each.ref, specs.names_in(each.spec), problem)
        for each in messages:
            if isinstance(each, intent.Endpoint):
                found.serve((each.pod.namespace, each.endpoint), 1)
        return found

    return lambda namespace, network_service: known().why(namespace, network_service)


def remedy_of(request: intent.Request, refusal: grant.Refusal) -> str:
    """What its message says last, where an endpoint has no Pod; empty: that is not why nobody serves."""
    remedy = spoiled.remedy(spoiled.home(request))
    return remedy if refusal.reason == NO_ENDPOINT and refusal.message.endswith(remedy) else ""


def why_idle(endpoint: NetworkServiceEndpoint) -> str:
    """Why the bus does not speak of an endpoint that is there."""
    read = specs.read_endpoint(endpoint)
    problem = read if isinstance(read, Problem) else spoiled.idle(endpoint.ref)
    return f"{problem.reason}: {problem.message}"
