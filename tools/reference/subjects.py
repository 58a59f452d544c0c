"""Subjects and the messages they hold, from schemas."""

from pathlib import Path

import msgspec

from schemas import grant, intent, live, state
from schemas.codec import MESSAGES
from schemas.subjects import KEYS, Key
from tools.reference.source import Field, docstring, fields, structs
from tools.reference.table import code, table

_INTRO = """# Subjects and messages

Every subject holds the current truth about one thing, as JSON. [ARCHITECTURE.md](../../ARCHITECTURE.md) says who
writes and who reads which, and in which stream it is kept. Unknown fields are ignored.

"""

_MODULES = (intent, grant, state, live)


def page(root: Path) -> str:
    parts = [_INTRO, "## Subjects\n\n"]
    parts.append(table(["subject", "message"], map(_subject, KEYS.values())))
    for module in _MODULES:
        path = root / str(module.__name__.replace(".", "/") + ".py")
        parts.append(f"## {path.stem}\n\n{' '.join((module.__doc__ or '').split())}\n\n")
        for name, struct in structs(path).items():
            if issubclass(getattr(module, name), msgspec.Struct):
                rows = [_field(field) for field in fields(path, struct)]
                parts.append(f"### {name}\n\n{docstring(struct)}\n\n")
                parts.append(table(["field", "type", "default", "meaning"], rows))
    return "".join(parts)


def _subject(key: type[Key]) -> tuple[str, str]:
    subject = (key.__doc__ or "").partition("`")[2].partition("`")[0]
    message = MESSAGES[key].__name__
    return code(subject), f"[{message}](#{message.lower()})"


def _field(field: Field) -> tuple[str, str, str, str]:
    default = "required" if field.default is None else code(field.default)
    return code(field.name), code(field.kind), default, field.text
