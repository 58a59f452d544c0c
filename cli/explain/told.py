"""Whether the Pod shows what has become of its wishes: its condition against what the watcher would write."""

from cli.explain.model import Evidence, Stage
from cli.remedies import Place
from cli.status.counting import facts_of
from services.watcher.core import report
from services.watcher.core.requests import Wanted
from services.watcher.model import CONDITION


def told_to_pod(found: Evidence, asks: Wanted | None, place: Place) -> Stage:
    """The condition of the Pod."""
    if found.pod is None or asks is None:
        why = found.api_note or "the Pod is gone from Kubernetes"
        return Stage(name="told", state="unknown", lines=(f"condition not known: {why}",))
    shown = report.showing(found.pod)
    must = report.report(
        found.pod, asks, shown, lambda each: facts_of(each, found.told, found.endpoints)
    )
    if must is None:
        return Stage(name="told", state="none", lines=())
    if shown.connected is None:
        says = f"it has no condition {CONDITION}"
    else:
        says = f"condition {CONDITION} is {shown.connected}, {shown.reason}"
    lines = (says,)
    if (shown.connected, shown.reason) == (must.connected, must.reason):
        return Stage(name="told", state="ok", lines=lines)
    return Stage(
        name="told",
        state="waits",
        lines=lines,
        problem=f"{says}, and should say {must.connected}, {must.reason}: the watcher has not told it",
        remedy=place.see("watcher"),
    )
