"""Which endpoint was chosen and why, by ipam's own rules on what the bus holds now; or why none."""

from collections.abc import Iterator
from itertools import islice

from cli import offering
from cli.explain.model import Evidence, Stage
from cli.explain.words import labels
from cli.output import few
from cli.remedies import Place, of_reason
from schemas import grant, intent
from schemas.reasons import NO_ENDPOINT
from schemas.subjects import EndpointKey, LeaseKey, NetworkServiceKey
from services.ipam.core import choosing
from services.ipam.core.paths import Paths
from services.ipam.core.registry import Registry
from services.watcher.core.report import Facts

_MOST = 5  # candidates told of each sort
_OF_CHOICE = frozenset(
    {
        NO_ENDPOINT,
        "InvalidSpec",
        "NoMatchingEndpoint",
        "EndpointNotReady",
        "EndpointNodeNotReady",
        "NotAllowed",
        "AmbiguousNetworkService",
    }
)


def chosen(found: Evidence, request: intent.Request, facts: Facts, place: Place) -> Iterator[Stage]:
    """The choice; where ipam refused, the stage at which it did."""
    if facts.grant is not None:
        lines = (*_why(found, request, facts.grant), *_others(found, request, facts.grant))
        yield Stage(name="chosen", state="ok", lines=lines)
        return
    refusal = facts.refusal
    if refusal is None:
        nobody = LeaseKey("ipam") not in found.told
        yield Stage(
            name="chosen",
            state="waits",
            lines=tuple(_others(found, request, None)) or ("nobody yet",),
            problem="nobody leads ipam: no request is answered"
            if nobody
            else "ipam has not answered yet",
            remedy=place.see("ipam"),
        )
        return
    yield from _refused(request, refusal)


def _refused(request: intent.Request, refusal: grant.Refusal) -> Iterator[Stage]:
    remedy = offering.remedy_of(request, refusal)
    is_choice = refusal.reason in _OF_CHOICE
    lines = tuple(f"{each.endpoint}: {each.reason}" for each in refusal.candidates)
    if not is_choice:
        considered = [each.endpoint for each in refusal.candidates]
        yield Stage(name="chosen", state="ok", lines=(_considered(considered),))
    yield Stage(
        name="chosen" if is_choice else "granted",
        state="wrong",
        lines=lines or ("nothing",),
        problem=f"{refusal.reason}: {refusal.message}".removesuffix(f"; {remedy}"),
        remedy=remedy or of_reason(refusal.reason),
    )


def _considered(endpoints: list[str]) -> str:
    """Who could have served; why they do not is told where they fell out."""
    return f"could be {few(endpoints)}" if endpoints else "see below"


def _why(found: Evidence, request: intent.Request, granted: grant.Connection) -> Iterator[str]:
    pod = granted.server.pod
    yield (
        f"endpoint {granted.endpoint_namespace}/{granted.endpoint}, its Pod {pod.name} on node {pod.node}"
    )
    reasons = []
    key = NetworkServiceKey(granted.network_service_namespace, granted.network_service)
    rules = found.told.get(key)
    if (
        rules is not None
        and isinstance(rules.message, intent.NetworkService)
        and rules.message.matches
    ):
        reasons.append(f"a match of NetworkService {key.namespace}/{key.name} leads there")
    elif request.labels:
        reasons.append(f"it is one{labels(request.labels)}")
    else:
        reasons.append("it offers the network service")
    if pod.node == request.pod.node:
        reasons.append("it is on the client's node")
    yield f"because {', and '.join(reasons)}"
    offered = found.told.get(EndpointKey(granted.endpoint_namespace, granted.endpoint, pod.name))
    if offered is not None and isinstance(offered.message, intent.Endpoint):
        yield from offered.message.edited_in_vain


def _others(
    found: Evidence, request: intent.Request, granted: grant.Connection | None
) -> Iterator[str]:
    """Who else there is, as of now."""
    current = None
    if granted is not None:
        current = EndpointKey(granted.endpoint_namespace, granted.endpoint, granted.server.pod.name)
    choice = choosing.choose(
        _registry(found), request, current=current, previous=granted, paths=Paths()
    )
    if isinstance(choice, choosing.NoChoice):
        yield f"now: {choice.reason}: {choice.message}"
        return
    fit = (each for each in choice.candidates() if each.key != current)
    for each in islice(fit, _MOST):
        yield f"would do, too: {choosing.describe(each)} on node {each.pod.node}"
    out = (*choice.closed(), *choice.unfit())
    endpoints = choice.offers.endpoints
    for fallen in out[:_MOST]:
        yield f"fell out: {choosing.describe(endpoints[fallen.key])} {fallen.text}"
    if len(out) > _MOST:
        yield f"and {len(out) - _MOST} more fell out"


def _registry(found: Evidence) -> Registry:
    registry = Registry()
    for key, each in found.told.items():
        if isinstance(key, EndpointKey) and isinstance(each.message, intent.Endpoint):
            registry.put_endpoint(key, each.message)
        elif isinstance(key, NetworkServiceKey) and isinstance(each.message, intent.NetworkService):
            registry.put_network_service(key, each.message)
    return registry
