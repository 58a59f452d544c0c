"""`nsm lab get`: objects of the lab's API, and what the bus holds, as tables or as a Kubernetes-style List."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer

from cli import kube
from cli.lab import busrows
from cli.options import Output
from cli.output import OutputFormat, print_list, print_table
from cli.problems import Problem
from lab.api import tables
from lab.api.client import Client
from lab.api.kinds import DEFINITIONS, Kind

Obj = dict[str, Any]

_EMPTY = ("", "<none>", "<unknown>")


def get(
    what: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="pods, namespaces, services, nodes, configmaps, events, networkservices, "
            f"networkserviceendpoints; of the bus: {', '.join(busrows.KINDS)}. Comma separated.",
        ),
    ],
    name: Annotated[str, typer.Argument(help="Only this one.")] = "",
    namespace: Annotated[str, typer.Option("--namespace", "-n")] = "default",
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Of all namespaces.")
    ] = False,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Show what there is."""
    kinds, _, after_slash = what.partition("/")
    wanted = after_slash or name
    where = "" if everywhere else namespace
    items: list[Any] = []
    sections: list[tuple[str, list[str], list[list[str]]]] = []
    for kind_name in filter(None, kinds.split(",")):
        on_bus = busrows.kind_of(kind_name)
        if on_bus is not None:
            found = busrows.select(busrows.once(_from_bus(on_bus)), namespace=where, name=wanted)
            items += [_bus_item(key, message) for key, message in found]
            sections.append((on_bus, *busrows.table(on_bus, found)))
        else:
            kind, objects, definition = _from_api(kind_name, where, wanted)
            items += [{"apiVersion": kind.api_version, "kind": kind.kind} | o for o in objects]
            told = _object_table(kind, objects, definition, everywhere=everywhere)
            sections.append((kind_name, *told))
    if wanted and not items:
        raise Problem(f"no {kinds} {wanted!r} {f'in namespace {where}' if where else 'anywhere'}")
    if output is OutputFormat.JSON:
        print_list(items)
        return
    _print(sections, where)


def _from_bus(kind: str) -> list[tuple[Any, Any]]:
    from cli import bus  # noqa: PLC0415 slow to import, and most kinds are not on it

    return bus.leaders() if kind == "leaders" else bus.snapshot([busrows.KINDS[kind]])


def _bus_item(key: Any, message: Any) -> dict[str, Any]:
    return {
        "kind": type(message).__name__,
        "subject": key.subject,
        **msgspec.to_builtins(message),
    }


def _from_api(name: str, namespace: str, wanted: str) -> tuple[Kind, list[Obj], Obj | None]:
    """The kind, its objects, and of a custom kind the definition, which says its columns."""
    kind = kube.kind_of(name)
    if kind is None:
        raise Problem(f"no kind {name!r}; see: nsm lab get --help", exit_code=2)
    fields = f"metadata.name={wanted}" if wanted else ""

    async def act(client: Client) -> tuple[list[Obj], Obj | None]:
        where = namespace if kind.namespaced else ""
        found = await client.objects(kind, namespace=where, fields=fields)
        custom = await client.get(DEFINITIONS, "", kind.resource) if kind.custom else None
        return found, custom

    found, definition = kube.run(act)
    return kind, sorted(found, key=_last_seen) if kind.plural == "events" else found, definition


def _last_seen(event: Obj) -> tuple[str, int]:
    """Newest last, as a story is told."""
    metadata = event["metadata"]
    last = event.get("lastTimestamp") or event.get("eventTime") or metadata["creationTimestamp"]
    return last[:19], int(metadata["resourceVersion"])  # to the second: all have that


def _object_table(
    kind: Kind, objects: list[Obj], definition: Obj | None, *, everywhere: bool
) -> tuple[list[str], list[list[str]]]:
    """All columns but those that are empty in every row."""
    now = datetime.now(UTC)
    rows = [[_text(cell) for cell in tables.cells(kind, obj, now, definition)] for obj in objects]
    headers = [str(column["name"]).upper() for column in tables.columns(kind, definition)]
    if everywhere and kind.namespaced:
        headers.insert(0, "NAMESPACE")
        for row, obj in zip(rows, objects, strict=True):
            row.insert(0, obj["metadata"]["namespace"])
    told = [at for at in range(len(headers)) if any(row[at] not in _EMPTY for row in rows)]
    return [headers[at] for at in told], [[row[at] for at in told] for row in rows]


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell)


def _print(sections: list[tuple[str, list[str], list[list[str]]]], namespace: str) -> None:
    for number, (kind, headers, rows) in enumerate(sections):
        if number:
            print()
        if rows:
            print_table(headers, rows)
        else:
            print(f"no {kind}" + (f" in namespace {namespace}; -A: of all" if namespace else ""))
