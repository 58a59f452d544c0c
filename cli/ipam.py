"""`nsm ipam`: what the pools hold, and why an address is whose it is. Reads the bus only."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from cli import lazy
from cli.output import OutputFormat, print_json, print_list, print_table
from cli.problems import Problem
from schemas import grant, values

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

Url = Annotated[
    str, typer.Option("--url", help="A NATS server; default: the lab's.", show_default=False)
]
Output = Annotated[OutputFormat, typer.Option("--output", "-o")]


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
            metavar="ADDRESS|PREFIX|POD",
            help="172.16.1.5, 172.16.1.0/24, a Pod's name or NAMESPACE/NAME.",
            show_default=False,
        ),
    ],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="The Pod's.")] = "default",
    url: Url = "",
    output: Output = OutputFormat.TABLE,
) -> None:
    """Say who holds an address, or why it is not given; what a Pod was granted, or why not."""
    from cli import bus  # noqa: PLC0415 slow to import
    from services.ipam.core.explaining import Picture  # noqa: PLC0415

    asked = parse(what, namespace)
    picture = Picture.from_messages(bus.snapshot(_TOLD_BY, server=url, tombstones=True))
    lines = _answer(picture, asked)
    if output is OutputFormat.JSON:
        print_json([msgspec.to_builtins(each) for each in lines])
        return
    for each in lines:
        print(each.text + (f"   ({each.subject})" if each.subject else ""))


Asked = values.Address | values.Prefix | tuple[str, str]


def parse(what: str, namespace: str) -> Asked:
    """What is asked about; two words: the namespace and the name of a Pod. Raises Problem."""
    try:
        return ipaddress.ip_address(what)
    except ValueError:
        pass
    before, slash, after = what.partition("/")
    try:
        return values.parse_prefix_loosely(what)
    except ValueError as exc:
        if after.isdecimal() and (":" in before or before.replace(".", "").isdecimal()):
            raise Problem(str(exc), exit_code=2) from exc
    place = (before, after) if slash else (namespace, what)
    if not values.is_namespace_name(place[0]) or not values.is_object_name(place[1]):
        raise Problem(f"{what!r} is no address, no prefix and no name of a Pod", exit_code=2)
    return place


def _answer(picture: "Picture", asked: Asked) -> "Sequence[Line]":
    from services.ipam.core import explaining  # noqa: PLC0415

    match asked:
        case (namespace, pod):
            return explaining.explain_pod(picture, namespace, pod)
        case ipaddress.IPv4Address() | ipaddress.IPv6Address():
            return explaining.explain_address(picture, asked)
        case _:
            return explaining.explain_prefix(picture, asked)


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
    return str(number) if number < _PLAIN else f"~2^{number.bit_length() - 1}"


def _item(subject: str, pool: grant.Pool) -> dict[str, Any]:
    return {"kind": "Pool", "subject": subject, **msgspec.to_builtins(pool)}
