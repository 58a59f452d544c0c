"""`nsm dns explain`: who would be asked for a name of a Pod, and why; what each said last and how it is.

The dns service of the Pod's node tells it, on its health port: found in the lab, else named by `--at`.
"""

import contextlib
import http.client
import json
import re
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlencode

import typer

from cli import labs, lazy, pods
from cli.options import Output
from cli.output import OutputFormat, print_json, print_table
from cli.problems import Problem, Unheard
from services.watcher.model import CAPTURE_ANNOTATION

_SECONDS = 5.0
_NO_NAME = "."
_PORT = re.compile(r"\bport\b\W+(\d+)")


DNS = lazy.group(
    "dns", {"explain": "cli.dns:explain"}, help_text="How the queries of Pods are answered."
)


def explain(
    pod: Annotated[
        str,
        typer.Argument(metavar=pods.METAVAR, help="The Pod that asks.", show_default=False),
    ],
    name: Annotated[
        str, typer.Argument(help="What it asks for; without: its servers.", show_default=False)
    ] = _NO_NAME,
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
    known = None if at else pods.found_in_lab(namespace, pod)
    if known == {}:
        raise Problem(f"no such Pod: {namespace}/{pod}; see: nsm lab get pods -n {namespace}")
    if known and _opted_out(known):
        raise Problem(
            f"pod {namespace}/{pod} opted out: its annotation {CAPTURE_ANNOTATION} is "
            '"false", and it asks the cluster\'s DNS only; remove the annotation'
        )
    node = (known or {}).get("spec", {}).get("nodeName", "")
    found = ask_all([Service(at)] if at else lab_services(node), question)
    if output is OutputFormat.JSON:
        print_json(found)
    else:
        _tell(found)


def _opted_out(pod: Any) -> bool:
    annotations = pod["metadata"].get("annotations") or {}
    return bool(annotations.get(CAPTURE_ANNOTATION) == "false")


class Service(NamedTuple):
    """A dns service: its health port (empty: it does not run), and its node in a lab."""

    address: str
    node: str = ""


def lab_services(node: str = "") -> list[Service]:
    """The lab's dns services, or the one of `node` alone. Raises Problem."""
    layout, _ = labs.running()
    found = []
    for each in labs.processes():
        kind, _, where = each["name"].partition("/")
        if kind != "dns" or node not in ("", where):
            continue
        log = layout.log(each["name"])
        port = port_told(log.read_text(errors="replace")) if log.exists() else ""
        found.append(Service(f"127.0.0.1:{port}" if port and each["running"] else "", where))
    if not found:
        where = f" for node {node}" if node else ""
        raise Problem(f"the lab has no dns service{where}; see: nsm lab ps")
    return found


def port_told(log: str) -> str:
    """The health port that a process's log names last; empty: none."""
    lines = [line for line in log.splitlines() if "health served" in line]
    found = _PORT.search(lines[-1]) if lines else None
    return found[1] if found else ""


def ask_all(services: list[Service], question: str, *, seconds: float = _SECONDS) -> Any:
    """The first that knows the Pod answers. Raises Problem; Unheard where one is silent."""
    silent, reasons = [], []
    for service in services:
        try:
            status, body = _ask(service, question, seconds)
        except Unheard as exc:  # another one may know the Pod
            silent.append(str(exc))
            continue
        if status == http.HTTPStatus.OK:
            return body
        reasons.append(str(body.get("error", f"{service.address} says {status}")))
    # Who is silent may be the one that knows: the others' "not here" is no reason then.
    if silent:
        raise Unheard("; ".join(dict.fromkeys(silent)))
    raise Problem("; ".join(dict.fromkeys(reasons)))


def _ask(service: Service, question: str, seconds: float) -> tuple[int, Any]:
    if not service.address:
        raise _unheard(service.node)
    try:
        connection = http.client.HTTPConnection(service.address, timeout=seconds)
        with contextlib.closing(connection):
            connection.request("GET", f"/explain?{question}")
            response = connection.getresponse()
            return response.status, json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as exc:
        if service.node:
            raise _unheard(service.node, f" ({exc})") from exc
        raise Unheard(
            f"dns service at {service.address}: {exc}; give its health port: --at HOST:PORT"
        ) from exc


def _unheard(node: str, why: str = "") -> Unheard:
    from cli import remedies  # noqa: PLC0415 needed with a failure alone

    remedy = remedies.here(is_lab=True).start("dns", node)
    return Unheard(f"the dns service of {node} does not answer{why}; {remedy}")


def _tell(found: Any) -> None:
    said, answers = found["resolver"], found["answers"]
    mode = f" ({said['mode']})" if said.get("mode") else ""
    print(f"pod {said['namespace']}/{said['pod']}: {said['state']}{mode}")
    if answers is None:
        print(f"  {said.get('reason', '')}: {said.get('message', '')}")
        return
    has_name = answers["name"] != _NO_NAME
    if has_name:
        print(f"for {answers['name']}")
    rows = [_row(each) for each in answers["servers"]]
    header = ["UPSTREAM", "SERVER", "VIA", "HEALTH", "LAST SAID", "RTT", "ASKED", "WHY"]
    width = len(header) if has_name else header.index("ASKED")
    print_table(header[:width], [row[:width] for row in rows])
    if not has_name:
        return
    before = "it"
    for own in answers["own_list"]:
        print(f"if nobody knows {before}: {own} of the Pod's own search list")
        before = "these"
    for other in answers["searched"]:
        print(f"if nobody knows {before}: {other}")


def _row(each: Any) -> list[str]:
    return [
        each["upstream"],
        each["server"],
        each["interface"],
        health(each),
        _heard(each),
        f"{each['rtt_ms']} ms" if each.get("rtt_ms") is not None else "-",
        "yes" if each["asked"] else "no",
        each["why"],
    ]


def health(each: Any) -> str:
    """How a server is, and what it leaves unanswered. Those of before do not tell the second."""
    number = each.get("unanswered", 0)
    if not number:
        return str(each["state"])
    if each.get("last_seconds_ago") is None:
        return f"{each['state']}: {number} of {number} queries unanswered"
    return f"{each['state']}, {number} unanswered since"


def _heard(each: Any) -> str:
    if not each.get("last"):
        return "-"
    ago = each.get("last_seconds_ago")
    return f"{each['last']}, {ago} s ago" if ago is not None else str(each["last"])
