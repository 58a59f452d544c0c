"""The annotation grammar: what a Pod asks for. Every error points at the column that is wrong.

    annotation = [ item *( "," item ) ]                     blanks around items allowed
    item       = [ mechanism "://" ] network-service [ "@" namespace ] [ "/" interface ] [ "?" labels ]
    labels     = key "=" value *( "&" key "=" value )       Kubernetes label syntax, no escapes

An empty annotation asks for nothing. Without an interface name the item gets a name that is the same
after every restart: `nsm-` + first 6 of the network service + `-` + 4 hex of sha256(`service@namespace`).
"""

import hashlib
import re

import msgspec

from schemas import values

ANNOTATION = "networkservicemesh.io"
CONDITION = "networkservicemesh.io/connected"  # of a Pod: it has all it asks for; a readiness gate
MECHANISMS = ("kernel",)

_BLANKS = " \t\r\n"
_QUOTES = "\"'`\u201c\u201d\u2018\u2019"
_SEPARATORS = ";\uff0c\uff1b\u3001"  # what is taken for a comma


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One network service that a Pod asks for."""

    network_service: str
    namespace: str | None = None  # as written; None: resolved by ipam, own namespace first
    interface: str
    labels: dict[str, str] = {}
    mechanism: str = "kernel"


class AnnotationError(ValueError):
    """Why an annotation means nothing. `column` counts from 1; str() names place, reason and remedy."""

    def __init__(self, text: str, column: int, reason: str, remedy: str) -> None:
        super().__init__(f"column {column}: {reason}; {remedy}")
        self.text = text
        self.column = column
        self.reason = reason
        self.remedy = remedy

    def pointed(self) -> str:
        """Three lines for a terminal: the annotation, a caret below the column, the message."""
        shown = self.text.translate({ord(c): " " for c in "\t\r\n"})
        return f"{shown}\n{' ' * (self.column - 1)}^\n{self}"


def parse(text: str, *, namespace: str) -> tuple[Item, ...]:
    """The items of an annotation on a Pod of `namespace`. Raises AnnotationError."""
    if not text.strip(_BLANKS):
        return ()
    items: list[Item] = []
    repeats: dict[str, int] = {}
    columns: dict[str, int] = {}
    start = 0
    for raw in text.split(","):
        item_text = raw.strip(_BLANKS)
        column = start + 1 + (len(raw) - len(raw.lstrip(_BLANKS)) if item_text else 0)
        start += len(raw) + 1
        item, interface_column = _Reader(text, item_text, column).item(namespace, repeats)
        if item.interface in columns:
            raise AnnotationError(
                text,
                interface_column,
                f"interface {item.interface!r} is asked for twice (first in column "
                f"{columns[item.interface]})",
                "give each item its own interface name",
            )
        columns[item.interface] = interface_column
        items.append(item)
    return tuple(items)


def default_interface(network_service: str, namespace: str, repeat: int = 0) -> str:
    """The name of an interface nobody named; at most 15 characters, stable for ever."""
    identity = f"{network_service}@{namespace}" + (f"#{repeat}" if repeat else "")
    digest = hashlib.sha256(identity.encode()).hexdigest()[:4]
    return f"nsm-{network_service[:6].replace('.', '-')}-{digest}"


class _Reader:
    """Reads one item; `column` is where it starts in the whole annotation."""

    def __init__(self, text: str, item: str, column: int) -> None:
        self._text = text
        self._item = item
        self._column = column

    def item(self, pod_namespace: str, repeats: dict[str, int]) -> tuple[Item, int]:
        if not self._item:
            raise self._error(
                0, "nothing between commas", "remove the comma or name a network service"
            )
        self._check_characters()
        mechanism, at = self._mechanism()
        query = self._item.find("?", at)
        path_end = len(self._item) if query < 0 else query
        slash = self._item.find("/", at, path_end)
        name_end = path_end if slash < 0 else slash
        network_service, namespace = self._network_service(at, name_end)
        labels = {} if query < 0 else self._labels(query + 1)
        if slash >= 0:
            interface, where = self._interface(slash + 1, path_end), slash + 1
        else:
            home = namespace or pod_namespace
            identity = f"{network_service}@{home}"
            repeat = repeats.get(identity, 0)
            repeats[identity] = repeat + 1
            interface, where = default_interface(network_service, home, repeat), at
        item = Item(
            network_service=network_service,
            namespace=namespace,
            interface=interface,
            labels=labels,
            mechanism=mechanism,
        )
        return item, self._column + where

    def _check_characters(self) -> None:
        """None that is nowhere allowed, and that tells what was meant."""
        for at, char in enumerate(self._item):
            rest = self._item[at + 1 :].lstrip(_BLANKS)
            is_item_next = "://" in rest[1:]
            if char in _BLANKS or not char.isprintable():
                remedy = "put a comma between items"
                raise self._error(
                    at,
                    f"blank or control character {char!r} inside an item",
                    remedy if is_item_next else f"remove it, or {remedy}",
                )
            if char in _QUOTES:
                raise self._error(at, f"a quote, {char}, inside an item", "remove the quotes")
            if char in _SEPARATORS:
                is_label = "?" in self._item[:at] and not is_item_next
                remedy = "join labels by '&', and items by ','" if is_label else "write ','"
                remedy = remedy if rest else "remove it"
                raise self._error(at, f"{char!r} separates nothing", remedy)

    def _mechanism(self) -> tuple[str, int]:
        end = self._item.find("://")
        query = self._item.find("?")
        if end < 0 or 0 <= query < end:
            return MECHANISMS[0], 0
        mechanism = self._item[:end].lower()
        if mechanism not in MECHANISMS:
            raise self._error(
                0,
                f"unknown mechanism {self._item[:end]!r}",
                f"write {MECHANISMS[0]}://, or leave it out",
            )
        return mechanism, end + 3

    def _network_service(self, start: int, end: int) -> tuple[str, str | None]:
        name, at_sign, namespace = self._item[start:end].partition("@")
        if not name:
            raise self._error(
                start, "no network service", "write its name there, as in kernel://my-service"
            )
        for part, offset in ((name, start), (namespace, start + len(name) + 1)):
            if ":" in part:
                raise self._colon(part, offset)
        if "=" in name:
            raise self._error(
                start, f"{name!r} is a label", "write labels behind '?', with '&' between them"
            )
        if not values.is_object_name(name) or len(name) > 63:
            raise self._error(
                start + _first_bad(name),
                f"{name!r} is no network service name",
                values.NETWORK_SERVICE_REMEDY,
            )
        if not at_sign:
            return name, None
        if not values.is_namespace_name(namespace):
            raise self._error(
                start + len(name) + 1 + _first_bad(namespace),
                f"{namespace!r} is no namespace",
                values.NAMESPACE_REMEDY if namespace else "name it, or remove the '@'",
            )
        return name, namespace

    def _colon(self, part: str, offset: int) -> AnnotationError:
        mechanism, _, _ = part.partition(":")
        if not offset and mechanism.lower() in MECHANISMS:
            rest = self._item[len(mechanism) + 1 :].lstrip("/")
            return self._error(0, "a mechanism ends in '://'", f"write {mechanism}://{rest}")
        return self._error(
            offset + len(mechanism), "a network service has no port", "remove ':' and the port"
        )

    def _interface(self, start: int, end: int) -> str:
        name = self._item[start:end]
        if not name:
            raise self._error(start - 1, "no interface name after '/'", "name it or remove the '/'")
        if "/" in name:
            raise self._error(
                start + name.index("/"),
                "an extra path segment",
                "only /interface may follow the name",
            )
        problem = values.interface_problem(name)
        if problem is not None:
            raise self._error(start, f"interface {problem}", "choose another name, such as nsm-1")
        return name

    def _labels(self, start: int) -> dict[str, str]:
        labels: dict[str, str] = {}
        at = start
        for pair in self._item[start:].split("&"):
            key, equals, value = pair.partition("=")
            if not equals or not key:
                raise self._error(
                    at if pair else max(at - 1, 0),
                    f"{pair!r} is no label",
                    "write key=value&key=value",
                )
            if not values.is_label_key(key):
                raise self._error(at, f"{key!r} is no label key", values.LABEL_KEY_REMEDY)
            if not values.is_label_value(value):
                raise self._error(
                    at + len(key) + 1, f"{value!r} is no label value", values.LABEL_VALUE_REMEDY
                )
            if key in labels:
                raise self._error(at, f"label {key!r} is given twice", "give each label once")
            labels[key] = value
            at += len(pair) + 1
        return labels

    def _error(self, offset: int, reason: str, remedy: str) -> AnnotationError:
        return AnnotationError(self._text, self._column + offset, reason, remedy)


def _first_bad(name: str) -> int:
    """Offset of the first character that no Kubernetes name may hold; 0 when the shape as a whole is wrong."""
    found = re.search(r"[^a-z0-9.-]", name)
    return found.start() if found else 0
