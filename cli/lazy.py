"""Groups of commands that import a command's module only when it is run (or listed by --help)."""

import importlib
from collections.abc import Mapping
from typing import Any

import typer
import typer.core
import typer.main

# name -> "module:attribute": a function with typer's annotations, or a group.
Commands = Mapping[str, str]


def group(name: str, commands: Commands, *, help_text: str, default: str = "") -> Any:
    """A command group in the order of `commands`; `default` is meant where none is named."""
    return _Lazy(commands, default, name=name, help=help_text, no_args_is_help=not default)


class _Lazy(typer.core.TyperGroup):
    def __init__(self, places: Commands, default: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._default = default
        self._places = places
        # The library looks here for what a mistyped name may have meant.
        self.commands = dict.fromkeys(places)  # type: ignore[assignment]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        is_option = bool(args) and args[0].startswith("-") and args[0] not in ctx.help_option_names
        if self._default and (not args or is_option):
            args = [self._default, *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 the library's signature
        return list(self._places)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        if cmd_name not in self._places:
            return None
        module, _, attribute = self._places[cmd_name].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.core.TyperGroup):
            return found
        app = typer.Typer(add_completion=False)
        app.command(cmd_name, context_settings=getattr(found, "context_settings", None))(found)
        return typer.main.get_command(app)
