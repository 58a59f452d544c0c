"""A set of numbers as sorted ranges: a /8 costs no more than a /24, and nobody lists addresses.

Finding is O(log n); taking or giving back moves a part of a list in memory. The ranges are kept from the
highest to the lowest, because the lowest number is taken most: at the end of a list nothing moves.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator

Range = tuple[int, int]  # first, last; both included


class Ranges:
    """A set of integers held as disjoint, non-adjacent ranges."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        # Negated numbers, so that ascending lists, which bisect wants, begin with the highest range.
        self._low: list[int] = []
        self._high: list[int] = []
        self.size = 0  # how many numbers are in the set
        for first, last in ranges:
            self.add(first, last)

    def __iter__(self) -> Iterator[Range]:
        """From the lowest to the highest."""
        for at in range(len(self._low) - 1, -1, -1):
            yield -self._high[at], -self._low[at]

    def __bool__(self) -> bool:
        return bool(self._low)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._low, -number) - 1
        return at >= 0 and -number <= self._high[at]

    def add(self, first: int, last: int) -> None:
        """Add a range; what is in the set already stays."""
        low, high = -last, -first
        start = bisect_left(self._high, low - 1)
        end = bisect_right(self._low, high + 1)
        if start < end:
            low = min(low, self._low[start])
            high = max(high, self._high[end - 1])
        self._replace(start, end, [low], [high])

    def remove(self, first: int, last: int) -> None:
        """Take a range out; what is not in the set does not matter."""
        low, high = -last, -first
        start = bisect_left(self._high, low)
        end = bisect_right(self._low, high)
        if start >= end:
            return
        lows, highs = [], []
        if self._low[start] < low:
            lows.append(self._low[start])
            highs.append(low - 1)
        if self._high[end - 1] > high:
            lows.append(high + 1)
            highs.append(self._high[end - 1])
        self._replace(start, end, lows, highs)

    def within(self, first: int, last: int) -> list[Range]:
        """The parts of the set between `first` and `last`, highest first."""
        start = bisect_left(self._high, -last)
        end = bisect_right(self._low, -first)
        return [
            (max(first, -self._high[at]), min(last, -self._low[at])) for at in range(start, end)
        ]

    def lowest(self, blocked: Callable[[int], int | None]) -> int | None:
        """The lowest number of the set that is not blocked, or None.

        `blocked` tells up to where a number and those after it are blocked; None: it is not.
        """
        for first, last in self:
            number: int = first
            while number <= last:
                blocked_to = blocked(number)
                if blocked_to is None:
                    return number
                number = blocked_to + 1
        return None

    def _replace(self, start: int, end: int, lows: list[int], highs: list[int]) -> None:
        for at in range(start, end):
            self.size -= self._high[at] - self._low[at] + 1
        self.size += sum(highs) - sum(lows) + len(lows)
        self._low[start:end] = lows
        self._high[start:end] = highs
