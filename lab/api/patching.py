"""The three patches of Kubernetes, as pure functions: the document they get is never changed.

JSON patch (RFC 6902, in `json_patching`), merge patch (RFC 7386) and strategic merge patch, in which some
lists are merged by a key. `reapply` is our server-side apply: what a field manager stated before and no
longer states is removed.
"""

import copy
from typing import Any

from lab.api.json_patching import BadPatch, json_patch

Json = Any


# ---- RFC 7386


def merge(document: Json, patch: Json) -> Json:
    """Merge patch: null removes, dictionaries merge, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


# ---- strategic merge

_MERGE_KEYS: dict[str, tuple[str, ...]] = {
    "conditions": ("type",),
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "secrets": ("name",),
    "resourceClaims": ("name",),
    "podIPs": ("ip",),
    "hostIPs": ("ip",),
    "hostAliases": ("ip",),
    "addresses": ("type",),
    "ownerReferences": ("uid",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "topologySpreadConstraints": ("topologyKey",),
    "ports": ("containerPort", "port"),  # of a container, of a Service
}
_SETS = frozenset({"finalizers", "podCIDRs"})
_ORDER = "$setElementOrder/"
_DELETE_FROM = "$deleteFromPrimitiveList/"


def strategic(document: Json, patch: Json) -> Json:
    """Strategic merge patch: as `merge`, but known lists are merged by their key. Raises BadPatch."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    match patch.get("$patch"):
        case None | "merge":
            merged = dict(document) if isinstance(document, dict) else {}
        case "replace":
            merged = {}
        case "delete":
            return {}
        case other:
            raise BadPatch(f"unknown $patch directive {other!r}")
    if isinstance(keep := patch.get("$retainKeys"), list):
        merged = {key: value for key, value in merged.items() if key in keep}
    for key, value in patch.items():
        if not key.startswith("$"):
            _merge_field(merged, key, value)
    _apply_list_directives(merged, patch)
    return merged


def _merge_field(merged: dict[str, Json], key: str, value: Json) -> None:
    if value is None:
        merged.pop(key, None)
    elif isinstance(value, list):
        merged[key] = _merge_list(key, merged.get(key), value)
    elif isinstance(value, dict) and value.get("$patch") == "delete":
        merged.pop(key, None)
    else:
        merged[key] = strategic(merged.get(key), value)


def _apply_list_directives(merged: dict[str, Json], patch: dict[str, Json]) -> None:
    for key, value in patch.items():
        if key.startswith((_DELETE_FROM, _ORDER)) and not isinstance(value, list):
            raise BadPatch(f"{key} holds {value!r}, which is no list")
    for key, value in patch.items():
        if key.startswith(_DELETE_FROM):
            name = key.removeprefix(_DELETE_FROM)
            if isinstance(merged.get(name), list):
                merged[name] = [item for item in merged[name] if item not in value]
    for key, value in patch.items():
        if key.startswith(_ORDER):
            name = key.removeprefix(_ORDER)
            if isinstance(merged.get(name), list):
                merged[name] = _ordered(name, merged[name], value)


def _merge_list(name: str, current: Json, patch: list[Json]) -> list[Json]:
    if name in _SETS and all(isinstance(item, str) for item in patch):
        kept = list(current) if isinstance(current, list) else []
        return kept + [item for item in dict.fromkeys(patch) if item not in kept]
    key = merge_key(name, patch)
    if key is None:
        if any(isinstance(item, dict) and "$patch" in item for item in patch):
            patch = [i for i in patch if not (isinstance(i, dict) and "$patch" in i)]
        return copy.deepcopy(patch)
    result = list(current) if isinstance(current, list) else []
    if any(item.get("$patch") == "replace" for item in patch):
        return [copy.deepcopy(item) for item in patch if "$patch" not in item]
    for item in patch:
        _merge_item(result, item, key)
    return result


def _merge_item(result: list[Json], item: dict[str, Json], key: str) -> None:
    if key not in item:
        raise BadPatch(f"map: {item!r} does not contain declared merge key: {key}")
    at = next((n for n, old in enumerate(result) if _key_of(old, key) == item[key]), None)
    if item.get("$patch") == "delete":
        if at is not None:
            del result[at]
    elif at is None:
        result.append(strategic({}, item))
    else:
        result[at] = strategic(result[at], item)


def merge_key(name: str, patch: list[Json]) -> str | None:
    """The key by which the list `name` is merged, or None if it is replaced as a whole."""
    candidates = _MERGE_KEYS.get(name)
    if not candidates or not all(isinstance(item, dict) for item in patch):
        return None
    for key in candidates:
        if any(key in item for item in patch):
            return key
    return candidates[0] if patch and any("$patch" not in i for i in patch) else candidates[-1]


def _key_of(item: Json, key: str) -> Json:
    return item.get(key) if isinstance(item, dict) else None


def _ordered(name: str, items: list[Json], order: list[Json]) -> list[Json]:
    """`items` in the stated order; what the order does not name keeps its place after them."""
    key = merge_key(name, order)
    stated = [_key_of(entry, key) if key else entry for entry in order]
    rank = {repr(value): position for position, value in enumerate(stated)}
    return sorted(
        items, key=lambda item: rank.get(repr(_key_of(item, key) if key else item), len(rank))
    )


# ---- apply


def reapply(document: Json, before: Json, now: Json, *, keyed: bool) -> Json:
    """`document` with `now` merged in and what only `before` stated taken out.

    `keyed`: lists of built-in kinds are merged by their keys; a custom object's lists are replaced.
    """
    patch = _with_removals(before, now, keyed=keyed)
    return strategic(document, patch) if keyed else merge(document, patch)


def _with_removals(before: Json, now: Json, *, keyed: bool) -> Json:
    if not isinstance(before, dict) or not isinstance(now, dict):
        return now
    patch: dict[str, Json] = {}
    for key in before:
        if key not in now:
            patch[key] = _removal(key, before[key], keyed=keyed)
    for key, value in now.items():
        old = before.get(key)
        if keyed and isinstance(value, list) and isinstance(old, list):
            patch[key] = _list_with_removals(key, old, value)
            if key in _SETS:
                patch[f"{_DELETE_FROM}{key}"] = [item for item in old if item not in value]
        else:
            patch[key] = _with_removals(old, value, keyed=keyed)
    return patch


def _removal(key: str, old: Json, *, keyed: bool) -> Json:
    """How to take a whole field back. Others may own parts of it: only what was stated goes."""
    if isinstance(old, dict):
        return _with_removals(old, {}, keyed=keyed)
    if keyed and isinstance(old, list) and merge_key(key, old):
        return _list_with_removals(key, old, [])
    return None


def _list_with_removals(name: str, old: list[Json], new: list[Json]) -> list[Json]:
    key = merge_key(name, new or old)
    if key is None:
        return new
    stated = {repr(_key_of(item, key)) for item in new}
    gone = [i for i in old if repr(_key_of(i, key)) not in stated]
    former = {repr(_key_of(item, key)): item for item in old}
    patched = [_with_removals(former.get(repr(i.get(key)), {}), i, keyed=True) for i in new]
    return patched + [{key: _key_of(item, key), "$patch": "delete"} for item in gone]


__all__ = ["BadPatch", "json_patch", "merge", "merge_key", "reapply", "strategic"]
