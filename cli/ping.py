"""`nsm ping`: from a Pod to an address, or to the other ends of all its connections; needs no tools there."""

import ipaddress
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from cli import labs, pods
from cli.icmp import Outcome, Target
from cli.icmp import ping as ask
from cli.options import Output
from cli.output import OutputFormat, print_json
from cli.problems import Problem


def ping(  # noqa: PLR0917 options of a command
    pod: Annotated[
        str, typer.Argument(metavar=pods.METAVAR, help="The Pod to ping from.", show_default=False)
    ],
    address: Annotated[
        str | None,
        typer.Argument(
            help="Default: the other end of each of the Pod's connections.", show_default=False
        ),
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The Pod's namespace.")
    ] = "default",
    count: Annotated[int, typer.Option("--count", "-c", help="Rounds; 0: until Ctrl-C.")] = 3,
    interval: Annotated[str, typer.Option("--interval", "-i", help="Between rounds.")] = "200ms",
    timeout: Annotated[str, typer.Option("--timeout", "-W", help="For each reply.")] = "1s",
    interface: Annotated[
        str, typer.Option("--interface", "-I", help="Through this interface only.")
    ] = "",
    output: Output = OutputFormat.TABLE,
) -> None:
    """Ping from a Pod. Exit code 0: every target answered every time."""
    interval_seconds = labs.duration_seconds(interval)
    timeout_seconds = labs.duration_seconds(timeout)
    namespace, pod = pods.place_of(pod, namespace)
    inside = labs.Inside(namespace, pod)
    if address is not None:
        targets = [Target(address=_checked(address), interface=interface)]
    else:
        targets = _peers(namespace, pod, interface)
    rounds = {"interval_seconds": interval_seconds, "timeout_seconds": timeout_seconds}

    def run() -> int:
        inside.enter()
        return _tell(ask(targets, count=count, **rounds), targets, output)

    sys.exit(labs.in_child(run))


def _checked(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError as exc:
        raise Problem(
            f"{address!r} is no address; names are for: nsm lab exec", exit_code=2
        ) from exc


def _peers(namespace: str, pod: str, interface: str) -> list[Target]:
    """Both families of every connection this Pod is an end of. Raises Problem without any."""
    from cli import bus  # noqa: PLC0415 slow to import; an address needs none

    found: dict[tuple[str, str], Target] = {}
    for _, connection in bus.snapshot(["connection"]):
        for own, other in (
            (connection.client, connection.server),
            (connection.server, connection.client),
        ):
            if (own.pod.namespace, own.pod.name) != (namespace, pod):
                continue
            if interface and own.interface != interface:
                continue
            for target in _targets(own, other, connection):
                found[target.interface, target.address] = target
    if not found:
        where = f" through {interface}" if interface else ""
        raise Problem(
            f"pod {namespace}/{pod} has no connection{where}; why: nsm lab wait pod/{pod} -n {namespace} --timeout 1s"
        )
    return list(found.values())


def _targets(own: Any, other: Any, connection: Any) -> Iterable[Target]:
    for address in other.addresses:
        yield Target(
            address=address.split("/")[0],
            interface=own.interface,
            label=f"{connection.network_service} {other.pod.namespace}/{other.pod.name}",
        )


def _tell(outcomes: Iterable[Outcome], targets: list[Target], output: OutputFormat) -> int:
    results: dict[Target, list[Outcome]] = {target: [] for target in targets}
    try:
        for outcome in outcomes:
            results[outcome.target].append(outcome)
            if output is OutputFormat.TABLE:
                print(_line(outcome), flush=True)
    except KeyboardInterrupt:
        pass
    summaries = [_summary(target, found) for target, found in results.items()]
    if output is OutputFormat.JSON:
        print_json(summaries)
    else:
        for summary in summaries:
            print(_summary_line(summary))
    return 0 if all(s["sent"] and s["sent"] == s["received"] for s in summaries) else 1


def _line(outcome: Outcome) -> str:
    target = outcome.target
    where = " ".join(filter(None, (target.interface, target.label)))
    whom = f"{target.address}{f' ({where})' if where else ''} seq {outcome.sequence}"
    if outcome.milliseconds is None:
        return f"nothing from {whom}: {outcome.problem}"
    return f"reply from {whom}: {outcome.milliseconds:.3f} ms"


def _summary_line(summary: dict[str, Any]) -> str:
    sent, received = summary["sent"], summary["received"]
    lost = 100 * (sent - received) / sent if sent else 100.0
    said = f"{summary['address']}: {sent} sent, {received} received, {lost:.3g}% packet loss"
    times = summary["milliseconds"]
    if not received:
        return said
    return f"{said}, min/avg/max {times['min']:.3f}/{times['avg']:.3f}/{times['max']:.3f} ms"


def _summary(target: Target, outcomes: list[Outcome]) -> dict[str, Any]:
    times = [o.milliseconds for o in outcomes if o.milliseconds is not None]
    return {
        "address": target.address,
        "interface": target.interface,
        "peer": target.label,
        "sent": len(outcomes),
        "received": len(times),
        "milliseconds": {
            "min": min(times, default=None),
            "avg": sum(times) / len(times) if times else None,
            "max": max(times, default=None),
        },
        "problems": sorted({o.problem for o in outcomes if o.problem}),
    }
