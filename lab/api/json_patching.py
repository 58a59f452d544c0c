"""JSON patch (RFC 6902) as a pure function: the document it gets is never changed."""

import copy
from typing import Any

Json = Any


class BadPatch(ValueError):
    """A patch that cannot be read or does not fit the document."""


def json_patch(document: Json, operations: Json) -> Json:
    """All operations in order, or BadPatch naming the one that failed."""
    if not isinstance(operations, list):
        raise BadPatch("a JSON patch is a list of operations")
    result = copy.deepcopy(document)
    for number, operation in enumerate(operations):
        try:
            result = _operate(result, operation)
        except (KeyError, IndexError, TypeError, ValueError) as exc:
            raise BadPatch(f"operation {number} ({operation!r}): {exc}") from exc
    return result


def _operate(document: Json, operation: Json) -> Json:
    path = _steps(operation["path"])
    match operation["op"]:
        case "add":
            return _put(document, path, copy.deepcopy(operation["value"]), insert=True)
        case "replace":
            _look(document, path)
            return _put(document, path, copy.deepcopy(operation["value"]), insert=False)
        case "remove":
            return _drop(document, path)
        case "test":
            if not _same(_look(document, path), operation["value"]):
                raise ValueError(f"testing value {operation['path']} failed")
            return document
        case "copy":
            value = copy.deepcopy(_look(document, _steps(operation["from"])))
            return _put(document, path, value, insert=True)
        case "move":
            source = _steps(operation["from"])
            if path[: len(source)] == source and path != source:
                raise ValueError("a value cannot move into itself")
            value = _look(document, source)
            return _put(_drop(document, source), path, value, insert=True)
        case other:
            raise ValueError(f"unknown operation {other!r}")


def _same(one: Json, other: Json) -> bool:
    # To Python True == 1; to JSON they differ.
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _steps(pointer: str) -> list[str]:
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise ValueError(f"pointer {pointer!r} does not start with '/'")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")]


def _look(document: Json, steps: list[str]) -> Json:
    for step in steps:
        document = (
            document[_index(document, step)] if isinstance(document, list) else document[step]
        )
    return document


def _index(items: list[Json], step: str, *, end: bool = False) -> int:
    if step == "-" and end:
        return len(items)
    if not step.isdecimal() or (len(step) > 1 and step[0] == "0"):
        raise ValueError(f"{step!r} is no index")
    if int(step) >= len(items) + end:
        raise IndexError(f"index {step} is outside the list of {len(items)}")
    return int(step)


def _put(document: Json, steps: list[str], value: Json, *, insert: bool) -> Json:
    if not steps:
        return value
    parent = _look(document, steps[:-1])
    if isinstance(parent, list):
        at = _index(parent, steps[-1], end=insert)
        parent[at : at + (not insert)] = [value]
    elif isinstance(parent, dict):
        parent[steps[-1]] = value
    else:
        raise TypeError(f"{'/'.join(steps[:-1])!r} has no members")
    return document


def _drop(document: Json, steps: list[str]) -> Json:
    if not steps:
        raise ValueError("the whole document cannot be removed")
    parent = _look(document, steps[:-1])
    if isinstance(parent, list):
        del parent[_index(parent, steps[-1])]
    else:
        del parent[steps[-1]]
    return document
