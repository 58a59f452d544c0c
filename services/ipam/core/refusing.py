"""Refusals in words: every candidate and why it fell out, the nearest to a connection first, and what mends it."""

from collections.abc import Iterator, Sequence
from itertools import islice

from schemas import grant, intent
from schemas.reasons import PREFIX_COLLISION
from services.ipam.core.choosing import Choice, Fallen, describe

MOST_NAMED = 20  # of thousands of replicas nobody reads more

# The cause nearest to a connection leads: it is the one to mend first.
REMEDIES = {
    "PoolExhausted": "add a prefix to the endpoint's ipam.prefixes or remove clients",
    PREFIX_COLLISION: "give the endpoint a prefix or route that nothing in the cluster uses",
    "NodeSilent": (
        "the node's return opens the endpoint again, and so does deleting the Node object of one that will not"
    ),
    "BadEndpoint": "correct the NetworkServiceEndpoint",
    "NoPrefixes": "add ipam.prefixes to the NetworkServiceEndpoint, or free a supernet of IPAM_AUTOMATIC_PREFIXES",
    "RemoteNotSupported": "mend that node, or run an endpoint Pod on the client's node",
    "EndpointNodeNotReady": "see why its node is not Ready",
    "EndpointNotReady": "see why the endpoint Pod is not Ready",
    "NoMatchingEndpoint": "correct the labels in the annotation or on the endpoint",
}
_PRECEDENCE = {reason: at for at, reason in enumerate(REMEDIES)}


def refuse_all(request: intent.Request, choice: Choice, tried: Sequence[Fallen]) -> grant.Refusal:
    """Nobody could serve. Some are named, in an order that no load changes; the others are counted."""
    named = list(islice(_by_nearness(choice, tried), MOST_NAMED))
    reason = named[0].code
    endpoints = choice.offers.endpoints
    candidates = tuple(
        grant.Candidate(endpoint=describe(endpoints[each.key]), reason=each.text) for each in named
    )
    why = "; ".join(f"{each.endpoint} {each.reason}" for each in candidates)
    rest = len(endpoints) - len(named)
    more = f"; and {rest} more" if rest else ""
    remedy = named[0].remedy or REMEDIES[reason]
    message = f"network service {request.network_service}: {why}{more}; {remedy}"
    return refuse(request, reason, message, candidates)


def _by_nearness(choice: Choice, tried: Sequence[Fallen]) -> Iterator[Fallen]:
    told = {each.key for each in tried if not each.is_general}
    for each in sorted(tried, key=lambda each: (_PRECEDENCE[each.code], each.key.subject)):
        if not each.is_general:
            yield each
            continue
        # Not the one that was tried first: which that is hangs on loads.
        for key in choice.open_of(each.key.endpoint):
            if key not in told:
                yield each._replace(key=key)
    yield from choice.closed()
    yield from choice.unfit()


def refuse(
    request: intent.Request,
    reason: str,
    message: str,
    candidates: tuple[grant.Candidate, ...] = (),
) -> grant.Refusal:
    """A refusal of this very request."""
    return grant.Refusal(
        namespace=request.pod.namespace,
        pod=request.pod.name,
        interface=request.interface,
        uid=request.pod.uid,
        network_service=request.network_service,
        reason=reason,
        message=message,
        candidates=candidates,
    )
