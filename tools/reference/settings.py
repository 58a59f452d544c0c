"""Environment variables of the services, from their structs of settings."""

import importlib
from pathlib import Path

import msgspec
from msgspec.structs import FieldInfo
from msgspec.structs import fields as structure

from tools.reference.source import fields, structs
from tools.reference.table import code, table

_INTRO = """# Settings

Environment variables. Each service prints what it was told when it starts; an empty variable counts as not set, and one
that makes no sense ends the start with a message that names it. There are no configuration files.

"""


def page(root: Path) -> str:
    parts = [_INTRO, "## Every service\n\n", section(root / "services/_runtime/settings.py", "NSM")]
    for path in sorted((root / "services").glob("*/settings.py")):
        service = path.parent.name
        if not service.startswith("_"):
            parts += [f"## {service}\n\n", section(path, service.upper())]
    return "".join(parts)


def section(path: Path, prefix: str) -> str:
    """The table of the settings of a package's module `settings.py`, by the prefix of their variables."""
    module = importlib.import_module(".".join((*path.parent.parts[-2:], path.stem)))
    rows = []
    for name, source in structs(path).items():
        if name.endswith("Settings"):
            texts = {field.name: field.text for field in fields(path, source)}
            rows += [_row(prefix, f, texts[f.name]) for f in structure(getattr(module, name))]
    return table(["variable", "default", "meaning"], rows)


def _row(prefix: str, field: FieldInfo, text: str) -> tuple[str, str, str]:
    variable = f"{prefix}_{field.name.upper()}"
    if not text:
        raise ValueError(f"{variable} has no comment: say what it means")
    return code(variable), _default(field), text


def _default(field: FieldInfo) -> str:
    if field.required:
        return "required"
    if field.default is msgspec.NODEFAULT:
        return "computed"
    return code(str(field.default)) or "none"
