"""All objects of one kind, and what lately happened to them.

A record is never changed, only replaced; every replacement is a change with a version. The window of past
changes is bounded: who asks for more is told `Expired` and has to list anew. Going back to a version inside
the window is exact, which is what makes paged lists consistent.
"""

import bisect
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from lab.api.errors import expired
from lab.api.kinds import Kind
from lab.api.selectors import Selection

Key = tuple[str, str]  # namespace (empty if cluster-wide), name
Listener = Callable[["Change"], None]

log = structlog.get_logger()


class Record:
    """One version of an object: parsed, and as bytes once somebody asked for them."""

    __slots__ = ("_raw", "applied", "body", "version")

    def __init__(self, body: dict[str, Any], applied: dict[str, Any] | None = None) -> None:
        self.body = body
        self.version = int(body["metadata"]["resourceVersion"])
        # What each field manager stated last: one map, shared by all versions of an object.
        self.applied = {} if applied is None else applied
        self._raw = b""

    @property
    def raw(self) -> bytes:
        if not self._raw:
            self._raw = msgspec.json.encode(self.body)
        return self._raw

    def copy(self) -> dict[str, Any]:
        """The object, for a caller that may change it."""
        copied: dict[str, Any] = msgspec.json.decode(self.raw)
        return copied

    def at(self, version: int) -> "Record":
        """The same object as it is shown in an event of a later version."""
        metadata = self.body["metadata"] | {"resourceVersion": str(version)}
        return Record(self.body | {"metadata": metadata})


class Change(msgspec.Struct, frozen=True, eq=False):
    """What happened to one object."""

    version: int
    key: Key
    before: Record | None
    after: Record | None
    last: Record  # `after`, or how the object looked when it went

    def seen_by(self, selection: Selection) -> tuple[str, Record] | None:
        """The event a watcher of `selection` gets, or None.

        An object that starts or ceases to match appears and vanishes for that watcher.
        """
        now = self.after is not None and selection.holds(self.after.body)
        then = self.before is not None and selection.holds(self.before.body)
        if now:
            return ("MODIFIED" if then else "ADDED"), self.last
        if then and self.before is not None:
            gone = self.last if self.after is None else self.before.at(self.version)
            return "DELETED", gone
        return None


class Shelf:
    """The records of one kind."""

    def __init__(self, kind: Kind, *, keep: int) -> None:
        self.kind = kind
        self.version = 0  # of the last change
        self.records: dict[Key, Record] = {}
        self.keys: list[
            Key
        ] = []  # of the records, in order: a page of a long list costs what is on it
        self._changes: deque[Change] = deque()
        self._keep = keep
        self._forgotten = 0
        self._listeners: set[Listener] = set()
        self._untold: deque[Change] = deque()

    def commit(self, change: Change) -> None:
        if change.after is None:
            if self.records.pop(change.key, None) is not None:
                del self.keys[bisect.bisect_left(self.keys, change.key)]
        else:
            if change.key not in self.records:
                bisect.insort(self.keys, change.key)
            self.records[change.key] = change.after
        self.version = change.version
        self._changes.append(change)
        if len(self._changes) > self._keep:
            self._forgotten = self._changes.popleft().version
        self._untold.append(change)
        if len(self._untold) == 1:
            self._tell()

    def _tell(self) -> None:
        # A listener may write, as a scheduler does. Its change waits here until all have heard of the first:
        # everyone hears of changes in the order of their versions.
        while self._untold:
            for listener in tuple(self._listeners):
                try:
                    listener(self._untold[0])
                except Exception:
                    log.exception("watch callback failed", kind=self.kind.kind)
            self._untold.popleft()

    def since(self, version: int) -> list[Change]:
        """Every change after `version`, oldest first. Raises ApiError (Expired)."""
        self._require(version)
        newer: deque[Change] = deque()
        for change in reversed(self._changes):
            if change.version <= version:
                break
            newer.appendleft(change)
        return list(newer)

    def at(self, version: int) -> dict[Key, Record]:
        """The records as they were at `version`. Raises ApiError (Expired)."""
        self._require(version)
        records = dict(self.records)
        for change in reversed(self._changes):
            if change.version <= version:
                break
            if change.before is None:
                records.pop(change.key, None)
            else:
                records[change.key] = change.before
        return records

    def forget(self) -> None:
        """Drop the window, as a compaction does: whoever is behind has to list anew."""
        if self._changes:
            self._forgotten = self._changes[-1].version
            self._changes.clear()

    def replace(self, records: dict[Key, Record], version: int) -> None:
        """What was at `version` is all there is, and nothing is known of the time before."""
        before = self.records
        self.records = dict(records)
        self.keys = sorted(records)
        self.version = version
        self._changes.clear()
        self._forgotten = version
        for key in before.keys() | records.keys():
            old, new = before.get(key), records.get(key)
            last = new or old
            if old is not new and last is not None:
                self._untold.append(Change(version, key, old, new, last))
        self._tell()

    def listen(self, listener: Listener) -> Callable[[], None]:
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def _require(self, version: int) -> None:
        if version < self._forgotten:
            raise expired(f"too old resource version: {version} ({self._forgotten})")
