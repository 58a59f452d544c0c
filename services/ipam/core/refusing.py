"""Refusals in words: every candidate and why it fell out, the nearest to a connection first, and what mends it."""

from collections.abc import Sequence

from schemas import grant, intent
from services.ipam.core.choosing import Fallen

MOST_NAMED = 20  # of thousands of replicas nobody reads more

# The cause nearest to a connection leads: it is the one to mend first.
REMEDIES = {
    "PoolExhausted": "add a prefix to the endpoint's ipam.prefixes or remove clients",
    "PrefixCollision": "give the endpoint a prefix or route that nothing in the cluster uses",
    "NodeSilent": (
        "the node's return opens the endpoint again, and so does deleting the Node object of one that will not"
    ),
    "BadEndpoint": "correct the NetworkServiceEndpoint",
    "NoPrefixes": "add ipam.prefixes to the NetworkServiceEndpoint",
    "RemoteNotSupported": "mend that node, or run an endpoint Pod on the client's node",
    "EndpointNotReady": "see why the endpoint Pod or its node is not Ready",
    "NoMatchingEndpoint": "correct the labels in the annotation or on the endpoint",
}
_PRECEDENCE = {reason: at for at, reason in enumerate(REMEDIES)}


def refuse_all(request: intent.Request, fallen: Sequence[Fallen]) -> grant.Refusal:
    """Nobody could serve."""
    by_nearness = sorted(fallen, key=lambda each: _PRECEDENCE[each[0]])
    reason = by_nearness[0][0]
    named = [candidate for _, candidate in by_nearness[:MOST_NAMED]]
    why = "; ".join(f"{candidate.endpoint} {candidate.reason}" for candidate in named)
    more = f"; and {len(fallen) - MOST_NAMED} more" if len(fallen) > MOST_NAMED else ""
    message = f"network service {request.network_service}: {why}{more}; {REMEDIES[reason]}"
    return refuse(request, reason, message, tuple(named))


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
