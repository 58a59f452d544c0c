"""`nsm explain POD`: asked, chosen, granted, plumbed, resolved, told; and where it goes wrong first."""

from typing import Annotated

import msgspec
import typer

from cli import labs, pods
from cli.options import Output, Url
from cli.output import OutputFormat, few, print_json
from cli.problems import Problem

PodName = Annotated[
    str,
    typer.Argument(metavar=pods.METAVAR, help="Client or endpoint Pod.", show_default=False),
]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="The Pod's namespace.")]
Kubeconfig = Annotated[
    str,
    typer.Option(
        "--kubeconfig",
        help="For kubectl, which reads the Pod; default: kubectl's own, or the lab's API.",
        show_default=False,
    ),
]


def explain(
    pod: PodName,
    namespace: Namespace = "default",
    url: Url = "",
    kubeconfig: Kubeconfig = "",
    output: Output = OutputFormat.TABLE,
) -> None:
    """Explain a Pod from its annotation to the kernel, and what is wrong first. Exit code 1: something is."""
    from cli import bus, remedies  # noqa: PLC0415 slow to import
    from cli.explain import asking, stages, telling  # noqa: PLC0415

    namespace, name = pods.place_of(pod, namespace)
    server = url or bus.url()
    is_lab = labs.is_bus_of_lab(server)
    found = asking.gather(server, namespace, name, is_lab=is_lab, kubeconfig=kubeconfig)
    if not stages.is_known(found):
        raise Problem(_unknown(namespace, name, found.api_note, asking.elsewhere(server, name)))
    explanation = stages.explain(found, remedies.here(is_lab=is_lab))
    if output is OutputFormat.JSON:
        print_json(msgspec.to_builtins(explanation))
    else:
        telling.tell(explanation)
    if not explanation.well:
        raise typer.Exit(1)


def _unknown(namespace: str, name: str, api_note: str, others: list[str]) -> str:
    pod = f"{namespace}/{name}"
    said = (
        f"the bus speaks of no Pod {pod}, and Kubernetes was not asked: {api_note}"
        if api_note
        else f"no such Pod: {pod}"
    )
    hint = f"of that name: {few(others)}" if others else f"see: kubectl get pods -n {namespace}"
    return f"{said}; {hint}"
