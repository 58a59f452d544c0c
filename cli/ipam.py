"""`nsm ipam`: what the pools hold, and why an address is whose it is. Reads the bus.

Kubernetes is asked only of a name that the bus knows no endpoint by, and what it does not answer is left out.
"""

import ipaddress
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import msgspec
import typer

from cli import lazy, pods
from cli.options import Output, Url
from cli.output import OutputFormat, print_json, print_list, print_table
from cli.problems import Problem
from schemas import grant, intent, values

if TYPE_CHECKING:
    from services.ipam.core.explaining import Line, Picture

IPAM = lazy.group(
    "ipam",
    {"pools": "cli.ipam:pools", "explain": "cli.ipam:explain"},
    default="pools",
    help_text="Addresses: what the pools hold (pools, if nothing else is named), and who has what.",
)

# Everything that says something about addresses.
_TOLD_BY = (
    "request",
    "endpoint",
    "networkservice",
    "prefix",
    "connection",
    "refusal",
    "pool",
    "status",
    "node",
    "seen",
)
_HEADERS = (
    "ENDPOINT",
    "FAMILY",
    "PREFIXES",
    "SIZE",
    "USED",
    "HELD",
    "EXCLUDED",
    "FREE",
    "LARGEST FREE",
    "AUTOMATIC",
    "COLLISIONS",
)
_PLAIN = 10**9  # up to here people read digits
_NUMBERS = re.compile(r"[\d.]+(/\d*)?")


def pools(
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Only of this one.", show_default=False)
    ] = "",
    url: Url = "",
    output: Output = OutputFormat.TABLE,
) -> None:
    """The pool of each NetworkServiceEndpoint, by family."""
    from cli import bus  # noqa: PLC0415 slow to import

    found: list[tuple[Any, grant.Pool]] = [
        (key, pool)
        for key, pool in bus.snapshot(["pool"], server=url)
        if namespace in ("", pool.namespace)
    ]
    if output is OutputFormat.JSON:
        print_list([_item(key.subject, pool) for key, pool in found])
        return
    if not found:
        where = f" in namespace {namespace}" if namespace else ""
        print(f"no pools{where}: one is there once an endpoint has a Pod")
        return
    print_table(_HEADERS, [row for _, pool in found for row in rows(pool)])
    told = [line for _, pool in found for line in collisions(pool)]
    if told:
        print("\n" + "\n".join(told))


