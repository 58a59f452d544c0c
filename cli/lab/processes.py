"""`nsm lab ps|kill|start|node`: the lab's processes and nodes, to be looked at and broken."""

import enum
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import labs
from cli.options import Output
from cli.output import OutputFormat, print_json, print_table
from cli.problems import Problem
from lab.control import SIGNALS
from schemas.grant import TUNNEL_PORT

Name = Annotated[
    str,
    typer.Argument(metavar="PROCESS", help="nats, watcher, ipam, plumber/NODE, …; see: nsm lab ps"),
]


class NodeVerb(enum.StrEnum):
    """What can be done to a node."""

    STOP = "stop"
    START = "start"
    BLOCK = "block"
    UNBLOCK = "unblock"


_DONE = {
    NodeVerb.STOP: "stopped",
    NodeVerb.START: "started",
    NodeVerb.BLOCK: f"UDP {TUNNEL_PORT} is dropped, in and out",
    NodeVerb.UNBLOCK: f"UDP {TUNNEL_PORT} is open again",
}


def processes(
    output: Output = OutputFormat.TABLE,
) -> None:
    """List the lab's processes with this machine's pids."""
    _, state = labs.running()
    found = labs.processes()
    outer = _outer_pids(state.daemon_pid)
    for process in found:
        process["pid"] = outer.get(process["pid"])
        process["state"] = _state(process)
    found.insert(0, {"name": "lab", "pid": state.daemon_pid, "running": True, "state": "running"})
    if output is OutputFormat.JSON:
        print_json(found)
        return
    rows = [
        [
            process["name"],
            str(process["pid"] or "-"),
            process["state"],
            str(process.get("restarts", 0)),
            process.get("last_exit") or "-",
        ]
        for process in found
    ]
    print_table(["PROCESS", "PID", "STATE", "RESTARTS", "LAST EXIT"], rows)


def kill(
    name: Name,
    hard: Annotated[bool, typer.Option("-9", help="KILL instead of TERM.")] = False,
    signal_name: Annotated[
        str, typer.Option("--signal", "-s", help="Any other signal, such as STOP or CONT.")
    ] = "TERM",
    hold: Annotated[
        bool, typer.Option("--hold", help="Do not start it again until: nsm lab start PROCESS.")
    ] = False,
) -> None:
    """End a process of the lab; it is started again after a second unless held."""
    chosen = "KILL" if hard else signal_name.upper().removeprefix("SIG")
    if chosen not in SIGNALS:
        raise Problem(f"signal {signal_name!r}: take one of {', '.join(SIGNALS)}", exit_code=2)
    held = {"hold": "1"} if hold else {}
    labs.ask("POST", f"/processes/{name}/kill", signal=chosen, **held)
    print(f"{name}: {chosen} sent" + ("; held" if hold else ""))


def start(name: Name) -> None:
    """Let a held process start again."""
    labs.ask("POST", f"/processes/{name}/start")
    print(f"{name}: released")


def node(
    verb: Annotated[
        NodeVerb, typer.Argument(help="Cut or restore its power; close or open its tunnels' port.")
    ],
    name: Annotated[str, typer.Argument(help="node1, node2, …", show_default=False)],
) -> None:
    """Stop a node with everything on it, or start it again; or block its tunnels, as a firewall would."""
    labs.ask("POST", f"/nodes/{name}/{verb.value}")
    print(f"{name}: {_DONE[verb]}")


def _state(process: dict[str, Any]) -> str:
    if process.get("stopped"):
        return "stopped"
    if process.get("node_stopped") and not process["running"]:
        return "node stopped"
    if process["running"]:
        return "running, held next" if process.get("held") else "running"
    return "held" if process.get("held") else "starting"


def _outer_pids(daemon: int) -> dict[int | None, int]:
    """Pids inside the lab -> pids of this machine."""
    lab = _pid_namespace(daemon)
    found: dict[int | None, int] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 names are what we need
        if entry.isdigit() and lab and _pid_namespace(int(entry)) == lab:
            try:
                lines = Path("/proc", entry, "status").read_text().splitlines()
            except OSError:
                continue  # ended meanwhile
            for line in lines:
                if line.startswith("NSpid:"):
                    found[int(line.split()[-1])] = int(entry)
    return found


def _pid_namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/pid").readlink())
    except OSError:
        return ""
