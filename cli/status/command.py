"""`nsm status`: who runs, who leads, who is behind, what is wrong. Exit code 0 only if nothing is."""

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import typer

from cli import labs
from cli.options import Output, Url
from cli.output import OutputFormat, print_json
from cli.problems import Problem
from cli.remedies import Place
from cli.status.model import Status, Wrong


def status(
    url: Url = "",
    output: Output = OutputFormat.TABLE,
) -> None:
    """Tell whether all is well: services, leaders, nodes, streams, lag, requests; else what is wrong."""
    from cli import bus  # noqa: PLC0415 slow to import
    from cli.status import telling  # noqa: PLC0415

    server = url or bus.url()
    found = _found(server)
    if output is OutputFormat.JSON:
        print_json(msgspec.to_builtins(found))
    else:
        telling.tell(found)
    if not found.well:
        raise typer.Exit(1)


def _found(server: str) -> Status:
    from cli import cluster, connecting, offering, persons  # noqa: PLC0415
    from cli.status import judging, survey  # noqa: PLC0415

    is_lab = labs.is_bus_of_lab(server)
    down = _not_running() if is_lab else ()
    persons.person(server, "nsm")  # a token of no use says nothing of the system
    try:
        sight = asyncio.run(survey.look(server, connecting.shown(server)))
    except Problem as problem:
        reason, _, remedy = str(problem).partition("; ")
        wrong = (*down, Wrong(f"nothing can be read: {reason}", remedy or "nsm status --help"))
        return Status(well=False, wrong=wrong)
    homes = offering.homes_of_unserved(each.message for each in sight.told)
    endpoints = cluster.endpoints_in(homes, is_lab=is_lab)
    sight = msgspec.structs.replace(sight, endpoints=endpoints)
    judged = judging.judge(sight, Place(is_lab=is_lab))
    if down:
        return msgspec.structs.replace(judged, well=False, wrong=(*down, *judged.wrong))
    return judged


def _not_running() -> tuple[Wrong, ...]:
    """Processes that the lab itself knows to be down."""
    try:
        processes: Any = labs.ask("GET", "/processes")
    except Problem as problem:
        return (Wrong(f"the lab does not answer: {problem}", "nsm lab down; nsm lab up"),)
    return (
        *_no_quorum(processes),
        *(
            Wrong(f"process {each['name']} of the lab does not run", _start(each))
            for each in processes
            if not each["running"]
        ),
    )


def _no_quorum(processes: Any) -> Iterator[Wrong]:
    servers = [each for each in processes if each["name"].partition("/")[0] == "nats"]
    running = sum(each["running"] for each in servers)
    if 0 < running <= len(servers) // 2:
        away = next(each for each in servers if not each["running"])
        yield Wrong(f"no quorum: {running} of {len(servers)} NATS servers runs", _start(away))


def _start(process: Any) -> str:
    name = process["name"]
    return f"nsm lab start {name}" if process.get("held") else f"nsm lab logs {name}"
