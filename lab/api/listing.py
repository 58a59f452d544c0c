"""Lists in pages. A continue token names a version and a place: all pages show the same moment.

A token older than the history window is answered with 410 and a token for an inconsistent rest, as the
real server does.
"""

import base64
import binascii
from typing import Any

import msgspec

from lab.api.errors import ApiError, bad_request, expired, too_large
from lab.api.history import Key, Record
from lab.api.kinds import Kind
from lab.api.selectors import Selection
from lab.api.store import Store

_INCONSISTENT = -1

_TOO_OLD = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new "
    "list without the continue parameter, or use the continue token in this response to retrieve the "
    "remainder of the results. Continuing with the provided token results in an inconsistent list - objects "
    "that were created, modified, or deleted between the time the first chunk was returned and now may show "
    "up in the list."
)


class Token(msgspec.Struct, frozen=True):
    """Where the next page starts: after `start` as of version `rv`."""

    rv: int
    start: Key
    v: str = "meta.k8s.io/v1"


class ListQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a list asks for."""

    limit: int = 0
    token: str = ""
    version: str = ""
    match: str = ""


class Page(msgspec.Struct, frozen=True):
    """Records of one page, and the list's metadata."""

    records: list[Record]
    metadata: dict[str, Any]


def list_page(store: Store, kind: Kind, wanted: Selection, query: ListQuery) -> Page:
    """One page. Raises ApiError (Expired, BadRequest, Timeout)."""
    version, start = _place(store, query)
    try:
        records = _records(store, kind, version)
    except ApiError:
        if start is None:
            raise
        raise expired(_TOO_OLD, next_token=_encode(Token(_INCONSISTENT, start))) from None
    matching = [
        (key, record)
        for key, record in sorted(records.items())
        if (start is None or key > start) and wanted.holds(record.body)
    ]
    shown = matching[: query.limit] if query.limit else matching
    metadata: dict[str, Any] = {"resourceVersion": str(version)}
    if len(shown) < len(matching):
        metadata["continue"] = _encode(Token(version, shown[-1][0]))
        if not wanted.narrowed:
            metadata["remainingItemCount"] = len(matching) - len(shown)
    return Page([record for _, record in shown], metadata)


def _records(store: Store, kind: Kind, version: int) -> dict[Key, Record]:
    shelf = store.shelf(kind)
    return shelf.records if version == store.version else shelf.at(version)


def _place(store: Store, query: ListQuery) -> tuple[int, Key | None]:
    """The version to show, and the key after which to start."""
    if query.token:
        if query.version not in ("", "0"):
            text = "specifying resource version is not allowed when using continue"
            raise bad_request(text)
        token = _decode(query.token)
        if token.rv > store.version:
            raise expired(_TOO_OLD)
        return (store.version if token.rv == _INCONSISTENT else token.rv), token.start
    wanted = parse_version(query.version)
    if wanted > store.version:
        raise too_large(wanted, store.version)
    if query.match == "Exact" and wanted:
        return wanted, None
    return store.version, None


def parse_version(text: str) -> int:
    """A resourceVersion as a number; none is 0. Raises ApiError (BadRequest)."""
    if text and not text.isdecimal():
        raise bad_request(f"resourceVersion {text!r} is no number")
    return int(text or 0)


def _encode(token: Token) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode()


def _decode(text: str) -> Token:
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text), type=Token)
    except (msgspec.DecodeError, binascii.Error, ValueError) as exc:
        raise bad_request(f"continue key is not valid: {exc}") from exc
