"""`nsm annotation 'TEXT'`: what an annotation means, or the column that is wrong. Needs no cluster."""

from typing import Annotated

import msgspec
import typer

from cli.options import Output
from cli.output import OutputFormat, print_json, print_table
from cli.problems import Problem
from schemas.annotation import AnnotationError, parse
from schemas.values import is_namespace_name


def annotation(
    text: Annotated[str, typer.Argument(help="the annotation's value", metavar="TEXT")],
    namespace: Annotated[
        str,
        typer.Option("--namespace", "-n", help="the Pod's namespace; default names depend on it"),
    ] = "default",
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print what a networkservicemesh.io annotation means, or point at the column that is wrong."""
    if not is_namespace_name(namespace):
        raise Problem(f"namespace {namespace!r}: lower case letters, digits and '-'", exit_code=2)
    try:
        items = parse(text, namespace=namespace)
    except AnnotationError as error:
        if output is OutputFormat.JSON:
            print_json({"column": error.column, "reason": error.reason, "remedy": error.remedy})
        typer.echo(error.pointed(), err=True)
        raise typer.Exit(1) from None
    if output is OutputFormat.JSON:
        print_json([msgspec.to_builtins(item) for item in items])
        return
    if not items:
        typer.echo("asks for nothing")
        return
    print_table(
        ["MECHANISM", "NETWORK SERVICE", "NAMESPACE", "INTERFACE", "LABELS"],
        [
            [
                item.mechanism,
                item.network_service,
                item.namespace or f"{namespace}, else the one that allows it",
                item.interface,
                ",".join(f"{k}={v}" for k, v in item.labels.items()) or "-",
            ]
            for item in items
        ],
    )
