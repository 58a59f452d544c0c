"""Whether the Pod shows what has become of its wishes: its condition against what the watcher would write."""

import msgspec

from cli import offering
from cli.explain.model import Evidence, Stage
from cli.remedies import Place
from cli.status.counting import facts_of
from schemas import live
from schemas.subjects import AliveKey, LeaseKey
from services.watcher.core import report
from services.watcher.core.requests import Wanted
from services.watcher.model import CONDITION


def told_to_pod(found: Evidence, asks: Wanted | None, place: Place, why: offering.Why) -> Stage:
    """The condition of the Pod, and whether it can be told anything new."""
    stage = _condition(found, asks, place, why)
    deaf = deafness(found, place)
    if not deaf or not stage.is_well:
        return stage
    remedy = place.start("watcher") if LeaseKey("watcher") not in found.told else place.see_api()
    lines = stage.lines or ("nothing: it asks for nothing",)
    return msgspec.structs.replace(stage, lines=lines).waits(deaf, remedy)


def deafness(found: Evidence, place: Place) -> str:
    """Why what is edited in Kubernetes waits; empty: it does not, as far as anybody tells."""
    lease = found.told.get(LeaseKey("watcher"))
    leader = lease.message if lease is not None else None
    troubles = leader.word.troubles if isinstance(leader, live.Lease) else ()
    # Who cannot reach a cluster's API server that the watcher hears may have the wrong way to it.
    if found.is_api_away and (place.is_lab or leader is None or troubles):
        return f"edits wait, connections stay: {found.api_note}"
    if leader is None:
        return "nobody leads watcher: edits wait, connections stay"
    return f"watcher: {troubles[0]}" if troubles else ""


def _condition(found: Evidence, asks: Wanted | None, place: Place, why: offering.Why) -> Stage:
    if found.pod is None or asks is None:
        unknown = found.api_note or "the Pod is gone from Kubernetes"
        return Stage(name="told", state="unknown", lines=(f"condition not known: {unknown}",))
    shown = report.showing(found.pod)
    must = report.report(
        found.pod,
        asks,
        shown,
        lambda each: facts_of(each, found.told, why),
        # That a heartbeat is missing counts only after a while, which the watcher alone measures.
        heard=True if AliveKey(found.pod.node) in found.told else None,
    )
    if must is None:
        return Stage(name="told", state="none", lines=())
    if shown.connected is None:
        says = f"it has no condition {CONDITION}"
    else:
        says = f"condition {CONDITION} is {shown.status}, {shown.reason}"
    lines = (says,)
    if (shown.status, shown.reason) == (must.status, must.reason):
        return Stage(name="told", state="ok", lines=lines)
    return Stage(
        name="told",
        state="waits",
        lines=lines,
        problem=f"{says}, and should say {must.status}, {must.reason}: the watcher has not told it",
        remedy=place.see("watcher"),
    )
