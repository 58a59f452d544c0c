"""Figures as text: columns for people, medians for judgement. A row is printed as soon as it is known."""

import statistics
from collections.abc import Sequence


def duration(seconds: float) -> str:
    """Three digits and the unit that fits."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError("every duration has a unit")


def median(samples: Sequence[float]) -> float:
    return statistics.median(samples)


def worst_of_99(samples: Sequence[float]) -> float:
    """What 99 of 100 do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


class Table:
    """Columns of given widths; all but the first to the right."""

    def __init__(self, **columns: int) -> None:
        self._widths = list(columns.values())
        self.row(*(name.replace("_", " ") for name in columns))

    def row(self, *cells: str) -> None:
        first, *others = zip(cells, self._widths, strict=True)
        line = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        print("  ".join(line).rstrip(), flush=True)
