"""Lists in pages. A continue token names a version and a place: all pages show the same moment.

A token older than the history window is answered with 410 and a token for an inconsistent rest, as the
real server does.
"""

import base64
import binascii
import bisect
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
        keys, records = _records(store, kind, version)
    except ApiError:
        if start is None:
            raise
        raise expired(_TOO_OLD, next_token=_encode(Token(_INCONSISTENT, start))) from None
    begin = bisect.bisect_right(keys, start) if start is not None else 0
    end = len(keys)
    if wanted.namespace:
        begin = max(begin, bisect.bisect_left(keys, (wanted.namespace, "")))
        end = bisect.bisect_left(keys, (wanted.namespace + "\0", ""))
    shown: list[Key] = []
    remaining = 0
    for at in range(begin, end):
        if not wanted.holds(records[keys[at]].body):
            continue
        if not query.limit or len(shown) < query.limit:
            shown.append(keys[at])
            continue
        remaining = (
            len(keys) - at
        )  # of those that do not match, too: an estimate, as the real one's
        break
    metadata: dict[str, Any] = {"resourceVersion": str(version)}
    if remaining:
        metadata["continue"] = _encode(Token(version, shown[-1]))
        if not wanted.narrowed:
            metadata["remainingItemCount"] = remaining
    return Page([records[key] for key in shown], metadata)


def _records(store: Store, kind: Kind, version: int) -> tuple[list[Key], dict[Key, Record]]:
    shelf = store.shelf(kind)
    if version == store.version:
        return shelf.keys, shelf.records
    records = shelf.at(version)
    return (shelf.keys if records.keys() == shelf.records.keys() else sorted(records)), records


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
