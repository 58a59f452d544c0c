"""`nsm lab logs`: what a process or a Pod's container wrote."""

import contextlib
import glob
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TextIO

import typer

from cli import labs
from cli.problems import Problem
from lab.layout import LabProblem, Layout, fitting


def logs(
    name: Annotated[
        str | None,
        typer.Argument(
            help="lab, clusterdns, nats, auth, watcher, plumber/NODE, dns/NODE …: of several replicas or nodes all, "
            "or one as nats/1; or pod/NAME.",
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
    paths = _paths(here, name, namespace, container)
    with contextlib.ExitStack() as stack:
        files: dict[Path, TextIO] = {
            path: stack.enter_context(path.open(errors="replace")) for path in paths
        }
        _print(files, tail=tail, follow=follow)


def _print(files: Mapping[Path, TextIO], *, tail: int, follow: bool) -> None:
    """Each as it stands, then what is added to any; of several each part is headed by whose it is."""
    headed: Path | None = None if len(files) > 1 else next(iter(files))
    is_first = True
    while is_first or follow:
        is_silent = True
        for path, file in files.items():
            lines = file.readlines()
            if not lines:
                continue
            is_silent = False
            if path != headed:
                print(f"==> {path.stem} <==")
                headed = path
            sys.stdout.writelines(lines[-tail:] if tail and is_first else lines)
        sys.stdout.flush()
        if follow and is_silent:
            time.sleep(0.1)
        is_first = False


def _paths(here: Layout, name: str, namespace: str, container: str) -> list[Path]:
    """Logs of a Pod, of a process, or of all of a service: there is one at least. Raises Problem."""
    kind, slash, pod = name.partition("/")
    if slash and kind in ("pod", "pods", "po"):
        return [_of_pod(here, namespace, pod, container)]
    path = here.log(name)
    if path.exists():
        return [path]
    of_service = sorted(here.logs.glob(f"{glob.escape(path.stem)}-*.log"))
    if of_service:
        return of_service
    raise Problem(
        f"no log {path}; of a Pod: nsm lab logs pod/{name.rpartition('/')[2]}; "
        "of a process: a name of nsm lab ps; all there are: nsm lab logs"
    )


def _of_pod(here: Layout, namespace: str, pod: str, container: str) -> Path:
    stem = glob.escape(fitting(f"{namespace}_{pod}"))
    wanted = glob.escape(container) or "*"
    found = sorted((here.logs / "pods").glob(f"{stem}_{wanted}.log"))
    if len(found) > 1:
        names = ", ".join(path.stem.rsplit("_", 1)[1] for path in found)
        raise Problem(f"pod {namespace}/{pod} has containers {names}; choose with -c")
    if found:
        return found[0]
    raise Problem(f"no log of pod {namespace}/{pod}: no container with a command ran")
