"""Every kind's shelf under one version counter: reading, watching, and the one place that commits.

Callers get copies; what lies on the shelves is never changed, only replaced. Watch callbacks run inside the
write that caused them, on the event loop: they must not block.
"""

import datetime as dt
import random
import uuid
from collections.abc import Callable
from typing import Any

from lab.api import definitions, fields, shapes
from lab.api.errors import ApiError, not_found
from lab.api.history import Change, Record, Shelf
from lab.api.kinds import DEFINITIONS, EVENTS, KINDS, Kind
from lab.api.selectors import select

Obj = dict[str, Any]
Watcher = Callable[[str, Obj], None]

EVENT_TTL = dt.timedelta(hours=1)

# Without vowels and look-alikes, as the real server names things.
_NAME_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"


def utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Shelves:
    """The objects of the lab's cluster."""

    def __init__(self, *, clock: Callable[[], dt.datetime] = utc_now, history: int = 2000) -> None:
        self.version = 1
        self._true_clock = clock
        self._jumped = dt.timedelta()
        self._life = 0  # how often a backup was restored
        self._shelves = {kind: Shelf(kind, keep=history) for kind in KINDS if not kind.stored_as}

    def shelf(self, kind: Kind) -> Shelf:
        return self._shelves[EVENTS if kind.stored_as == EVENTS.plural else kind]

    def now(self) -> dt.datetime:
        return self._true_clock() + self._jumped

    @property
    def served(self) -> list[Kind]:
        """The kinds that clients may ask for now: a custom one only while its definition is there."""
        return [kind for kind in KINDS if not kind.custom or self.definition(kind) is not None]

    def definition(self, kind: Kind) -> Obj | None:
        """What defines a custom kind, not to be changed; None for a built-in one, or if it is not there."""
        if not kind.custom:
            return None
        record = self.shelf(DEFINITIONS).records.get(("", kind.resource))
        served = record is not None and definitions.kind_of(record.body) is kind
        return record.body if record is not None and served else None

    def schema_of(self, kind: Kind) -> Obj:
        """The structural schema of a kind as it is now."""
        definition = self.definition(kind)
        if definition is None:
            return shapes.shape_of(kind)
        return shapes.whole(definitions.schema(definition, kind))

    def has_status(self, kind: Kind) -> bool:
        """Whether the status of a kind is written by a request of its own."""
        definition = self.definition(kind)
        return kind.status if definition is None else definitions.has_status(definition, kind)

    # ---- reading

    def record(self, kind: Kind, namespace: str, name: str) -> Record:
        """The stored record, not to be changed. Raises ApiError (NotFound)."""
        found = self.shelf(kind).records.get((namespace if kind.namespaced else "", name))
        if found is None:
            raise not_found(kind, name)
        return found

    def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        """An object. Raises ApiError (NotFound)."""
        return self.record(kind, namespace, name).copy()

    def find(self, kind: Kind, namespace: str, name: str) -> Obj | None:
        """An object, or None."""
        try:
            return self.get(kind, namespace, name)
        except ApiError:
            return None

    def objects(
        self, kind: Kind, *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> list[Obj]:
        """Objects that match the selectors, by namespace and name."""
        wanted = select(kind, namespace=namespace, labels=labels, fields=fields)
        records = sorted(self.shelf(kind).records.items())
        return [record.copy() for _, record in records if wanted.holds(record.body)]

    def watch(
        self,
        kind: Kind,
        callback: Watcher,
        *,
        namespace: str = "",
        labels: str = "",
        fields: str = "",
        replay: bool = True,
    ) -> Callable[[], None]:
        """Call `callback(event_type, object)` for every change from now on; returns what ends it.

        `replay` first gives what is there already, as ADDED.
        """
        wanted = select(kind, namespace=namespace, labels=labels, fields=fields)

        start, life = self.version, self._life

        def on_change(change: Change) -> None:
            # Inside another callback a change that is part of the replay may still be on its way to us.
            if (change.version > start or self._life != life) and (event := change.seen_by(wanted)):
                callback(event[0], event[1].copy())

        if replay:
            for _, record in sorted(self.shelf(kind).records.items()):
                if wanted.holds(record.body):
                    callback("ADDED", record.copy())
        return self.shelf(kind).listen(on_change)

    # ---- committing

    def _add(self, kind: Kind, body: Obj, applied: dict[str, Any] | None = None) -> Record:
        metadata = body["metadata"]
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = fields.timestamp(self.now())
        metadata["resourceVersion"] = str(self._next())
        record = Record(body, applied)
        self._commit(kind, None, record, record)
        return record

    def _replace(self, kind: Kind, old: Record, body: Obj) -> Record:
        body["metadata"] = body["metadata"] | {"resourceVersion": str(self._next())}
        record = Record(body, old.applied)
        self._commit(kind, old, record, record)
        return record

    def _remove(self, kind: Kind, old: Record) -> Record:
        last = old.at(self._next())
        self._commit(kind, old, None, last)
        return last

    def _commit(
        self, kind: Kind, before: Record | None, after: Record | None, last: Record
    ) -> None:
        key = (fields.namespace_of(last.body), fields.name_of(last.body))
        self.shelf(kind).commit(Change(last.version, key, before, after, last))

    def _next(self) -> int:
        self.version += 1
        return self.version

    def _new_name(self, prefix: str) -> str:
        return prefix[:58] + "".join(random.choices(_NAME_ALPHABET, k=5))

    # ---- what befalls a cluster

    def jump(self, seconds: float) -> None:
        """The server's clock goes forward, or back."""
        self._jumped += dt.timedelta(seconds=seconds)

    def compact(self) -> None:
        """Forget the past of every kind: whoever is behind has to list anew."""
        for shelf in self._shelves.values():
            shelf.forget()

    def restore(self, version: int) -> None:
        """Go back to what was at `version`, as from a backup: numbers given since are given again.

        In-process watchers are told the difference. Raises ApiError (Expired): that is too long ago.
        """
        past = {kind: shelf.at(version) for kind, shelf in self._shelves.items()}
        self.version = version
        self._life += 1
        for kind, records in past.items():
            self._shelves[kind].replace(records, version)

    def expire_events(self) -> None:
        """Remove Events nobody wrote to for an hour."""
        oldest = self.now() - EVENT_TTL
        for record in list(self.shelf(EVENTS).records.values()):
            written = _last_written(record.body)
            if written is not None and written < oldest:
                self._remove(EVENTS, record)


def _last_written(event: Obj) -> dt.datetime | None:
    stamps = (
        fields.text(event, "lastTimestamp"),
        fields.text(event, "series", "lastObservedTime"),
        fields.text(event, "metadata", "creationTimestamp"),
    )
    return max((found for stamp in stamps if (found := fields.moment(stamp))), default=None)
