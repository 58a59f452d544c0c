"""Reasons of conditions, events and refused logins, from `schemas.reasons`."""

from pathlib import Path

from schemas import reasons
from tools.reference.table import code, table

_INTRO = """# Reasons

Stable words in conditions, Events, the status annotation, refusals on the bus and logs. The message
beside a reason names the thing and the value; this page says what to do, and who: the *user* who wrote the
annotation, the endpoint or the Pod, or the *operator* of the mesh, whom `nsm status` tells
of all that lasts; of what is past already (`InterfaceRepaired`, `Readdressed`) Events alone tell.

"""


def _whose(reason: reasons.Reason) -> str:
    if not reason.remedy:
        return ""
    return "user" if reason.is_users else "operator"


def page(_root: Path) -> str:
    parts = [_INTRO]
    for title, group in (
        ("Pods and objects", reasons.OBJECTS),
        ("Logins to the bus", reasons.LOGINS),
    ):
        rows = [
            (code(name), reason.meaning, _whose(reason), reason.remedy)
            for name, reason in group.items()
        ]
        parts += [f"## {title}\n\n", table(["reason", "meaning", "who acts", "what to do"], rows)]
    return "".join(parts)
