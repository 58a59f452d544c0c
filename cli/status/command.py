"""`nsm status`: who runs, who leads, who is behind, what is wrong. Exit code 0 only if nothing is."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import typer

from cli import labs
from cli.options import Output, Url
from cli.output import OutputFormat, print_json
from cli.problems import Problem
from cli.remedies import Place, start_node, thaw
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
    from cli import bus, cluster, connecting, offering, persons  # noqa: PLC0415
    from cli.status import judging, survey  # noqa: PLC0415

    is_lab = labs.is_bus_of_lab(server)
    place, down = _of_lab() if is_lab else (Place(is_lab=False), ())
    persons.person(server, "nsm")  # a token of no use says nothing of the system
    try:
        sight = asyncio.run(survey.look(server, connecting.shown(server)))
    except Problem as problem:
        reason, _, remedy = str(problem).partition("; ")
        remedy = remedy.replace(bus.SEE, place.see("nats"))
        wrong = (*down, Wrong(f"nothing can be read: {reason}", remedy or "nsm status --help"))
        return Status(well=False, wrong=wrong)
    homes = offering.homes_of_unserved(each.message for each in sight.told)
    endpoints = cluster.endpoints_in(homes, is_lab=is_lab)
    sight = msgspec.structs.replace(sight, endpoints=endpoints)
    judged = judging.judge(sight, place)
    if is_lab and not any(each.troubles for each in judged.services):
        down += tuple(_silent_api(cluster.unheard_api(), place))
    if down:
        return msgspec.structs.replace(judged, well=False, wrong=(*down, *judged.wrong))
    return judged


def _of_lab() -> tuple[Place, tuple[Wrong, ...]]:
    """The place, and what the lab itself knows to be down in it."""
    try:
        processes = labs.processes()
    except Problem as problem:
        lost = Wrong(f"the lab does not answer: {problem}", "nsm lab down; nsm lab up")
        return Place(is_lab=True), (lost,)
    place = Place.of_lab(processes)
    down = (*_no_quorum(processes), *_nodes_off(place), *_not_running(processes, place))
    return place, down


def _nodes_off(place: Place) -> Iterator[Wrong]:
    for node in sorted(place.off):
        what = f"node {node} of the lab is stopped, with its Pods and services"
        yield Wrong(what, start_node(node))


def _not_running(processes: Sequence[Any], place: Place) -> Iterator[Wrong]:
    for each in processes:
        name = each["name"]
        if each.get("stopped"):
            what = f"process {name} of the lab is stopped by a signal: it holds its connections and does nothing"
            yield Wrong(what, _start(each))
        elif not each["running"] and name.partition("/")[2] not in place.off:
            yield Wrong(f"process {name} of the lab does not run", _start(each))


def _silent_api(why: str, place: Place) -> Iterator[Wrong]:
    """The watcher tells of one that hangs only after two minutes; here there is one to ask."""
    if why:
        yield Wrong(f"edits wait, connections stay: {why}", place.see_api())


def _no_quorum(processes: Sequence[Any]) -> Iterator[Wrong]:
    servers = [each for each in processes if each["name"].partition("/")[0] == "nats"]
    away = [each for each in servers if not each["running"] or each.get("stopped")]
    running = len(servers) - len(away)
    if 0 < running <= len(servers) // 2:
        yield Wrong(f"no quorum: {running} of {len(servers)} NATS servers runs", _start(away[0]))


def _start(process: Any) -> str:
    name = process["name"]
    if process.get("stopped"):
        return thaw(name)
    return f"nsm lab start {name}" if process.get("held") else f"nsm lab logs {name}"
