"""Manifests: YAML or JSON files and folders as objects of our kinds, and what applying them changed.

Every error names the file, the number of the document in it, and the reason. Order is kept, as kubectl does.
"""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from lab.api.kinds import KINDS, Kind, by_kind
from lab.api.requests import PlainLoader

Obj = dict[str, Any]
Outcome = Literal["created", "configured", "unchanged"]

MANAGER = "nsm-lab"
_STDIN = Path("-")
SUFFIXES = (".yaml", ".yml", ".json")


class ManifestError(Exception):
    """A manifest that cannot be used: which, and why."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """One object, and where it was written."""

    source: str
    number: int
    kind: Kind
    body: Obj

    @property
    def namespace(self) -> str:
        return str(self.body["metadata"].get("namespace", ""))

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def title(self) -> str:
        """`pod/web`, as kubectl names what it changed."""
        kind = self.kind
        return f"{kind.singular}{'.' + kind.group if kind.group else ''}/{self.name}"

    @property
    def place(self) -> str:
        return f"{self.source}, document {self.number}"


class Applied(msgspec.Struct, frozen=True):
    """What became of a manifest."""

    manifest: Manifest
    outcome: Outcome


def read_paths(paths: Iterable[Path], *, namespace: str = "default") -> list[Manifest]:
    """The manifests of files, `-` for standard input, and of the files in folders (by name, not deeper).

    Raises ManifestError.
    """
    return [m for path in paths for file in _files(path) for m in _read_file(file, namespace)]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise ManifestError(f"{path}: the folder holds no {', '.join(SUFFIXES)} file")
    return found


def _read_file(path: Path, namespace: str) -> list[Manifest]:
    try:
        text = sys.stdin.read() if path == _STDIN else path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ManifestError(f"{path}: cannot be read: {exc}") from exc
    return read_text(text, source=str(path), namespace=namespace)


def read_text(text: str, *, source: str, namespace: str = "default") -> list[Manifest]:
    """The manifests of a text. Raises ManifestError."""
    found: list[Manifest] = []
    for number, document in enumerate(_documents(text, source), 1):
        if document is None:  # nothing between two separators
            continue
        origin = (source, number, namespace)
        found += [_manifest(body, origin) for body in _flat(document)]
    return found


def _documents(text: str, source: str) -> list[Any]:
    if source.endswith(".json"):
        try:
            return [msgspec.json.decode(text)]
        except msgspec.DecodeError as exc:
            raise ManifestError(f"{source}, document 1: no JSON: {exc}") from exc
    documents: list[Any] = []
    try:
        for document in yaml.load_all(text, Loader=PlainLoader):
            documents.append(document)  # noqa: PERF402 the number read so far is told in the error
    except yaml.YAMLError as exc:
        number = len(documents) + 1
        raise ManifestError(f"{source}, document {number}: no YAML: {_shown(exc)}") from exc
    return documents


def _shown(exc: yaml.YAMLError) -> str:
    mark = getattr(exc, "problem_mark", None)
    if mark is None:
        return str(exc)
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(exc, 'problem', exc)}"


def _flat(document: Any) -> list[Any]:
    if isinstance(document, dict) and str(document.get("kind", "")).endswith("List"):
        listed = document.get("items") or []
        return (
            [body for item in listed for body in _flat(item)]
            if isinstance(listed, list)
            else [listed]
        )
    return [document]


def _manifest(body: Any, origin: tuple[str, int, str]) -> Manifest:
    source, number, namespace = origin
    place = f"{source}, document {number}"
    if not isinstance(body, dict):
        raise ManifestError(f"{place}: no object but {type(body).__name__}")
    for field in ("apiVersion", "kind"):
        if not isinstance(body.get(field), str):
            raise ManifestError(f"{place}: {field} is missing")
    kind = by_kind(body["apiVersion"], body["kind"])
    if kind is None:
        known = ", ".join(sorted({f"{k.kind} ({k.api_version})" for k in KINDS}))
        given = f"{body['kind']} ({body['apiVersion']})"
        raise ManifestError(f"{place}: the lab serves no {given}; it knows {known}")
    metadata = body.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise ManifestError(f"{place}: {body['kind']}: metadata.name is missing")
    if kind.namespaced:
        metadata = {"namespace": namespace} | metadata
    return Manifest(source=source, number=number, kind=kind, body=body | {"metadata": metadata})


def outcome_of(before: Obj, after: Obj) -> Outcome:
    """What a write did to an object that was there."""
    same = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    return "unchanged" if same else "configured"
