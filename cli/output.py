"""How every command prints: a table for people, JSON for programs."""

import enum
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

import msgspec

MOST_NAMED = 8


class OutputFormat(enum.StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"


def print_json(value: Any) -> None:
    """Indented, keys in the order given."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")
    sys.stdout.flush()


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as what stands in them, never cut: a table can be piped into grep and awk."""
    if sys.stdout.isatty():
        _print_rich(headers, rows)
        return
    for row in _padded([headers, *rows]):
        print(row)


def print_list(items: Sequence[Any]) -> None:
    """Objects as `kubectl get -o json` prints them."""
    print_json({"apiVersion": "v1", "kind": "List", "items": list(items)})


def few(texts: Sequence[str]) -> str:
    """`a, b`; of many some, and how many more: nobody reads a thousand prefixes."""
    rest = len(texts) - MOST_NAMED
    return ", ".join(texts[:MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def folded(text: str, *, hanging: int) -> str:
    """One paragraph as wide as the terminal, 80 columns where there is none; words are never cut."""
    width = max(60, shutil.get_terminal_size((80, 24)).columns)
    return "\n".join(
        textwrap.wrap(
            text,
            width,
            subsequent_indent=" " * hanging,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )
    )


def _padded(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _print_rich(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # Slow to import, and only a terminal sees the difference.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
