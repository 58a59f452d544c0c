"""How objects go: grace for Pods, finalizers, and namespaces that take everything in them along.

A Pod that runs somewhere is only marked; its kubelet confirms by deleting it again with grace 0. Finalizers
keep any object until the last one is removed. A namespace goes when it is empty, and with a definition go all
objects of its kind.
"""

import datetime as dt
from typing import Any

import msgspec

from lab.api import definitions, fields
from lab.api.errors import ApiError, forbidden, precondition
from lab.api.history import Record
from lab.api.kinds import DEFINITIONS, KINDS, NAMESPACES, PODS, Kind
from lab.api.selectors import Selection
from lab.api.shelves import Shelves

Obj = dict[str, Any]

_PROTECTED = frozenset({"default", "kube-system"})


class Removed(msgspec.Struct, frozen=True):
    """What a delete did: the object as it is or was last, and whether it is gone."""

    body: Obj
    gone: bool


class Removal(Shelves):
    """Deleting, on top of the shelves."""

    def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        grace_seconds: int | None = None,
        uid: str = "",
        version: str = "",
        dry_run: bool = False,
    ) -> Removed:
        """Delete an object, or begin to. Raises ApiError (NotFound, Conflict, Forbidden)."""
        record = self.record(kind, namespace, name)
        metadata = record.body["metadata"]
        if uid not in ("", metadata["uid"]):
            found = metadata["uid"]
            raise precondition(kind, name, what="UID", wanted=uid, found=found)
        if version not in ("", metadata["resourceVersion"]):
            found = metadata["resourceVersion"]
            raise precondition(kind, name, what="ResourceVersion", wanted=version, found=found)
        if kind == NAMESPACES and name in _PROTECTED:
            raise forbidden(kind, name, "this namespace may not be deleted")
        if dry_run:
            return Removed(record.copy(), gone=False)
        if kind == NAMESPACES:
            return self._delete_namespace(record)
        if kind == DEFINITIONS and (defined := definitions.kind_of(record.body)):
            self.delete_all(defined, Selection(), grace_seconds=0)
        return self._delete_one(kind, record, _grace(kind, record.body, grace_seconds))

    def delete_all(
        self,
        kind: Kind,
        wanted: Selection,
        *,
        grace_seconds: int | None = None,
        dry_run: bool = False,
    ) -> list[Obj]:
        """Delete everything of a kind that matches; what was meant, as it was."""
        found = [r for _, r in sorted(self.shelf(kind).records.items()) if wanted.holds(r.body)]
        for record in found:
            try:
                where, name = fields.namespace_of(record.body), fields.name_of(record.body)
                self.delete(kind, where, name, grace_seconds=grace_seconds, dry_run=dry_run)
            except ApiError as error:
                if error.reason != "NotFound":  # a callback may have been faster
                    raise
        return [record.copy() for record in found]

    def _delete_one(self, kind: Kind, record: Record, grace: int) -> Removed:
        metadata = record.body["metadata"]
        if grace == 0 and not metadata.get("finalizers"):
            return self._take_off(kind, record)
        if "deletionTimestamp" not in metadata:
            due = self.now() + dt.timedelta(seconds=grace)
            return Removed(self._mark(kind, record, due, grace).copy(), gone=False)
        left = metadata.get("deletionGracePeriodSeconds", 0)
        began = fields.moment(metadata["deletionTimestamp"])
        if grace < left and began is not None:
            due = began - dt.timedelta(seconds=left - grace)
            record = self._mark(kind, record, due, grace)
        return Removed(record.copy(), gone=False)

    def _mark(self, kind: Kind, record: Record, due: dt.datetime, grace: int) -> Record:
        metadata = record.body["metadata"] | {
            "deletionTimestamp": fields.timestamp(due),
            "deletionGracePeriodSeconds": grace,
        }
        if kind.generation:
            metadata["generation"] = metadata.get("generation", 1) + 1
        return self._replace(kind, record, record.body | {"metadata": metadata})

    def _take_off(self, kind: Kind, record: Record) -> Removed:
        last = self._remove(kind, record)
        if kind.namespaced:
            self._remove_if_drained(fields.namespace_of(last.body))
        return Removed(last.copy(), gone=True)

    def _removed_by_update(self, kind: Kind, record: Record) -> bool:
        """Whether this update took the last finalizer of an object that was waiting for just that."""
        metadata = record.body["metadata"]
        if "deletionTimestamp" not in metadata or metadata.get("finalizers"):
            return False
        if kind == NAMESPACES:
            return self._remove_if_drained(metadata["name"])
        if metadata.get("deletionGracePeriodSeconds", 0) != 0:
            return False
        return self._take_off(kind, record).gone

    # ---- namespaces

    def _delete_namespace(self, record: Record) -> Removed:
        name = fields.name_of(record.body)
        if "deletionTimestamp" not in record.body["metadata"]:
            body = record.body | {"status": {"phase": "Terminating"}}
            stamp = {"deletionTimestamp": fields.timestamp(self.now())}
            record = self._replace(
                NAMESPACES, record, body | {"metadata": body["metadata"] | stamp}
            )
        for kind in KINDS:
            if kind.namespaced and not kind.stored_as:
                self.delete_all(kind, Selection(namespace=name))
        gone = (
            not self._remove_if_drained(name) and ("", name) not in self.shelf(NAMESPACES).records
        )
        return Removed(record.copy(), gone=gone)

    def _remove_if_drained(self, name: str) -> bool:
        record = self.shelf(NAMESPACES).records.get(("", name))
        if record is None or "deletionTimestamp" not in record.body["metadata"]:
            return False
        if record.body["metadata"].get("finalizers") or self._inhabited(name):
            return False
        self._remove(NAMESPACES, record)
        return True

    def _inhabited(self, namespace: str) -> bool:
        kinds = (kind for kind in KINDS if kind.namespaced and not kind.stored_as)
        return any(key[0] == namespace for kind in kinds for key in self.shelf(kind).records)


def _grace(kind: Kind, pod: Obj, asked: int | None) -> int:
    """Seconds a kubelet gets. Only Pods that run somewhere need any."""
    if kind != PODS or not fields.text(pod, "spec", "nodeName"):
        return 0
    if fields.text(pod, "status", "phase") in ("Succeeded", "Failed"):
        return 0
    if asked is not None:
        return max(asked, 0)
    own = fields.part(pod, "spec").get("terminationGracePeriodSeconds")
    return own if isinstance(own, int) else 30
