"""How each kind fills in defaults, and what an update may not change. Pure.

The rules are the real server's as far as a client can notice them; what only its controllers notice is left
out. Functions get the new object and may change it; the old one is never changed.
"""

import copy
from collections.abc import Callable
from typing import Any

from lab.api import definitions, fields, shapes
from lab.api.errors import Cause, bad_value, forbidden_change
from lab.api.kinds import (
    CONFIG_MAPS,
    DEFINITIONS,
    NAMESPACES,
    NODES,
    PODS,
    SERVICE_CIDRS,
    SERVICES,
    Kind,
)

Obj = dict[str, Any]

# Kept from the old object whatever an update says; uid, name and version are checked by the store.
_KEPT = ("creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName")

# ---- defaults


def fill_in(kind: Kind, obj: Obj) -> None:
    """The fields an object of this kind always has, unless it says otherwise.

    An object of the wrong shape is left as it is: `validating` will say what is wrong with it.
    """
    default = _DEFAULTS.get(kind)
    if default is not None and not shapes.check(kind, obj):
        default(obj)


def begin(kind: Kind, obj: Obj) -> None:
    """The state a new object starts in, whatever its creator wrote there."""
    if kind in _FIRST_STATUS:
        obj["status"] = copy.deepcopy(_FIRST_STATUS[kind])
    elif kind.custom:
        obj.pop("status", None)
    if kind == NAMESPACES:
        obj["spec"] = {"finalizers": ["kubernetes"]}
    if kind.generation:
        obj["metadata"]["generation"] = 1


def _fill_pod(obj: Obj) -> None:
    spec = obj["spec"]
    if not spec.get("serviceAccountName"):
        spec["serviceAccountName"] = "default"
    for name, value in _POD_SPEC.items():
        spec.setdefault(name, copy.deepcopy(value))
    for container in [*fields.items(spec, "initContainers"), *fields.items(spec, "containers")]:
        for name, value in _CONTAINER.items():
            container.setdefault(name, copy.deepcopy(value))
        for port in fields.items(container, "ports"):
            port.setdefault("protocol", "TCP")


_POD_SPEC: Obj = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "securityContext": {},
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
}
_CONTAINER: Obj = {
    "imagePullPolicy": "IfNotPresent",
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}


def _fill_namespace(obj: Obj) -> None:
    metadata = obj["metadata"]
    labels = metadata.get("labels") or {}
    metadata["labels"] = labels | {"kubernetes.io/metadata.name": metadata.get("name", "")}


def _fill_service(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in fields.items(spec, "ports"):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])
        if port.get("nodePort") == 0:
            del port["nodePort"]


def _fill_node(obj: Obj) -> None:
    obj.setdefault("spec", {})
    obj.setdefault("status", {})


_DEFAULTS: dict[Kind, Callable[[Obj], None]] = {
    PODS: _fill_pod,
    NAMESPACES: _fill_namespace,
    SERVICES: _fill_service,
    NODES: _fill_node,
    DEFINITIONS: definitions.fill_in,
}
_FIRST_STATUS: dict[Kind, Obj] = {
    PODS: {"phase": "Pending", "qosClass": "BestEffort"},
    NAMESPACES: {"phase": "Active"},
    SERVICES: {"loadBalancer": {}},
}


# ---- updates


def keep_fixed(kind: Kind, old: Obj, new: Obj) -> None:
    """Put back what no update of the object itself may change, so that a stale copy harms nothing."""
    _keep_metadata(old, new)
    if kind.status:
        _keep(old, new, "status")
    if kind == SERVICES and isinstance(new.get("spec"), dict):
        for name in ("clusterIP", "clusterIPs"):
            if not new["spec"].get(name) and name in fields.part(old, "spec"):
                new["spec"][name] = old["spec"][name]


def keep_for_status(kind: Kind, old: Obj, new: Obj) -> Obj:
    """What an update of the status subresource makes of `new`.

    Built-in kinds let metadata through (a kubelet may annotate with its status), a CRD's do not.
    """
    if kind.custom:
        return old | ({"status": new["status"]} if "status" in new else {})
    _keep_metadata(old, new)
    _keep(old, new, "spec")
    if kind == PODS:
        _keep(old["metadata"], new["metadata"], "ownerReferences")
        if isinstance(new.get("status"), dict) and "qosClass" in fields.part(old, "status"):
            new["status"]["qosClass"] = old["status"]["qosClass"]
    return new


def _keep_metadata(old: Obj, new: Obj) -> None:
    for name in _KEPT:
        _keep(old["metadata"], new["metadata"], name)


def _keep(old: Obj, new: Obj, name: str) -> None:
    if name in old:
        new[name] = old[name]
    else:
        new.pop(name, None)


def forbidden_changes(kind: Kind, old: Obj, new: Obj) -> list[Cause]:
    """What this update may not do. Both objects have their shape."""
    causes = _finalizer_problems(old, new)
    if kind == PODS:
        causes += _pod_changes(fields.part(old, "spec"), fields.part(new, "spec"))
    elif kind == CONFIG_MAPS and old.get("immutable") is True:
        causes += [
            forbidden_change(name, "field is immutable when `immutable` is set")
            for name in ("data", "binaryData", "immutable")
            if old.get(name) != new.get(name)
        ]
    elif kind == SERVICE_CIDRS:
        had, has = (fields.items(each, "spec", "cidrs") for each in (old, new))
        if has[: len(had)] != had:  # a second family may be added
            causes.append(bad_value("spec.cidrs[0]", has[:1], "field is immutable"))
    elif kind == SERVICES:
        before, after = fields.text(old, "spec", "clusterIP"), fields.text(new, "spec", "clusterIP")
        if before not in ("", after):
            causes.append(bad_value("spec.clusterIPs[0]", after, "may not change once set"))
    return causes


def _finalizer_problems(old: Obj, new: Obj) -> list[Cause]:
    if "deletionTimestamp" not in old["metadata"]:
        return []
    added = set(fields.items(new, "metadata", "finalizers"))
    added -= set(fields.items(old, "metadata", "finalizers"))
    if not added:
        return []
    why = f"no new finalizers can be added if the object is being deleted, found {sorted(added)}"
    return [forbidden_change("metadata.finalizers", why)]


_POD_RULE = (
    "pod updates may not change fields other than `spec.containers[*].image`,"
    "`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to "
    "existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was "
    "previously negative)"
)


def _pod_changes(old: Obj, new: Obj) -> list[Cause]:
    if old == new or _frozen_part(old) == _frozen_part(new):
        return []
    return [forbidden_change("spec", _POD_RULE)]


def _frozen_part(spec: Obj) -> Obj:
    frozen = {k: v for k, v in spec.items() if k not in ("activeDeadlineSeconds", "tolerations")}
    for where in ("containers", "initContainers"):
        if where in frozen:
            frozen[where] = [{k: v for k, v in c.items() if k != "image"} for c in frozen[where]]
    return frozen
