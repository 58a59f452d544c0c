"""Reading free-form objects: a missing branch is an empty one, never an exception."""

import datetime as dt
from typing import Any

Json = dict[str, Any]


def part(obj: Json, *path: str) -> Json:
    """The dictionary at `path`, or an empty one."""
    here: Any = obj
    for step in path:
        here = here.get(step) if isinstance(here, dict) else None
    return here if isinstance(here, dict) else {}


def items(obj: Json, *path: str) -> list[Any]:
    """The list at `path`, or an empty one."""
    found = part(obj, *path[:-1]).get(path[-1])
    return found if isinstance(found, list) else []


def text(obj: Json, *path: str) -> str:
    """The string at `path`; numbers and truth values as JSON writes them; otherwise empty."""
    found = part(obj, *path[:-1]).get(path[-1])
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, int | float):
        return str(found)
    return found if isinstance(found, str) else ""


def name_of(obj: Json) -> str:
    return text(obj, "metadata", "name")


def namespace_of(obj: Json) -> str:
    return text(obj, "metadata", "namespace")


def labels_of(obj: Json) -> dict[str, str]:
    return part(obj, "metadata", "labels")


def timestamp(moment: dt.datetime) -> str:
    """RFC 3339 in seconds, as metav1.Time writes it."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(stamp: str) -> dt.datetime | None:
    """The time a stamp says, with or without fractions; None if it says none."""
    try:
        found = dt.datetime.fromisoformat(stamp)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)
