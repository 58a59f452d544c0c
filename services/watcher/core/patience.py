"""Patience: what will be otherwise in a moment is not said yet, or not as a warning."""

from schemas.reasons import NO_ENDPOINT, NOT_RELEASED
from services.watcher.core import resolving
from services.watcher.core.report import CONNECTING, UPDATING, Report, Showing

# What works is being renewed, or gets DNS in addition: a matter of moments.
_RENEWED = frozenset({UPDATING, resolving.PENDING})
_COMING = frozenset(
    {
        ("waiting", CONNECTING),
        ("refused", "EndpointNodeNotReady"),
        ("refused", "EndpointNotReady"),
        ("refused", NO_ENDPOINT),
        ("refused", NOT_RELEASED),
    }
)


def may_pass(before: Showing, after: Report) -> bool:
    """Whether what is missing may come within a moment, so that saying False meanwhile would be a flap.

    So it is at the beginning, and while a connected Pod gets more or has what works renewed.
    """
    if not after.waiting or before.connected is None:
        return after.waiting
    ready = {each.interface for each in before.items if each.state == "ready"}
    return before.connected and all(
        each.state == "ready" or each.reason in _RENEWED or each.interface not in ready
        for each in after.items
    )


def may_be_explained(before: Showing, after: Report) -> bool:
    """Whether something was lost and nobody said why yet: a refusal follows what it took within moments."""
    ready = {each.interface for each in before.items if each.state == "ready"}
    return any(
        each.state == "waiting" and each.reason == CONNECTING and each.interface in ready
        for each in after.items
    )


def coming(before: Showing, after: Report) -> frozenset[str]:
    """New interfaces of which no warning is due yet.

    Their endpoint is not there or not Ready, which is no trouble where both are made together; or the node has not
    taken down what they follow, which it does within moments; or nobody has answered, who may say so next.
    """
    known = {each.interface for each in before.items}
    return frozenset(
        each.interface
        for each in after.items
        if (each.state, each.reason) in _COMING and each.interface not in known
    )
