"""`nsm lab logs`: what a process or a Pod's container wrote."""

import glob
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from cli import labs
from cli.problems import Problem
from lab.layout import LabProblem, Layout, fitting


def logs(
    name: Annotated[
        str | None,
        typer.Argument(
            help="lab, clusterdns, nats, auth, watcher, plumber/NODE, dns/NODE …, or pod/NAME.",
            show_default=False,
        ),
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="Of the Pod.")] = "default",
    container: Annotated[str, typer.Option("--container", "-c", help="Of the Pod.")] = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C.")] = False,
    tail: Annotated[int, typer.Option("--tail", help="Only the last lines; 0: all.")] = 0,
) -> None:
    """Print a log of the lab; without a name, list what there is. Logs outlive the lab."""
    here = labs.layout()
    try:
        here.check_owner()
    except LabProblem as exc:
        raise Problem(str(exc)) from exc
    if name is None:
        for path in sorted(here.logs.rglob("*.log")):
            print(path)
        return
    path = _path(here, name, namespace, container)
    with path.open(errors="replace") as file:
        lines = file.readlines()
        sys.stdout.writelines(lines[-tail:] if tail else lines)
        sys.stdout.flush()
        while follow:
            line = file.readline()
            if line:
                sys.stdout.write(line)
                sys.stdout.flush()
            else:
                time.sleep(0.1)


def _path(here: Layout, name: str, namespace: str, container: str) -> Path:
    kind, slash, pod = name.partition("/")
    if slash and kind in ("pod", "pods", "po"):
        stem = glob.escape(fitting(f"{namespace}_{pod}"))
        wanted = glob.escape(container) or "*"
        found = sorted((here.logs / "pods").glob(f"{stem}_{wanted}.log"))
        if len(found) > 1:
            names = ", ".join(path.stem.rsplit("_", 1)[1] for path in found)
            raise Problem(f"pod {namespace}/{pod} has containers {names}; choose with -c")
        if found:
            return found[0]
        raise Problem(f"no log of pod {namespace}/{pod}: no container with a command ran")
    path = here.log(name)
    if not path.exists():
        raise Problem(
            f"no log {path}; of a Pod: nsm lab logs pod/{name.rpartition('/')[2]}; "
            "of a process: a name of nsm lab ps; all there are: nsm lab logs"
        )
    return path
