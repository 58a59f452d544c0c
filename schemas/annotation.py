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
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")


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
        for at, char in enumerate(self._item):
            if char in _BLANKS or not char.isprintable():
                raise self._error(
                    at, f"blank or control character {char!r} inside an item", "remove it"
                )
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

    def _mechanism(self) -> tuple[str, int]:
        end = self._item.find("://")
        query = self._item.find("?")
        if end < 0 or 0 <= query < end:
            return MECHANISMS[0], 0
        mechanism = self._item[:end].lower()
        if mechanism not in MECHANISMS:
            raise self._error(
                0, f"unknown mechanism {self._item[:end]!r}", f"the mechanism is {MECHANISMS[0]!r}"
            )
        return mechanism, end + 3

    def _network_service(self, start: int, end: int) -> tuple[str, str | None]:
        name, at_sign, namespace = self._item[start:end].partition("@")
        if not name:
            raise self._error(start, "no network service", "write mechanism://network-service")
        for part, offset in ((name, start), (namespace, start + len(name) + 1)):
            if ":" in part:
                raise self._error(
                    offset + part.index(":"),
                    "a network service has no port",
                    "remove ':' and the port",
                )
        if not values.is_object_name(name) or len(name) > 63:
            raise self._error(
                start + _first_bad(name),
                f"{name!r} is no network service name",
                "use at most 63 lower case letters, digits, '-' and '.'",
            )
        if not at_sign:
            return name, None
        if not values.is_namespace_name(namespace):
            raise self._error(
                start + len(name) + 1 + _first_bad(namespace),
                f"{namespace!r} is no namespace",
                "write network-service@namespace",
            )
        return name, namespace

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
            if not _is_label_key(key):
                raise self._error(at, f"{key!r} is no label key", "use Kubernetes label syntax")
            if value and _LABEL_NAME.fullmatch(value) is None:
                raise self._error(
                    at + len(key) + 1,
                    f"{value!r} is no label value",
                    "use at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends",
                )
            if key in labels:
                raise self._error(at, f"label {key!r} is given twice", "give each label once")
            labels[key] = value
            at += len(pair) + 1
        return labels

    def _error(self, offset: int, reason: str, remedy: str) -> AnnotationError:
        return AnnotationError(self._text, self._column + offset, reason, remedy)


def _is_label_key(key: str) -> bool:
    prefix, slash, name = key.rpartition("/")
    if slash and not values.is_object_name(prefix):
        return False
    return _LABEL_NAME.fullmatch(name) is not None


def _first_bad(name: str) -> int:
    """Offset of the first character that no Kubernetes name may hold; 0 when the shape as a whole is wrong."""
    found = re.search(r"[^a-z0-9.-]", name)
    return found.start() if found else 0
