"""Settings are environment variables, read once into a frozen struct; a bad one says its name and remedy.

An empty variable counts as not set: manifests often render empty values.
"""

import argparse
import os
import re
import socket
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msgspec

StructType = TypeVar("StructType", bound=msgspec.Struct)

_SECRET = re.compile(r"token|password|secret|seed|credential", re.IGNORECASE)
_PLACE = re.compile(r"_(file|dir)$")  # where a secret lies is none
Count = Annotated[int, msgspec.Meta(ge=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
Address = Annotated[
    str,
    msgspec.Meta(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^:\s]*):\d{1,5}$", description="HOST:PORT"),
]

_USERINFO = re.compile(r"(?<=//)[^/@\s]+@")


class SettingsError(ValueError):
    """A setting that is missing or makes no sense."""


class RuntimeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What every service needs, from NSM_* variables."""

    # the bus
    nats_url: str = "nats://127.0.0.1:4222"
    # the ServiceAccount token to log in with; read anew at every login
    token_file: str = ""
    # certificate authority of the bus, PEM; none: no TLS
    tls_ca: str = ""
    # replicas of the streams: 1, 3 or 5
    nats_replicas: Literal[1, 3, 5] = 1
    # who holds the lease, by default the host name; the same name takes its own lease back at once
    holder: str = msgspec.field(default_factory=socket.gethostname)
    # `/livez`, `/readyz`, `/metrics`, for this machine only `/explain`; port 0: any
    health_address: Address = "127.0.0.1:0"
    # `console`, `json`, or by whether the output is a terminal
    log_format: Literal["auto", "json", "console"] = "auto"
    # `debug`, `info`, `warning` or `error`
    log_level: Literal["debug", "info", "warning", "error"] = "info"


def load(
    struct: type[StructType], prefix: str, environ: Mapping[str, str] | None = None
) -> StructType:
    """`struct` filled from the variables PREFIX_FIELD. Raises SettingsError."""
    environ = os.environ if environ is None else environ
    values: dict[str, object] = {}
    for field in msgspec.structs.fields(struct):
        variable = _variable(prefix, field.name)
        text = environ.get(variable, "")
        if text:
            values[field.name] = _value(variable, text, field.type)
        elif field.required:
            raise SettingsError(f"{variable} is not set and has no default: set it")
    return struct(**values)


def given(struct: type[StructType], service: str) -> StructType:
    """Settings of a service's process, which takes no arguments; ends it with its help or with what is wrong."""
    variables = [*_described(struct, service), *_described(RuntimeSettings, "nsm")]
    argparse.ArgumentParser(
        prog=f"python -m services.{service}",
        description="Settings are environment variables; docs/reference/settings.md tells what each is for.",
        epilog="\n".join(variables),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    try:
        return load(struct, service)
    except SettingsError as exc:
        sys.exit(f"{service}: {exc}")


def masked(settings: msgspec.Struct) -> dict[str, object]:
    """The settings as they may be printed: secrets and passwords inside addresses are hidden."""
    return {name: _masked(name, getattr(settings, name)) for name in settings.__struct_fields__}


def _described(struct: type[msgspec.Struct], prefix: str) -> list[str]:
    """The variables, each with its default."""
    return [
        f"{_variable(prefix, field.name)}={_default(field)}"
        for field in msgspec.structs.fields(struct)
    ]


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "(required)"
    return "(host name)" if field.default is msgspec.NODEFAULT else str(field.default)


def _variable(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('_')}_{name}".upper()


def _value(variable: str, text: str, kind: Any) -> object:
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as exc:
        form = _form(kind)
        problem = f"; set it to {form}, " if form else f": {exc}; set it "
        raise SettingsError(f"{variable}={text!r} cannot be used{problem}or unset it") from exc


def _form(kind: Any) -> str:
    """What is to be written, where msgspec's words would not tell."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    notes = [note.description for note in getattr(kind, "__metadata__", ())]
    return next(filter(None, notes), "")


def _masked(name: str, value: object) -> object:
    if _SECRET.search(name) and not _PLACE.search(name) and value:
        return "***"
    return _USERINFO.sub("***@", value) if isinstance(value, str) else value
