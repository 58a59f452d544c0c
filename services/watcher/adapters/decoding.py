"""Bytes of the API server as objects of one kind, read in one pass and kept small.

What cannot be read is told apart, object by object: one that nobody can read must not hide the others. Kept are
the annotations of our own domain and of static Pods; what many objects say alike is kept once.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Generic, TypeVar

import msgspec

from schemas.annotation import ANNOTATION
from services.watcher.model import STATIC_POD_ANNOTATION, Object

T = TypeVar("T")

_SHARED = 4096  # different lists of conditions; Pods that are well have very few


class ListMeta(msgspec.Struct, frozen=True, rename={"resource_version": "resourceVersion"}):
    # Every list has one. What has none is the word of somebody else, such as a balancer that leads nowhere.
    resource_version: Annotated[str, msgspec.Meta(min_length=1)]
    remaining: str | None = msgspec.field(default=None, name="continue")


class _List(msgspec.Struct, Generic[T], frozen=True):
    metadata: ListMeta
    items: list[T] | None = None


class _Event(msgspec.Struct, Generic[T], frozen=True):
    type: str
    object: T


class Failure(msgspec.Struct, frozen=True):
    """What an ERROR event says."""

    code: int = 0
    reason: str = ""
    message: str = ""


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """An object that is there and says something we do not understand."""

    head: Object
    why: str


class Decoder:
    """Reads lists and watch lines of one kind."""

    def __init__(self, kind: type[Any]) -> None:
        self._kind = kind
        self._events = msgspec.json.Decoder(_Event[kind])  # type: ignore[valid-type]
        self._lists = msgspec.json.Decoder(_List[kind])  # type: ignore[valid-type]
        self._shared: dict[Any, Any] = {}

    def page(self, body: bytes) -> tuple[ListMeta, Iterator[Any]]:
        """A list's metadata and its objects; Unreadable among them. Raises msgspec.DecodeError."""
        try:
            page = self._lists.decode(body)
            return page.metadata, map(self._slim, page.items or ())
        except msgspec.ValidationError:
            raw = msgspec.json.decode(body, type=_List[msgspec.Raw])
            return raw.metadata, map(self._one, raw.items or ())

    def line(self, line: bytes) -> tuple[str, Any]:
        """A watch line's type and its object, Unreadable or Failure. Raises msgspec.DecodeError."""
        try:
            event = self._events.decode(line)
            if event.type != "ERROR":
                return event.type, self._slim(event.object)
        except msgspec.ValidationError:
            pass
        raw = msgspec.json.decode(line, type=_Event[msgspec.Raw])
        if raw.type == "ERROR":
            return raw.type, msgspec.json.decode(raw.object, type=Failure)
        return raw.type, self._one(raw.object)

    def _one(self, raw: msgspec.Raw) -> Any:
        try:
            return self._slim(msgspec.json.decode(raw, type=self._kind))
        except msgspec.ValidationError as exc:
            return Unreadable(head=msgspec.json.decode(raw, type=Object), why=str(exc))

    def _slim(self, found: Any) -> Any:
        """Without what we never look at. Nobody else has seen the object yet."""
        annotations = found.metadata.annotations
        if annotations:
            ours = {key: text for key, text in annotations.items() if _is_ours(key)}
            msgspec.structs.force_setattr(found.metadata, "annotations", ours or None)
        status = getattr(found, "status", None)
        conditions = getattr(status, "conditions", None)
        if status is not None and conditions:
            msgspec.structs.force_setattr(status, "conditions", self._share(conditions))
        return found

    def _share(self, conditions: Any) -> Any:
        if len(self._shared) >= _SHARED:
            self._shared.clear()
        return self._shared.setdefault(conditions, conditions)


def _is_ours(key: str) -> bool:
    return ANNOTATION in key or key == STATIC_POD_ANNOTATION
