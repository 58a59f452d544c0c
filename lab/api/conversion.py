"""One Event, two spellings: core/v1 is stored, events.k8s.io/v1 is shown and accepted. Pure."""

from typing import Any

from lab.api.kinds import EVENTS, NEW_EVENTS, Kind

Obj = dict[str, Any]

_NEW_NAMES = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_OLD_NAMES = {new: old for old, new in _NEW_NAMES.items()}


def outward(kind: Kind, stored: Obj) -> Obj:
    """A stored object as this kind's clients know it."""
    if kind != NEW_EVENTS:
        return stored
    renamed = {_NEW_NAMES.get(name, name): value for name, value in stored.items()}
    return renamed | {"apiVersion": NEW_EVENTS.api_version}


def inward(kind: Kind, given: Obj) -> Obj:
    """What a client of this kind sent, as it is stored."""
    if kind != NEW_EVENTS:
        return given
    renamed = {_OLD_NAMES.get(name, name): value for name, value in given.items()}
    return renamed | {"apiVersion": EVENTS.api_version}
