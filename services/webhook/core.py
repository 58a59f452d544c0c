"""Pod → gate or none, and what its author should know. It lets everybody in."""

from schemas.annotation import ANNOTATION, CONDITION, AnnotationError, parse
from services.webhook.model import Operation, Pod, Verdict

GATES = "/spec/readinessGates"
_MOST_SHOWN = 250  # the API server may cut a longer warning, and the remedy stands at its end
_UNCHANGED = Verdict()


def judge(pod: Pod, namespace: str) -> Verdict:
    """The gate, for whoever asks for network services and has it not; a warning where they cannot come.

    A Pod whose annotation makes no sense gets the gate, too: else a slip of the pen would replace a
    Deployment's connected Pods, one by one, with Ready ones that are not.
    """
    asked = (pod.metadata.annotations or {}).get(ANNOTATION, "")
    warnings: tuple[str, ...] = ()
    try:
        if not parse(asked, namespace=namespace):
            return _UNCHANGED
    except AnnotationError as exc:
        warnings = (_told(exc),)
    if pod.spec.host_network:
        warnings = (*warnings, HOST_NETWORK)
    return Verdict(patch=_gate(pod), warnings=warnings)


HOST_NETWORK = (
    f"annotation {ANNOTATION}: a Pod with hostNetwork is not connected to network services, and will not be"
    " Ready; run it without hostNetwork, or remove the annotation"
)


def _gate(pod: Pod) -> tuple[Operation, ...]:
    gates, ours = pod.spec.readiness_gates, {"conditionType": CONDITION}
    if not gates:
        return ({"op": "add", "path": GATES, "value": [ours]},)
    if any(each.condition_type == CONDITION for each in gates):
        return ()
    return ({"op": "add", "path": f"{GATES}/-", "value": ours},)


def _told(error: AnnotationError) -> str:
    place, remedy = f"annotation {ANNOTATION}, column {error.column}: ", f"; {error.remedy}"
    room = _MOST_SHOWN - len(place) - len(remedy)
    reason = error.reason if len(error.reason) <= room else f"{error.reason[: room - 1]}…"
    return f"{place}{reason}{remedy}"
