"""What the expressions of a rule say of one destination port: registers followed from load to comparison.

Three answers: the rule names the port (True), leaves it out (False), or says nothing of it (None). A rule that
names every port but some others says nothing.
"""

import operator
import struct
from collections.abc import Callable, Iterable

from services._node import nft
from services._node.nft import Attributes

_TRANSPORT_HEADER = 2
_DESTINATION = 2  # where the port is in it, two bytes long
_NOT_EQUAL = 1
_COMPARISONS: dict[int, Callable[[int, int], bool]] = {
    0: operator.eq,
    2: operator.lt,
    3: operator.le,
    4: operator.gt,
    5: operator.ge,
}
_INVERTED = 1
_INTERVAL_END = 1
_LOADS_INTO = {"bitwise": 2, "byteorder": 2, "hash": 2, "socket": 2}  # attribute; else the first
_WORD = 4  # bytes of a register; older names are of four such
_FIRST_WORD = 8


class Ports:
    """Follows one rule, expression by expression. `holds(set, at)` looks the port up in a set's keys."""

    def __init__(self, port: int, holds: Callable[[str, int], bool]) -> None:
        self.about: bool | None = None
        self._port = port
        self._holds = holds
        # First word of a load to the byte in it where the port is.
        self._loaded: dict[int, int] = {}

    def follow(self, name: str, found: Attributes) -> None:
        match name:
            case "cmp":
                self._compared(found)
            case "range":
                self._ranged(found)
            case "lookup":
                self._looked_up(found)
            case _:
                self._overwritten(name, found)

    def say(self, about: bool | None) -> None:
        """All that a rule says must hold."""
        if about is not None:
            self.about = about and self.about is not False

    def _overwritten(self, name: str, found: Attributes) -> None:
        if name in {"match", "target", "counter", "log", "limit", "quota"}:
            return
        word = _word(found.get(_LOADS_INTO.get(name, 1), b""))
        # A key is loaded from its first word on: what stands behind is of a former one, or overwritten.
        self._loaded = {w: at for w, at in self._loaded.items() if w < word}
        if name != "payload" or nft.read_number(found.get(2, b"")) != _TRANSPORT_HEADER:
            return
        offset, size = (nft.read_number(found.get(kind, b"")) for kind in (3, 4))
        if offset <= _DESTINATION and offset + size >= _DESTINATION + 2:
            self._loaded[word] = _DESTINATION - offset

    def _compared(self, found: Attributes) -> None:
        at = self._loaded.get(_word(found.get(1, b"")))
        value = nft.attributes(found.get(3, b"")).get(1, b"")
        if at is None or len(value) < at + 2:
            return
        other = struct.unpack_from(">H", value, at)[0]
        operation = nft.read_number(found.get(2, b""))
        if operation == _NOT_EQUAL:
            # Of a longer value another part may be what differs.
            self.say(False if self._port == other and len(value) == 2 else None)
        elif operation in _COMPARISONS:
            self.say(_COMPARISONS[operation](self._port, other))

    def _ranged(self, found: Attributes) -> None:
        if self._loaded.get(_word(found.get(1, b""))) != 0:
            return
        low, high = (nft.attributes(found.get(kind, b"")).get(1, b"") for kind in (3, 4))
        within = nft.read_number(low[:2]) <= self._port <= nft.read_number(high[:2])
        inverted = nft.read_number(found.get(2, b"")) == _INVERTED
        self.say((False if within else None) if inverted else within)

    def _looked_up(self, found: Attributes) -> None:
        first = _word(found.get(2, b""))
        inverted = bool(nft.read_number(found.get(5, b"")) & _INVERTED)
        # Parts of a concatenated key stand in words one after the other.
        for word, at in self._loaded.items():
            if first <= word < first + 4 * _WORD:
                held = self._holds(nft.read_text(found.get(1, b"")), (word - first) * _WORD + at)
                self.say((False if held and word == first else None) if inverted else held)


def is_among(elements: Iterable[Attributes], port: int, *, at: int) -> bool:
    """Whether a set's elements hold the port, `at` that byte of their keys."""
    bounds: list[tuple[int, bool]] = []
    intervals = False
    for element in elements:
        low, high = (_key(element, kind, at) for kind in (1, 10))
        if low is None:
            continue
        if high is not None:  # of a concatenation: both bounds in one element
            if low <= port <= high:
                return True
            continue
        ends = bool(nft.read_number(element.get(3, b"")) & _INTERVAL_END)
        intervals |= ends
        bounds.append((low, not ends))
    if not intervals:
        return (port, True) in bounds
    before = [bound for bound in bounds if bound[0] <= port]
    return bool(before) and max(before)[1]


def _key(element: Attributes, kind: int, at: int) -> int | None:
    key = nft.attributes(element.get(kind, b"")).get(1, b"")
    return struct.unpack_from(">H", key, at)[0] if len(key) >= at + 2 else None


def _word(register: bytes) -> int:
    """Registers of 16 bytes are called 1 to 4, their words 8 and on."""
    number = nft.read_number(register)
    return number - _FIRST_WORD if number >= _FIRST_WORD else (number - 1) * _WORD
