"""`nsm dns explain`: who would be asked for a name of a Pod, and why; what each said last and how it is.

The dns service of the Pod's node tells it, on its health port: found in the lab, else named by `--at`.
"""

import contextlib
import http.client
import json
import re
from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from cli import labs, lazy, pods
from cli.options import Output
from cli.output import OutputFormat, print_json, print_table
from cli.problems import Problem

_SECONDS = 5.0
_PORT = re.compile(r"\bport\b\W+(\d+)")


DNS = lazy.group(
    "dns", {"explain": "cli.dns:explain"}, help_text="How the queries of Pods are answered."
)


def explain(
    pod: Annotated[
        str,
        typer.Argument(metavar=pods.METAVAR, help="The Pod that asks.", show_default=False),
    ],
    name: Annotated[str, typer.Argument(help="What it asks for; without: its servers.")] = ".",
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The Pod's namespace.")
    ] = "default",
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="HOST:PORT",
            help="Health port of the dns service of this node (9642); without: the lab's.",
        ),
    ] = "",
    output: Output = OutputFormat.TABLE,
) -> None:
    """Tell who would be asked for a name, why, and how they are."""
    namespace, pod = pods.place_of(pod, namespace)
    question = urlencode({"pod": f"{namespace}/{pod}", "name": name})
    # Where a node is named there may be no lab, or another one.
    if not at and pods.exists(namespace, pod) is False:
        raise Problem(f"no such Pod: {namespace}/{pod}; see: nsm lab get pods -n {namespace}")
    found = ask_all([at] if at else lab_ports(), question)
    if output is OutputFormat.JSON:
        print_json(found)
    else:
        _tell(found)


def lab_ports() -> list[str]:
    """The health ports of the lab's dns services. Raises Problem."""
    layout, _ = labs.running()
    processes: Any = labs.ask("GET", "/processes")
    names = [p["name"] for p in processes if p["name"].startswith("dns/") and p["running"]]
    ports = []
    for name in names:
        log = layout.log(name)
        port = port_told(log.read_text(errors="replace")) if log.exists() else ""
        if port:
            ports.append(f"127.0.0.1:{port}")
    if not ports:
        raise Problem("no dns service runs in the lab; see: nsm lab ps")
    return ports


def port_told(log: str) -> str:
    """The health port that a process's log names last; empty: none."""
    lines = [line for line in log.splitlines() if "health served" in line]
    found = _PORT.search(lines[-1]) if lines else None
    return found[1] if found else ""


def ask_all(places: list[str], question: str) -> Any:
    """The first that knows the Pod answers. Raises Problem."""
    reasons = []
    for place in places:
        try:
            status, body = _ask(place, question)
        except Problem as exc:  # another one may know the Pod
            reasons.append(str(exc))
            continue
        if status == http.HTTPStatus.OK:
            return body
        reasons.append(str(body.get("error", f"{place} says {status}")))
    raise Problem("; ".join(dict.fromkeys(reasons)))


def _ask(place: str, question: str) -> tuple[int, Any]:
    try:
        connection = http.client.HTTPConnection(place, timeout=_SECONDS)
        with contextlib.closing(connection):
            connection.request("GET", f"/explain?{question}")
            response = connection.getresponse()
            return response.status, json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as exc:
        raise Problem(
            f"dns service at {place}: {exc}; give its health port: --at HOST:PORT"
        ) from exc


def _tell(found: Any) -> None:
    said, answers = found["resolver"], found["answers"]
    mode = f" ({said['mode']})" if said.get("mode") else ""
    print(f"pod {said['namespace']}/{said['pod']}: {said['state']}{mode}")
    if answers is None:
        print(f"  {said.get('reason', '')}: {said.get('message', '')}")
        return
    rows = [
        [
            each["upstream"],
            each["server"],
            each["interface"],
            "yes" if each["asked"] else "no",
            each["state"],
            _heard(each),
            f"{each['rtt_ms']} ms" if each.get("rtt_ms") is not None else "-",
            each["why"],
        ]
        for each in answers["servers"]
    ]
    header = ["UPSTREAM", "SERVER", "VIA", "ASKED", "HEALTH", "LAST SAID", "RTT", "WHY"]
    print(f"for {answers['name']}")
    print_table(header, rows)
    before = "it"
    for own in answers["own_list"]:
        print(f"if nobody knows {before}: {own} of the Pod's own search list")
        before = "these"
    for other in answers["searched"]:
        print(f"if nobody knows {before}: {other}")


def _heard(each: Any) -> str:
    if not each.get("last"):
        return "-"
    ago = each.get("last_seconds_ago")
    return f"{each['last']}, {ago} s ago" if ago is not None else str(each["last"])
