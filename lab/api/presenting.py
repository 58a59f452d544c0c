"""Objects as bytes in the form the client accepts: plain JSON, a Table, or metadata only.

The plain form costs nothing per reader: a record is encoded once.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from lab.api import conversion, tables
from lab.api.history import Record
from lab.api.kinds import Kind

Obj = dict[str, Any]
Style = Literal["object", "table", "metadata"]

_META = "meta.k8s.io/v1"
_STYLES: dict[str, Style] = {
    "Table": "table",
    "PartialObjectMetadata": "metadata",
    "PartialObjectMetadataList": "metadata",
}


def style_of(accept: str) -> Style:
    """The first form of an Accept header that we know; plain JSON otherwise."""
    for choice in accept.split(","):
        media, *parameters = (part.strip() for part in choice.split(";"))
        wanted = dict(p.partition("=")[::2] for p in parameters)
        if media != "application/json":
            continue
        if "as" not in wanted:
            return "object"
        if wanted["as"] in _STYLES and wanted.get("g") == "meta.k8s.io" and wanted.get("v") == "v1":
            return _STYLES[wanted["as"]]
    return "object"


class Presenter:
    """Writes objects of one kind in one form.

    `include` is what a Table's rows carry along; `definition`, of a custom kind, says its columns.
    """

    def __init__(
        self,
        kind: Kind,
        *,
        style: Style,
        include: str,
        now: dt.datetime,
        definition: Obj | None = None,
    ) -> None:
        self._kind = kind
        self._definition = definition
        self._style = style
        self._include = include
        self._now = now
        self._headed = False

    def one(self, body: Obj) -> bytes:
        version = {"resourceVersion": body["metadata"].get("resourceVersion", "")}
        return msgspec.json.encode(self._shown(body, version))

    def many(self, records: Iterable[Record], metadata: Obj) -> bytes:
        if self._style == "table":
            return msgspec.json.encode(self._table([r.body for r in records], metadata))
        if self._style == "metadata":
            head = {"kind": "PartialObjectMetadataList", "apiVersion": _META, "metadata": metadata}
            items = [msgspec.json.encode(_metadata(r.body)) for r in records]
        else:
            head = {"kind": f"{self._kind.kind}List", "apiVersion": self._kind.api_version}
            head |= {"metadata": metadata}
            items = [self._plain(record) for record in records]
        return msgspec.json.encode(head)[:-1] + b',"items":[' + b",".join(items) + b"]}"

    def event(self, event_type: str, record: Record) -> bytes:
        """A line of a watch."""
        if self._style == "object":
            shown = self._plain(record)
        else:
            version = {"resourceVersion": str(record.version)}
            shown = msgspec.json.encode(self._shown(record.body, version))
        return b'{"type":"' + event_type.encode() + b'","object":' + shown + b"}\n"

    def bookmark(self, version: int, *, initial_end: bool = False) -> bytes:
        """A line that says: everything up to `version` was sent."""
        metadata: Obj = {"resourceVersion": str(version), "creationTimestamp": None}
        if initial_end:
            metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
        shown: Obj = {
            "kind": self._kind.kind,
            "apiVersion": self._kind.api_version,
            "metadata": metadata,
        }
        if self._style == "table":
            shown = self._table([], metadata)
        elif self._style == "metadata":
            shown |= {"kind": "PartialObjectMetadata", "apiVersion": _META}
        return msgspec.json.encode({"type": "BOOKMARK", "object": shown}) + b"\n"

    def _plain(self, record: Record) -> bytes:
        if self._kind.stored_as:
            return msgspec.json.encode(conversion.outward(self._kind, record.body))
        return record.raw

    def _shown(self, body: Obj, table_metadata: Obj) -> Obj:
        if self._style == "table":
            return self._table([body], table_metadata)
        if self._style == "metadata":
            return _metadata(body)
        return conversion.outward(self._kind, body)

    def _table(self, bodies: list[Obj], metadata: Obj) -> Obj:
        # In a watch only the first table says what its columns are.
        columns = [] if self._headed else tables.columns(self._kind, self._definition)
        self._headed = True
        rows = [self._row(body) for body in bodies]
        head = {"kind": "Table", "apiVersion": _META, "metadata": metadata}
        return head | {"columnDefinitions": columns, "rows": rows}

    def _row(self, body: Obj) -> Obj:
        cells = tables.cells(self._kind, body, self._now, self._definition)
        row: Obj = {"cells": cells}
        if self._include == "Object":
            row["object"] = conversion.outward(self._kind, body)
        elif self._include != "None":
            row["object"] = _metadata(body)
        return row

    def at(self, now: dt.datetime) -> None:
        """Ages are told as of `now` from here on."""
        self._now = now


def _metadata(body: Obj) -> Obj:
    head = {"kind": "PartialObjectMetadata", "apiVersion": _META}
    return head | {"metadata": body["metadata"]}


def error_event(status: Obj) -> bytes:
    """The last line of a watch that cannot go on."""
    return msgspec.json.encode({"type": "ERROR", "object": status}) + b"\n"
