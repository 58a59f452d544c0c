"""Prefixes as spans of numbers, and which of them overlap: one sort, one sweep."""

import bisect
import ipaddress
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

Network = IPv4Network | IPv6Network


class Span(NamedTuple):
    """The addresses from `first` to `last` of a family; `what` in words, `who` they belong to."""

    family: int
    first: int
    last: int
    what: str = ""
    who: str = ""

    def overlaps(self, other: "Span") -> bool:
        return self.family == other.family and self.first <= other.last and other.first <= self.last

    def contains(self, other: "Span") -> bool:
        return self.overlaps(other) and self.first <= other.first and other.last <= self.last

    @property
    def size(self) -> int:
        return self.last - self.first + 1


def network(text: str) -> Network:
    """A prefix, or an address as its /32 or /128. Raises ValueError."""
    return ipaddress.ip_network(text, strict=False)


def span(text: str, what: str = "", who: str = "") -> Span:
    """Of a prefix; of an address with or without its length, alone."""
    found = network(text)
    first, last = int(found.network_address), int(found.broadcast_address)
    return Span(found.version, first, last, what or str(found), who)


def address(text: str, what: str = "", who: str = "") -> Span:
    """The address alone, whatever length is written behind it."""
    found = ipaddress.ip_address(text.partition("/")[0])
    return Span(found.version, int(found), int(found), what or str(found), who)


def is_default(text: str) -> bool:
    return network(text).prefixlen == 0


def clashes(spans: Iterable[Span]) -> Iterator[tuple[Span, Span]]:
    """Every pair that overlaps and belongs to different ones."""
    active: list[Span] = []
    for one in sorted(spans):
        active = [a for a in active if a.family == one.family and a.last >= one.first]
        yield from ((a, one) for a in active if a.who != one.who)
        active.append(one)


class Cover:
    """Finds one of many spans that a given one overlaps. Spans may lie in one another."""

    def __init__(self, spans: Iterable[Span]) -> None:
        self._spans = sorted(spans)
        self._first = [(s.family, s.first) for s in self._spans]
        self._reach: list[Span] = []  # of all up to here: the one that reaches farthest
        for one in self._spans:
            before = self._reach[-1] if self._reach else None
            farther = before and before.family == one.family and before.last >= one.last
            self._reach.append(before if farther and before else one)

    def find(self, wanted: Span) -> Span | None:
        at = bisect.bisect_right(self._first, (wanted.family, wanted.last)) - 1
        if at < 0:
            return None
        farthest = self._reach[at]
        return farthest if farthest.overlaps(wanted) else None


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same addresses as spans that neither touch nor overlap."""
    found: list[Span] = []
    for one in sorted(spans):
        before = found[-1] if found else None
        if before and before.family == one.family and one.first <= before.last + 1:
            found[-1] = before._replace(last=max(before.last, one.last))
        else:
            found.append(one)
    return found


def without(spans: Iterable[Span], taken: Iterable[Span]) -> list[Span]:
    """What remains of `spans` when `taken` is cut out."""
    left = merged(spans)
    for cut in merged(taken):
        kept: list[Span] = []
        for one in left:
            if not one.overlaps(cut):
                kept.append(one)
                continue
            if one.first < cut.first:
                kept.append(one._replace(last=cut.first - 1))
            if cut.last < one.last:
                kept.append(one._replace(first=cut.last + 1))
        left = kept
    return left


def size(spans: Iterable[Span], family: int) -> int:
    return sum(s.size for s in merged(spans) if s.family == family)
