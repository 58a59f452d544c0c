"""Free space as a sorted set of inclusive integer ranges, one family each: a /8 costs no more than a /24.

Finding is O(log n); taking or giving back shifts a list of ranges, which is a memory move.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator

Range = tuple[int, int]  # first, last; both included


class Ranges:
    """A set of integers held as sorted, disjoint, non-adjacent ranges."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __iter__(self) -> Iterator[Range]:
        return iter(zip(self._first, self._last, strict=True))

    def __bool__(self) -> bool:
        return bool(self._first)

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._first, number) - 1
        return at >= 0 and number <= self._last[at]

    def size(self) -> int:
        """How many numbers are in the set."""
        return sum(self._last) - sum(self._first) + len(self._first)

    def add(self, first: int, last: int) -> None:
        """Add a range; what is in the set already stays."""
        low = bisect_left(self._last, first - 1)
        high = bisect_right(self._first, last + 1)
        if low < high:
            first = min(first, self._first[low])
            last = max(last, self._last[high - 1])
        self._first[low:high] = [first]
        self._last[low:high] = [last]

    def remove(self, first: int, last: int) -> None:
        """Take a range out; what is not in the set does not matter."""
        low = bisect_left(self._last, first)
        high = bisect_right(self._first, last)
        if low >= high:
            return
        firsts, lasts = [], []
        if self._first[low] < first:
            firsts.append(self._first[low])
            lasts.append(first - 1)
        if self._last[high - 1] > last:
            firsts.append(last + 1)
            lasts.append(self._last[high - 1])
        self._first[low:high] = firsts
        self._last[low:high] = lasts

    def end_of(self, number: int) -> int | None:
        """The last number of the range that holds `number`, or None if it is not in the set."""
        at = bisect_right(self._first, number) - 1
        return self._last[at] if at >= 0 and number <= self._last[at] else None

    def within(self, first: int, last: int) -> Iterator[Range]:
        """The parts of the set between `first` and `last`."""
        low = bisect_left(self._last, first)
        high = bisect_right(self._first, last)
        for at in range(low, high):
            yield max(first, self._first[at]), min(last, self._last[at])

    def lowest(self, *, avoid: "Ranges") -> int | None:
        """The lowest number of the set that is not in `avoid`, or None."""
        for first, last in self:
            number: int = first
            while number <= last:
                blocked_to = avoid.end_of(number)
                if blocked_to is None:
                    return number
                number = blocked_to + 1
        return None
