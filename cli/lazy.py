"""Groups of commands that import a command's module only when it is run (or listed by --help)."""

import importlib
from typing import Any

import typer
import typer.core
import typer.main

# name -> "module:attribute"; the attribute is a function with typer annotations, or a typer.Typer.
Commands = dict[str, str]


def group(name: str, commands: Commands, *, help_text: str) -> Any:
    """A command group in the order of `commands`."""
    return _Lazy(
        name=name,
        help=help_text,
        no_args_is_help=True,
        commands_by_name=commands,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


class _Lazy(typer.core.TyperGroup):
    def __init__(self, *, commands_by_name: Commands, **settings: Any) -> None:
        settings.pop("pretty_exceptions_enable", None)
        super().__init__(**settings)
        self._by_name = commands_by_name

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 the library's signature
        return list(self._by_name)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002
        where = self._by_name.get(cmd_name)
        if where is None:
            return None
        module_name, _, attribute = where.partition(":")
        found = getattr(importlib.import_module(module_name), attribute)
        if not callable(found) or isinstance(found, typer.core.TyperGroup):
            return found
        if isinstance(found, typer.Typer):
            return typer.main.get_command(found)
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        app.command(cmd_name, context_settings=getattr(found, "context_settings", None))(found)
        return typer.main.get_command(app)
