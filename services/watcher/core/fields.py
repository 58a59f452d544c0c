"""Fields of our own kinds, however they are spelled: a field that we do not know is never passed over.

The anchor's spelling (`source_selector`, `network_service_names`, …) is read like ours: every field name
may be written in snake_case; label maps stay as they are. What the anchor writes for its own registry
(`url`, `path_ids`, …) means nothing here and is left out.
"""

import difflib
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import inspect

# A field of ours: names of other people's choice inside.
LABEL_MAPS = frozenset({"labels", "matchLabels", "sourceSelector", "destinationSelector"})
_MAPS_BY_NAME = frozenset({"networkServiceLabels"})
_OTHER_NAMES = {
    "networkServiceNames": "networkServices",
    "from": "source",
    "dstPort": "destinationPort",
    "srcPort": "sourcePort",
    "proto": "protocol",
}
_WRITTEN = {"source": "from"}  # as our own documentation spells it


class BadField(ValueError):
    """A field, what is wrong with it, and the remedy."""

    def __init__(self, field: str, reason: str, remedy: str) -> None:
        super().__init__(f"spec.{field}: {reason}; {remedy}")


class Reader:
    """Reads the specs of one kind. `passed_over`: fields that a shape may have without meaning."""

    def __init__(
        self, shape: type[Any], *, kind: str, passed_over: dict[type[Any], set[str]]
    ) -> None:
        self._shape = shape
        self._type = inspect.type_info(shape)
        self._kind = kind
        self._passed_over = passed_over

    def read(self, spec: Any) -> Any:
        """A spec in its shape. Raises BadField."""
        try:
            told = spec if spec is not None else {}
            renamed = _our_names(told)
            _check(told, self._type, "", self._passed_over)
            return msgspec.convert(renamed, self._shape)
        except RecursionError as exc:
            raise BadField("(whole)", "it is nested too deeply", "write it flat") from exc
        except msgspec.ValidationError as exc:
            reason, _, path = str(exc).partition(" - at `$")
            raise BadField(
                path.rstrip("`").lstrip(".") or "(whole)",
                (reason[:1].lower() + reason[1:]).replace(" | null", ""),
                f"`kubectl explain {self._kind}.spec` shows what belongs there",
            ) from exc


def our_name(written: object) -> str:
    """How we call the field that somebody wrote."""
    head, *rest = str(written).split("_")
    name = head + "".join(part.capitalize() for part in rest)
    return _OTHER_NAMES.get(name, name)


def _our_names(value: Any) -> Any:
    if isinstance(value, list):
        return [_our_names(each) for each in value]
    if not isinstance(value, dict):
        return value
    renamed: dict[str, Any] = {}
    for written, inner in value.items():
        name = our_name(written)
        if name in LABEL_MAPS:
            renamed[name] = inner
        elif name in _MAPS_BY_NAME and isinstance(inner, dict):
            renamed[name] = dict(inner)
        else:
            renamed[name] = _our_names(inner)
    return renamed


def _check(
    value: Any, shape: inspect.Type, path: str, passed_over: dict[type[Any], set[str]]
) -> None:
    """Walk as far as value and shape agree; where they do not, the conversion says so better."""
    if isinstance(shape, inspect.Metadata):
        _check(value, shape.type, path, passed_over)
    elif isinstance(shape, inspect.UnionType):
        for each in shape.types:
            _check(value, each, path, passed_over)
    elif isinstance(shape, inspect.VarTupleType) and isinstance(value, list):
        for at, each in enumerate(value):
            _check(each, shape.item_type, f"{path}[{at}]", passed_over)
    elif isinstance(shape, inspect.DictType) and isinstance(value, dict):
        for key, each in value.items():
            _check(each, shape.value_type, f"{path}[{key}]", passed_over)
    elif isinstance(shape, inspect.StructType) and isinstance(value, dict):
        known = {each.encode_name: each.type for each in shape.fields}
        _check_names(value, set(known), path, passed_over.get(shape.cls, set()))
        for written, inner in value.items():
            if our_name(written) in known:
                _check(inner, known[our_name(written)], _inside(path, written), passed_over)


def _check_names(value: dict[Any, Any], known: set[str], path: str, ignored: set[str]) -> None:
    seen: dict[str, Any] = {}
    for written in value:
        name = our_name(written)
        if name not in known | ignored:
            raise BadField(_inside(path, written), "there is no such field", _meant(name, known))
        if name in seen:
            raise BadField(
                _inside(path, written), f"it is there as {seen[name]!r}, too", "write one of them"
            )
        seen[name] = written


def _meant(name: str, known: set[str]) -> str:
    near = difflib.get_close_matches(name.lower(), list(_lower(known)), n=1, cutoff=0.5)
    if near:
        return f"did you mean {_lower(known)[near[0]]}?"
    return f"there are {', '.join(sorted(_lower(known).values()))}"


def _lower(known: set[str]) -> dict[str, str]:
    return {each.lower(): each for each in _spelled(known)}


def _spelled(known: set[str]) -> Iterator[str]:
    return (_WRITTEN.get(each, each) for each in known)


def _inside(path: str, written: object) -> str:
    return f"{path}.{written}" if path else str(written)
