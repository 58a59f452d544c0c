"""A Pod and its annotation: what it asks for, or why it gets nothing.

The Pod's annotation wins over its Namespace's; present but empty, it asks for nothing. A malformed one
wires nothing new: what already stands for this Pod (by UID) goes on being wanted.
"""

from collections.abc import Iterable

import msgspec

from schemas import annotation
from schemas.intent import PodRef, Request
from services.watcher.model import (
    CAPTURE_ANNOTATION,
    STATIC_POD_ANNOTATION,
    DnsConfig,
    Namespace,
    Pod,
    Problem,
)
from services.watcher.wording import shorten

MALFORMED = "MalformedAnnotation"
INVALID = "InvalidAnnotation"
HOST_NETWORK = "HostNetwork"

_DNS_POLICY = "ClusterFirst"  # what the API server writes where nobody did
_DNS_CONFIG = DnsConfig()


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a Pod asks for. `asks`: whether anybody wrote an annotation for it, be it an empty one."""

    asks: bool = False
    requests: tuple[Request, ...] = ()
    problem: Problem | None = None


def annotation_of(pod: Pod, namespace: Namespace | None) -> str | None:
    """The annotation that holds for a Pod; None: nobody wrote one."""
    own = pod.annotations.get(annotation.ANNOTATION)
    if own is not None or namespace is None:
        return own
    return namespace.annotations.get(annotation.ANNOTATION)


def wants_dns(pod: Pod) -> bool:
    """Whether a Pod takes the DNS of its network services. Only its own word counts, and only a clear one."""
    return pod.annotations.get(CAPTURE_ANNOTATION) != "false"


def capture_problem(pod: Pod) -> Problem | None:
    """What is wrong with how a Pod says whether it takes DNS."""
    written = pod.annotations.get(CAPTURE_ANNOTATION, "true")
    if written in ("true", "false"):
        return None
    return Problem(
        reason=INVALID,
        message=f"annotation {CAPTURE_ANNOTATION} is {shorten(repr(written), 100)}, which is taken for true; "
        'write "false" to have no DNS of network services, or remove it',
    )


def pod_ref(pod: Pod, *, node_ready: bool) -> PodRef:
    """How the node of a Pod finds it."""
    dns = pod.spec.dns_config or _DNS_CONFIG
    return PodRef(
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        uid=pod.uid,
        node=pod.node,
        cgroup_uid=pod.annotations.get(STATIC_POD_ANNOTATION, ""),
        ips=pod.ips,
        node_ready=node_ready,
        dns_policy=pod.spec.dns_policy or _DNS_POLICY,
        nameservers=dns.nameservers or (),
        searches=dns.searches or (),
    )


def wanted(
    pod: Pod, namespace: Namespace | None, *, node_ready: bool, standing: Iterable[Request]
) -> Wanted:
    """What a Pod asks for; `standing` are the requests of its name that the stream holds."""
    text = annotation_of(pod, namespace)
    if text is None:
        return Wanted()
    holds = bool(pod.node) and not pod.terminal
    try:
        items = annotation.parse(text, namespace=pod.metadata.namespace)
    except annotation.AnnotationError as exc:
        ref = pod_ref(pod, node_ready=node_ready)
        kept = tuple(
            msgspec.structs.replace(each, pod=ref, dns=wants_dns(pod))
            for each in sorted(standing, key=lambda each: each.interface)
            if holds and not pod.host_network and each.pod.uid == pod.uid
        )
        return Wanted(asks=True, requests=kept, problem=_malformed(exc))
    if items and pod.host_network:
        return Wanted(asks=True, problem=_HOST_NETWORK)
    if not holds:
        return Wanted(asks=True)
    ref, dns = pod_ref(pod, node_ready=node_ready), wants_dns(pod)
    return Wanted(asks=True, requests=tuple(_request(ref, item, dns=dns) for item in items))


def is_unheeded(pod: Pod, told: Wanted) -> bool:
    """Whether its own annotation has no effect as it is written, and somebody could still correct it."""
    is_own = annotation.ANNOTATION in pod.annotations
    return told.problem is not None and is_own and not pod.terminal


def _request(ref: PodRef, item: annotation.Item, *, dns: bool) -> Request:
    return Request(
        pod=ref,
        interface=item.interface,
        network_service=item.network_service,
        network_service_namespace=item.namespace or "",
        labels=item.labels,
        mechanism=item.mechanism,
        dns=dns,
    )


def _malformed(exc: annotation.AnnotationError) -> Problem:
    return Problem(
        reason=MALFORMED,
        message=f"annotation {annotation.ANNOTATION}, {exc} (nothing new is connected until then)",
    )


_HOST_NETWORK = Problem(
    reason=HOST_NETWORK,
    message="the Pod uses its node's network (hostNetwork), where no network service can be connected; "
    f"remove hostNetwork or the annotation {annotation.ANNOTATION}",
)