def explain(
    what: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS|PREFIX|POD|ENDPOINT",
            help="172.16.1.5, 172.16.1.0/24, the name of a Pod or an endpoint, or NAMESPACE/NAME.",
            show_default=False,
        ),
    ],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="The Pod's.")] = "default",
    url: Url = "",
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say who holds an address, or why it is not given; what a Pod was granted, or why not; how an endpoint is."""
    from cli import bus  # noqa: PLC0415 slow to import
    from services.ipam.core.explaining import Picture  # noqa: PLC0415

    asked = parse(what, namespace)
    picture = Picture.from_messages(bus.snapshot(_TOLD_BY, server=url, tombstones=True))
    lines = (
        _of_name(picture, *asked, ask_lab=not url)
        if isinstance(asked, tuple)
        else _of_addresses(picture, asked)
    )
    if output is OutputFormat.JSON:
        print_json([msgspec.to_builtins(each) for each in lines])
        return
    for each in lines:
        print(each.text + (f"   ({each.subject})" if each.subject else ""))


def parse(what: str, namespace: str) -> values.Address | values.Prefix | tuple[str, str]:
    """What is asked about; two words: the namespace and the name of a Pod. Raises Problem."""
    try:
        return values.parse_prefix_loosely(what) if "/" in what else ipaddress.ip_address(what)
    except ValueError as exc:
        if ":" in what or _NUMBERS.fullmatch(what):
            reason = (
                str(exc)
                if "/" in what
                else f"{what!r} is no address; a Pod of that name: pod/{what}"
            )
            raise Problem(reason, exit_code=2) from exc
    try:
        return pods.place_of(what, namespace)
    except Problem as exc:
        reason = f"{what!r} is no address, no prefix and no name of a Pod or an endpoint"
        raise Problem(reason, exit_code=2) from exc


def _of_addresses(picture: "Picture", asked: values.Address | values.Prefix) -> "Sequence[Line]":
    from services.ipam.core import explaining  # noqa: PLC0415

    if isinstance(asked, ipaddress.IPv4Address | ipaddress.IPv6Address):
        lines = explaining.explain_address(picture, asked)
    else:
        lines = explaining.explain_prefix(picture, asked)
    why = never_given(asked)
    if not why:
        return lines
    told = [line for line in lines if line.subject]
    return [explaining.Line(f"{asked} is never given: {why}"), *told]


def never_given(asked: values.Address | values.Prefix) -> str:
    """Why no pool may have an address or a prefix, whatever the bus says; empty: one may."""
    from services.watcher.core import limits  # noqa: PLC0415

    try:
        limits.destination(str(ipaddress.ip_network(asked)))
    except ValueError as exc:
        return str(exc)
    return ""


def _of_name(picture: "Picture", namespace: str, name: str, *, ask_lab: bool) -> "Sequence[Line]":
    """A Pod and an endpoint of that name. Raises Problem where there is neither."""
    from cli import cluster, offering  # noqa: PLC0415 slow to import
    from services.ipam.core import explaining  # noqa: PLC0415

    lines = explaining.explain_pod(picture, namespace, name)
    of_endpoint = explaining.explain_endpoint(picture, namespace, name)
    if of_endpoint:
        return [*lines, *of_endpoint]
    there = pods.exists(namespace, name) if ask_lab and not lines else None
    if there:
        text = f"pod {namespace}/{name} asks for no network service and offers none"
        lines.append(explaining.Line(text))
    for each in cluster.endpoints_in([namespace], is_lab=ask_lab):
        if each.metadata.name == name:
            lines.append(explaining.Line(offering.why_idle(each)))
    return lines or _of_nobody(picture, namespace, name, is_no_pod=there is False)


def _of_nobody(picture: "Picture", namespace: str, name: str, *, is_no_pod: bool) -> NoReturn:
    """Of a name that nobody bears."""
    offered = sorted(
        f"{key.namespace}/{endpoint.endpoint}"
        for key, endpoint in picture.of(intent.Endpoint)
        if name in endpoint.network_services
    )
    if offered:
        by = ", ".join(dict.fromkeys(offered))
        remedy = f"network service {name} is offered by endpoint {by}: ask for that"
    else:
        remedy = f"see: kubectl get pods,nse -n {namespace}"
    unsure = "" if is_no_pod else "with a network service, "
    raise Problem(f"no such Pod {unsure}and no such endpoint: {namespace}/{name}; {remedy}")


def rows(pool: grant.Pool) -> Iterable[list[str]]:
    """A row per family; of an endpoint that has none yet, one."""
    for figures in pool.families or (grant.PoolFigures(family=0, prefixes=(), size=0),):
        colliding = sum(
            (6 if ":" in each.prefix else 4) == figures.family for each in pool.collisions
        )
        yield [
            f"{pool.namespace}/{pool.endpoint}",
            f"IPv{figures.family}" if figures.family else "-",
            ",".join(figures.prefixes) or "-",
            *(
                count(each)
                for each in (
                    figures.size,
                    figures.used,
                    figures.held,
                    figures.excluded,
                    figures.free,
                )
            ),
            figures.largest_free or "-",
            "yes" if pool.automatic else "no",
            str(colliding) if colliding else "-",
        ]


def collisions(pool: grant.Pool) -> Iterable[str]:
    """What collides, in words."""
    for each in pool.collisions:
        yield (
            f"{pool.namespace}/{pool.endpoint}: {each.prefix} overlaps {each.overlaps} ({each.used_by})"
        )


def count(number: int) -> str:
    """`253`; of an IPv6 pool about how many."""
    return str(number) if number < _PLAIN else f"~2^{round(math.log2(number))}"


def _item(subject: str, pool: grant.Pool) -> dict[str, Any]:
    return {"kind": "Pool", "subject": subject, **msgspec.to_builtins(pool)}
