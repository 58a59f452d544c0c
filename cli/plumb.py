"""`nsm plumb explain POD`: what the plumber of a Pod's node makes of its connections, asked there and now.

In a lab every node's plumber is asked; on a real node, in the plumber's own container, the one that runs there. One
that is silent keeps none of the others from answering.
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer

from cli import labs, lazy, pods
from cli.options import Output
from cli.output import OutputFormat, few, print_json
from cli.problems import Problem

_TIMEOUT_SECONDS = 10
_ADDRESS = "NSM_HEALTH_ADDRESS"

COMMANDS = {"explain": "cli.plumb:explain"}
PLUMB = lazy.group("plumb", COMMANDS, help_text="What the plumber of a node sees and does.")


def explain(
    pod: Annotated[
        str,
        typer.Argument(metavar=pods.METAVAR, help="Client or endpoint Pod.", show_default=False),
    ],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The Pod's namespace.")
    ] = "default",
    output: Output = OutputFormat.TABLE,
) -> None:
    """Desired, actual, the difference and the last error of each connection of a Pod."""
    name = "/".join(pods.place_of(pod, namespace))
    answers: list[Any] = []
    silent: list[str] = []
    for where in plumbers():
        try:
            answers.append(asked(where, name))
        except Problem as exc:
            silent.append(str(exc))
    answers = [each for each in answers if each is not None]
    if not answers and silent:
        raise Problem("; ".join(silent))
    if not answers:
        raise Problem(f"pod {name} has no connection here; why: nsm ipam explain {name}")
    for reason in silent:
        print(f"not asked: {reason}", file=sys.stderr)
    if output is OutputFormat.JSON:
        print_json(answers)
        return
    for answer in answers:
        for line in _lines(answer):
            print(line)


class Plumber(NamedTuple):
    address: str  # host:port
    node: str = ""  # of a lab

    def __str__(self) -> str:
        return f"the plumber of {self.node}" if self.node else f"the plumber at {self.address}"


def plumbers() -> list[Plumber]:
    """Those that can be asked from here. Raises Problem."""
    address = os.environ.get(_ADDRESS, "")
    if address and not address.endswith(":0"):
        host, _, port = address.rpartition(":")
        return [Plumber(f"[{host.strip('[]')}]:{port}" if ":" in host else address)]
    layout, state = labs.running()
    files = {node: layout.run_dir(node) / "health" for node in state.nodes}
    ports = {node: file.read_text().strip() for node, file in files.items() if file.exists()}
    if not ports:
        raise Problem(f"no plumber runs in this lab, nor is {_ADDRESS} set; see: nsm lab ps")
    return [Plumber(f"127.0.0.1:{port}", node) for node, port in ports.items()]


def asked(where: Plumber, pod: str, *, seconds: float = _TIMEOUT_SECONDS) -> Any | None:
    """The answer; None if the Pod has nothing to do with that node. Raises Problem."""
    url = f"http://{where.address}/explain?{urllib.parse.urlencode({'pod': pod})}"
    try:
        # Nothing of the environment's proxies: it is this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=seconds) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as exc:
        with exc:
            if exc.code == 404:
                return None
            raise Problem(f"{where} answers {exc.code}: {_reason(exc)}") from exc
    except (OSError, ValueError) as exc:
        raise Problem(f"{where} does not answer: {exc}; see: nsm lab ps") from exc


def _reason(refusal: urllib.error.HTTPError) -> str:
    try:
        return str(json.loads(refusal.read())["error"])
    except (OSError, ValueError, LookupError, TypeError):
        return "see its log"


def _lines(answer: Any) -> Iterator[str]:
    yield f"pod {answer['pod']} on {answer['node']}"
    for uid, where in answer["networks"].items():
        yield f"network {where}; uid {uid}"
    for each in answer["connections"]:
        yield ""
        yield from _told(each)


def _told(each: Any) -> Iterator[str]:
    side = "client" if each["role"] == "client" else "server"
    state = ": ".join(filter(None, (each["state"] or "not said yet", each["reason"])))
    yield f"{each['connection']} as {each['role']} of {each['network_service']}"
    yield f"  revision    {each['revision']}"
    yield f"  state       {state}"
    if each["message"]:
        yield f"  because     {each['message']}"
    yield f"  desired     {_desired(each['desired'], side)}"
    yield f"  actual      {describe_actual(each['actual'], side)}"
    if end := (each["actual"] or {}).get(side):
        received_bytes, sent_bytes, received, sent = end["traffic"]
        yield (
            f"  carried     {received} packets ({received_bytes} bytes) received, "
            f"{sent} ({sent_bytes} bytes) sent"
        )
    differences = each["differences"] or ["none"]
    yield f"  difference  {differences[0]}"
    yield from (f"              {more}" for more in differences[1:])
    yield f"  last error  {each['last_error'] or 'none'}"
    if each["repaired"]:
        yield f"  repaired    {each['repaired']}"


def _desired(desired: Any, side: str) -> str:
    if desired is None:
        return "nothing: it is released"
    if "tag" not in desired:
        why = desired.get(side) or {}
        return f"nothing now: {why.get('reason', '')}: {why.get('message', '')}"
    end = desired.get(side)
    return "nothing here" if end is None else f"{_end(end)}, MTU {desired['mtu']}"


def describe_actual(actual: Any, side: str) -> str:
    end = (actual or {}).get(side)
    if end is None:
        return "no such interface of ours"
    state = "up" if end["up"] else "DOWN"
    return f"{_end(end)}, MTU {end['mtu']}, index {end['index']}, {state}"


def _end(end: Any) -> str:
    parts = [end["interface"], end["mac"], *sorted(end["addresses"])]
    parts += _routes(end["routes"])
    parts += [f"rule {_rule(each)}" for each in end.get("lookups", ())]
    return ", ".join(parts)


def _routes(routes: list[Any]) -> Iterator[str]:
    """Those through the link, then what its table leaves to the next rule."""
    ordered = sorted(routes, key=lambda route: str(route["destination"]))
    yield from (_route(each) for each in ordered if not each["yields"])
    staying = [each["destination"] for each in ordered if each["yields"]]
    if staying:
        yield f"stays on the Pod's own interface: {few(staying)}"


def _route(route: Any) -> str:
    via = f" via {route['gateway']}" if route["gateway"] else ""
    return f"route {route['destination']}{via}"


def _rule(lookup: Any) -> str:
    rule = lookup["rule"]
    match = {name: value for name, value in rule.items() if value and name != "family"}
    told = " ".join(f"{name.replace('_', ' ')} {value}" for name, value in match.items())
    return f"{told} [{'; '.join(_routes(lookup['routes']))}]"
