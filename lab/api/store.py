"""Writing objects under Kubernetes' rules: create, update, patch, apply, bind.

Everything is synchronous and atomic on the event loop. HTTP and the lab's own kubelet and scheduler go
through the same methods, so neither can do what the other may not.
"""

import datetime as dt
import ipaddress
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec

from lab.api import definitions, fields, patching, strategies, structural, validating
from lab.api.errors import (
    Cause,
    already_exists,
    bad_request,
    bad_value,
    conflict,
    forbidden,
    invalid,
    precondition,
    stale,
    unknown_fields,
)
from lab.api.history import Record
from lab.api.kinds import (
    DEFINITIONS,
    EVENTS,
    NAMESPACES,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICE_CIDRS,
    SERVICES,
    Kind,
)
from lab.api.removal import Removal
from lab.api.shelves import utc_now

Obj = dict[str, Any]
PatchKind = Literal["json", "merge", "strategic"]

FIRST_NAMESPACES = ("default", "kube-system", "nsm-system")


class Store(Removal):
    """The lab's cluster state. `Store()` starts with its first namespaces in place."""

    def __init__(
        self,
        *,
        clock: Callable[[], dt.datetime] = utc_now,
        history: int = 2000,
        service_prefix: str = "10.96.0.0/16",
    ) -> None:
        super().__init__(clock=clock, history=history)
        self._service_prefix = ipaddress.IPv4Network(service_prefix)
        self.unknown: list[str] = []  # fields that the last write named and nobody knows
        for definition in definitions.shipped():
            self.create(DEFINITIONS, definition)
        for name in FIRST_NAMESPACES:
            self.create(NAMESPACES, {"metadata": {"name": name}})
        cidr = {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [service_prefix]}}
        self.create(SERVICE_CIDRS, cidr)

    # ---- create

    def create(
        self,
        kind: Kind,
        obj: Obj,
        *,
        dry_run: bool = False,
        strict: bool = False,
        manager: str = "",
        stated: Any = None,
    ) -> Obj:
        """A new object; `strict` refuses fields that nobody knows, else they are dropped.

        Raises ApiError (Invalid, AlreadyExists, NotFound, Forbidden).
        """
        new = _cleaned(kind, obj)
        metadata = new["metadata"]
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        for name in ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"):
            metadata.pop(name, None)
        namespace = metadata.get("namespace", "")
        if kind.namespaced:
            self._require_namespace(kind, namespace, metadata.get("name", ""))
        if not metadata.get("name"):
            prefix = metadata.get("generateName", "")
            if not prefix:
                raise invalid(kind, "", [validating.no_name()])
            metadata["name"] = self._new_name(prefix)
        self._shape(kind, new, strict=strict)
        if causes := validating.problems(kind, new, self.schema_of(kind)):
            raise invalid(kind, metadata["name"], causes)
        if (namespace, metadata["name"]) in self.shelf(kind).records:
            raise already_exists(kind, metadata["name"])
        strategies.begin(kind, new)
        if kind == DEFINITIONS:
            new["status"] = definitions.status(new, self.now())
        if kind == SERVICES:
            self._give_address(new)
        if dry_run:
            stamp = fields.timestamp(self.now())
            return new | {"metadata": metadata | {"creationTimestamp": stamp}}
        record = self._add(kind, new, {manager: stated} if stated is not None else None)
        if kind == NAMESPACES:
            account = {"metadata": {"name": "default", "namespace": metadata["name"]}}
            self.create(SERVICE_ACCOUNTS, account)
        return record.copy()

    def _shape(self, kind: Kind, new: Obj, *, strict: bool, status: bool = False) -> None:
        """Drop what nobody knows, add what is left out; of a write to the status only that counts."""
        schema = self.schema_of(kind)
        self.unknown = structural.prune(schema, new)
        if strict and self.unknown:
            raise unknown_fields(kind, self.unknown)
        if kind.custom:
            structural.fill_in(schema, new)
        if not status:
            strategies.fill_in(kind, new)

    def _require_namespace(self, kind: Kind, namespace: str, name: str) -> None:
        if not namespace:
            raise bad_request("an empty namespace may not be set during creation")
        record = self.record(NAMESPACES, "", namespace)
        if "deletionTimestamp" in record.body["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            text = f"namespace {namespace} is being terminated"
            cause = Cause("metadata.namespace", "NamespaceTerminating", text)
            raise forbidden(kind, name, why, [cause])

    def _give_address(self, service: Obj) -> None:
        spec = service["spec"]
        wanted = spec.get("clusterIP") or ""
        if spec["type"] == "ExternalName":
            return
        if wanted != "None":
            taken = {
                fields.text(r.body, "spec", "clusterIP")
                for r in self.shelf(SERVICES).records.values()
            }
            if wanted in taken and wanted:
                why = f"failed to allocate IP {wanted}: provided IP is already allocated"
                raise invalid(
                    SERVICES, fields.name_of(service), [bad_value("spec.clusterIPs", [wanted], why)]
                )
            wanted = wanted or next(a for a in self._service_addresses() if a not in taken)
        spec |= {"clusterIP": wanted, "clusterIPs": [wanted]}

    def _service_addresses(self) -> Iterator[str]:
        # The lowest 256 are left to those who ask for one by name: kubernetes, kube-dns.
        hosts = iter(self._service_prefix.hosts())
        yield from (str(host) for number, host in enumerate(hosts) if number >= 255)

    # ---- update

    def update(
        self,
        kind: Kind,
        obj: Obj,
        *,
        status: bool = False,
        dry_run: bool = False,
        strict: bool = False,
    ) -> Obj:
        """Replace an object, or (`status`) its status. A stale resourceVersion is a Conflict.

        Raises ApiError (NotFound, Conflict, Invalid).
        """
        new = _cleaned(kind, obj)
        metadata = new["metadata"]
        record = self.record(kind, metadata.get("namespace", ""), metadata.get("name", ""))
        if kind.custom and not metadata.get("resourceVersion"):
            cause = bad_value("metadata.resourceVersion", 0, "must be specified for an update")
            raise invalid(kind, metadata["name"], [cause])
        return self._write(kind, record, new, status=status, dry_run=dry_run, strict=strict)

    def update_status(self, kind: Kind, obj: Obj) -> Obj:
        """Replace the status of an object."""
        return self.update(kind, obj, status=True)

    def _write(
        self, kind: Kind, record: Record, new: Obj, *, status: bool, dry_run: bool, strict: bool
    ) -> Obj:
        self._shape(kind, new, strict=strict, status=status)
        old, name = record.body, fields.name_of(record.body)
        self._check_identity(kind, record, new["metadata"])
        if status:
            new = strategies.keep_for_status(kind, old, new)
        else:
            strategies.keep_fixed(kind, old, new)
        causes = validating.problems(
            kind, new, self.schema_of(kind)
        ) or strategies.forbidden_changes(kind, old, new)
        if causes:
            raise invalid(kind, name, causes)
        fixed = {k: old["metadata"][k] for k in ("uid", "resourceVersion")}
        new["metadata"] = new["metadata"] | fixed
        if kind.generation:
            same = _intent(old) == _intent(new)
            new["metadata"]["generation"] = old["metadata"].get("generation", 1) + (not same)
        if kind == DEFINITIONS and new["spec"] != old["spec"]:
            new["status"] = definitions.status(new, self.now())
        if new == old:
            return record.copy()
        if dry_run:
            return new
        written = self._replace(kind, record, new)
        self._removed_by_update(kind, written)
        return written.copy()

    def _check_identity(self, kind: Kind, record: Record, metadata: Obj) -> None:
        old = record.body["metadata"]
        uid, version = metadata.get("uid") or "", metadata.get("resourceVersion") or ""
        if uid not in ("", old["uid"]):
            raise precondition(kind, old["name"], what="UID", wanted=uid, found=old["uid"])
        if version not in ("", old["resourceVersion"]):
            raise stale(kind, old["name"])

    # ---- patch and apply

    def patch(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        patch: Any,
        *,
        form: PatchKind = "merge",
        status: bool = False,
        dry_run: bool = False,
        strict: bool = False,
    ) -> Obj:
        """Change parts of an object. A uid or resourceVersion in the patch is a precondition.

        A uid that is another one is Invalid, not a Conflict as with `update`: so Kubernetes answers.

        Raises ApiError (NotFound, Conflict, Invalid, BadRequest).
        """
        record = self.record(kind, namespace, name)
        wanted = list if form == "json" else dict
        if not isinstance(patch, wanted):
            raise bad_request(f"a {form} patch is a JSON {wanted.__name__}")
        try:
            patched = _FORMS[form](record.copy(), patch)
        except patching.BadPatch as exc:
            cause = Cause("", "FieldValueInvalid", f"the patch cannot be applied: {exc}")
            raise invalid(kind, name, [cause]) from exc
        return self._write_patched(
            kind, record, patched, status=status, dry_run=dry_run, strict=strict
        )

    def _write_patched(
        self,
        kind: Kind,
        record: Record,
        patched: Any,
        *,
        status: bool,
        dry_run: bool,
        strict: bool,
    ) -> Obj:
        if not isinstance(patched, dict):
            raise bad_request("the patch leaves no object")
        new = _cleaned(kind, patched)
        metadata, old = new["metadata"], record.body["metadata"]
        for field in ("name", "namespace"):
            if metadata.get(field) != old.get(field):
                found = f"the {field} of the object ({metadata.get(field)})"
                raise bad_request(f"{found} does not match the one on the URL ({old.get(field)})")
        if metadata.get("uid") not in (None, "", old["uid"]):
            cause = bad_value("metadata.uid", metadata["uid"], "field is immutable")
            raise invalid(kind, old["name"], [cause])
        return self._write(kind, record, new, status=status, dry_run=dry_run, strict=strict)

    def apply(
        self,
        kind: Kind,
        obj: Obj,
        *,
        manager: str,
        status: bool = False,
        dry_run: bool = False,
        strict: bool = False,
    ) -> tuple[Obj, bool]:
        """Server-side apply: create the object, or merge in what `manager` states now.

        What it stated last time and leaves out now is removed. Nobody owns fields: there are no conflicts.
        Returns the object and whether it is new. Raises ApiError.
        """
        now = _cleaned(kind, obj)
        metadata = now["metadata"]
        key = (metadata.get("namespace", ""), metadata.get("name", ""))
        record = self.shelf(kind).records.get(key)
        if record is None:
            created = self.create(
                kind, now, dry_run=dry_run, strict=strict, manager=manager, stated=now
            )
            return created, True
        owner = f"{manager}/status" if status else manager
        before = record.applied.get(owner, {})
        try:
            merged = patching.reapply(record.copy(), before, now, keyed=not kind.custom)
        except patching.BadPatch as exc:
            raise invalid(kind, key[1], [Cause("", "FieldValueInvalid", str(exc))]) from exc
        written = self._write_patched(
            kind, record, merged, status=status, dry_run=dry_run, strict=strict
        )
        if not dry_run:
            record.applied[owner] = now
        return written, False

    # ---- scheduling

    def bind(self, namespace: str, name: str, node: str, *, dry_run: bool = False) -> Obj:
        """Put a Pod on a node, once. Raises ApiError (NotFound, Conflict)."""
        record = self.record(PODS, namespace, name)
        body = record.copy()
        if body["spec"].get("nodeName"):
            taken = f'pod {name} is already assigned to node "{body["spec"]["nodeName"]}"'
            raise conflict(PODS, name, taken)
        if "deletionTimestamp" in body["metadata"]:
            raise conflict(PODS, name, f"pod {name} is being deleted, cannot be assigned to a host")
        if dry_run:
            return body
        body["spec"]["nodeName"] = node
        scheduled = {
            "type": "PodScheduled",
            "status": "True",
            "lastProbeTime": None,
            "lastTransitionTime": fields.timestamp(self.now()),
        }
        body["status"] = patching.strategic(body.get("status", {}), {"conditions": [scheduled]})
        return self._replace(PODS, record, body).copy()


_FORMS: dict[str, Callable[[Any, Any], Any]] = {
    "json": patching.json_patch,
    "merge": patching.merge,
    "strategic": patching.strategic,
}


def _intent(obj: Obj) -> Obj:
    return {k: v for k, v in obj.items() if k not in ("metadata", "status")}


def _cleaned(kind: Kind, obj: Obj) -> Obj:
    """A copy of our own in normal form: no nulls, no empty maps in metadata, names of the kind itself."""
    try:
        copied = msgspec.json.decode(msgspec.json.encode(obj))
    except (TypeError, ValueError, msgspec.MsgspecError) as exc:
        raise bad_request(f"the object is no JSON: {exc}") from exc
    metadata = copied.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise bad_request("metadata is no object")
    cleaned: Obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {}}
    if kind.stored_as:
        cleaned["apiVersion"] = EVENTS.api_version
    if not kind.namespaced and metadata:
        metadata.pop("namespace", None)
    cleaned |= {k: v for k, v in _without_nulls(copied).items() if k not in ("apiVersion", "kind")}
    for name in ("managedFields", "selfLink"):
        cleaned["metadata"].pop(name, None)
    for name in ("labels", "annotations", "finalizers", "ownerReferences"):
        if cleaned["metadata"].get(name) in ({}, []):
            del cleaned["metadata"][name]
    for name in ("name", "namespace", "generateName", "resourceVersion", "uid"):
        value = cleaned["metadata"].get(name, "")
        if not isinstance(value, str):
            raise bad_request(f"metadata.{name} is no string: {value!r}")
    return cleaned


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
