"""NetworkServiceEndpoints that offer nothing: ipam hears of none that cannot be read, nor of one without Pods.

So where it says that nobody offers a network service, the objects themselves tell why.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from schemas import grant, intent
from services.watcher.core import specs, spoiled
from services.watcher.model import NetworkServiceEndpoint, OurObject, Problem, Subject

NOBODY = "NoEndpoint"


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
    objects: dict[Subject, OurObject] = {
        (NetworkServiceEndpoint, each.ref): each for each in endpoints
    }
    bad: dict[Subject, Problem] = {
        (NetworkServiceEndpoint, each.ref): problem
        for each in endpoints
        if isinstance(problem := specs.read_endpoint(each), Problem)
    }
    return spoiled.explained(
        request,
        refusal,
        lambda namespace, name: spoiled.offer(objects, bad, namespace, name),
    )


def without_pods(
    request: intent.Request, endpoints: Iterable[NetworkServiceEndpoint]
) -> NetworkServiceEndpoint | None:
    """Of a network service that nobody offers: who would, had it a Pod."""
    home, name = spoiled.home(request), request.network_service
    named = (
        each for each in endpoints if each.ref[0] == home and name in specs.names_in(each.spec)
    )
    return min(named, key=lambda each: each.ref, default=None)


def why_idle(endpoint: NetworkServiceEndpoint) -> str:
    """Why the bus does not speak of an endpoint that is there."""
    read = specs.read_endpoint(endpoint)
    if isinstance(read, Problem):
        return f"{read.reason}: {read.message}"
    name = "/".join(endpoint.ref)
    return (
        f"NetworkServiceEndpoint {name} is there, but its podSelector matches no Pod that can serve "
        "(on a node, not ended, in a network of its own)"
    )


def remedy(endpoint: NetworkServiceEndpoint) -> str:
    """What to do about one without Pods."""
    namespace = endpoint.metadata.namespace
    return (
        "correct its podSelector, or a Pod's labels, or start a Pod: "
        f"kubectl -n {namespace} get pods --show-labels"
    )
