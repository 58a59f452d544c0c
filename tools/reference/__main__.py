"""Writes the pages, or checks that they are what the code says."""

import sys
from pathlib import Path

from tools.reference import metrics, objects, reasons, settings, subjects

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"
NOTICE = "<!-- Written by `make reference` from the code: change it there. -->\n\n"


def pages(root: Path) -> dict[str, str]:
    """The text of each page by its name. Raises ValueError for a thing without a text."""
    makers = (settings, metrics, subjects, objects, reasons)
    return {
        f"{maker.__name__.rpartition('.')[2]}.md": NOTICE + maker.page(root) for maker in makers
    }


def stale(root: Path, folder: Path) -> list[str]:
    """What differs from the code: pages to be written anew, and pages that nothing writes."""
    wanted = pages(root)
    there = {path.name: path.read_text() for path in folder.glob("*.md")}
    return sorted(name for name in wanted | there if wanted.get(name) != there.get(name))


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        old = stale(ROOT, FOLDER)
        for name in old:
            sys.stderr.write(
                f"docs/reference/{name} is not what the code says: run `make reference`\n"
            )
        return 1 if old else 0
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages(ROOT).items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
