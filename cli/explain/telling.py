"""An explanation as a person reads it at 3 a.m.: one column of stages, 80 columns wide, the verdict last."""

from cli.explain.model import Explanation, Stage, State
from cli.output import folded

_SIGNS: dict[State, str] = {
    "ok": "ok",
    "wrong": "WRONG",
    "waits": "WAITS",
    "none": "-",
    "unknown": "?",
}
_HANGING = 20


def tell(found: Explanation) -> None:
    """Print it."""
    where = f" on {found.node}" if found.node else ""
    print(f"pod {found.pod}{where}")
    _tell_stage(found.asked, indent=0)
    for item in found.items:
        print(f"\n{item.interface}  ({item.network_service})")
        for stage in item.stages:
            _tell_stage(stage, indent=2)
    if found.items:
        print()
    for stage in (found.serves, found.told):
        if stage.lines:
            _tell_stage(stage, indent=0)
    print()
    if found.well:
        # Who asked nobody but the bus cannot tell of the Pod's own annotation.
        is_known = found.asked.state != "unknown"
        print("all is well" if is_known else "all is well, as far as the bus tells")
        return
    print(folded(f"WRONG {found.first}", hanging=6))
    print(folded(f"   do: {found.remedy}", hanging=7))


def _tell_stage(stage: Stage, *, indent: int) -> None:
    head = f"{' ' * indent}{stage.name:<{11 - indent}}{_SIGNS[stage.state]:<7}"
    for number, line in enumerate(stage.lines or ("",)):
        lead = head if number == 0 else " " * len(head)
        print(folded(f"{lead}{line}", hanging=_HANGING))
