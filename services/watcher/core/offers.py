"""Offers: what an endpoint Pod says of itself on the bus, by its object's spec, or by what stands while that is bad.

Withdrawing what is offered would cut live connections for a typo: what was goes on, and says that it is old.
"""

import msgspec

from schemas.intent import Endpoint
from services.watcher.core import requests, specs
from services.watcher.model import Pod, Problem
from services.watcher.wording import shorten

_REFUSED_BYTES = 1024  # every Pod of the endpoint carries it


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A NetworkServiceEndpoint: the newest spec that could be read, and why a newer one cannot.

    `spec` is None where none ever could; what stands of it goes on.
    """

    spec: specs.EndpointSpec | None
    problem: Problem | None = None


def offer(
    endpoint: str, pod: Pod, written: Written, standing: Endpoint | None, *, node_ready: bool
) -> Endpoint | None:
    """The message of an endpoint Pod; `standing`: the one that the stream holds. None: it offers nothing."""
    if not pod.node or pod.terminal or pod.host_network:
        return None
    spec = written.spec
    # First of all, as most Pods are of other endpoints.
    if spec is not None and not spec.selector.selects(pod.labels):
        return None
    ref = requests.pod_ref(pod, node_ready=node_ready)
    ready = pod.ready and not pod.terminating
    refused = shorten(written.problem.message, _REFUSED_BYTES) if written.problem else ""
    if spec is None:
        if standing is None or standing.pod.uid != pod.uid:
            return None
        return msgspec.structs.replace(
            standing, pod=ref, ready=ready, leaving=pod.terminating, refused=refused
        )
    return Endpoint(
        endpoint=endpoint,
        pod=ref,
        ready=ready,
        leaving=pod.terminating,
        refused=refused,
        network_services=spec.network_services,
        labels=spec.labels,
        ipam=spec.ipam,
        routes=spec.routes,
        policies=spec.policies,
        dns=spec.dns,
    )


def misfit(pod: Pod | None, written: Written | None) -> bool:
    """Whether this Pod would serve if it had a network of its own."""
    spec = written.spec if written is not None else None
    return (
        pod is not None
        and pod.host_network
        and not (pod.terminating or pod.terminal)
        and spec is not None
        and spec.selector.selects(pod.labels)
    )
