"""Options that mean the same in every command that has them."""

from typing import Annotated

import typer

from cli.output import OutputFormat

Url = Annotated[
    str,
    typer.Option(
        "--url",
        help="A NATS server; default: NSM_NATS_URL, else the lab's.",
        show_default=False,
    ),
]
Output = Annotated[OutputFormat, typer.Option("--output", "-o")]
