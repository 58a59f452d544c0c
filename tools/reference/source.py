"""Fields of structs as their source tells them: name, type, default, and the comments beside and above."""

import ast
import io
import tokenize
from pathlib import Path
from typing import NamedTuple


class Field(NamedTuple):
    name: str
    kind: str
    default: str | None  # as the code spells it; None: required
    text: str


def structs(path: Path) -> dict[str, ast.ClassDef]:
    """Classes of a module by their names."""
    tree = ast.parse(path.read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def fields(path: Path, struct: ast.ClassDef) -> list[Field]:
    """Fields of a struct of that module, in order."""
    comments = _Comments(path)
    found = []
    for node in struct.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        kind = ast.unparse(node.annotation)
        if kind.startswith("ClassVar"):
            continue
        default = None if node.value is None else ast.unparse(node.value)
        found.append(Field(node.target.id, kind, default, comments.of(node)))
    return found


def docstring(struct: ast.ClassDef) -> str:
    """What a class says of itself, on one line. Raises ValueError if it says nothing."""
    text = ast.get_docstring(struct)
    if not text:
        raise ValueError(f"{struct.name} has no docstring: say what it is")
    return " ".join(text.split())


class _Comments:
    """Comments of a module by their line; `alone` are lines that have nothing else."""

    def __init__(self, path: Path) -> None:
        self._texts: dict[int, str] = {}
        self._alone: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type == tokenize.COMMENT:
                line, column = token.start
                self._texts[line] = token.string.lstrip("# ")
                if not token.line[:column].strip():
                    self._alone.add(line)

    def of(self, node: ast.stmt) -> str:
        first = node.lineno
        while first - 1 in self._alone:
            first -= 1
        lines = range(first, (node.end_lineno or node.lineno) + 1)
        return " ".join(self._texts[line] for line in lines if line in self._texts)
