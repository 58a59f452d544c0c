"""Applied grants on disk, one file each: written atomically, read at start.

No fsync: the directory lives on a memory file system, and after a reboot nothing stands anyway.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from services.plumber.adapters.errors import Refused
from services.plumber.model import Applied


class Grants:
    """The files `<runtime>/connections/<tag>.json`."""

    def __init__(self, runtime_dir: str | os.PathLike[str]) -> None:
        self._directory = Path(runtime_dir, "connections")
        self._directory.mkdir(parents=True, exist_ok=True)

    def read(self) -> Iterator[tuple[Path, Applied | None]]:
        """Every file with its content; None for one that cannot be understood."""
        for path in sorted(self._directory.glob("*.json")):
            try:
                yield path, msgspec.json.decode(path.read_bytes(), type=Applied)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield path, None

    def write(self, tag: str, applied: Applied) -> None:
        """Raises Refused if the directory cannot take it."""
        path = self._directory / f"{tag}.json"
        draft = path.with_suffix(".new")
        try:
            draft.write_bytes(msgspec.json.encode(applied))
            draft.replace(path)
        except OSError as exc:
            raise Refused(f"file of the applied grant: {exc.strerror} ({path})") from exc

    def remove(self, tag: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._directory / f"{tag}.json").unlink()
