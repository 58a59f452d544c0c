"""How a Pod is named on the command line, the same for every command: NAME of -n, NAMESPACE/NAME or pod/NAME."""

import asyncio
import re
from typing import Any

from cli import labs
from cli.problems import Problem
from lab.api.kinds import PODS
from schemas import values

_API_SECONDS = 3

METAVAR = "[NAMESPACE/]POD"

# As the API server checks names of Pods: their labels may be longer than those of DNS.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_KINDS = frozenset({"pod", "pods"})  # as kubectl has them; a namespace of that name: -n


def place_of(what: str, namespace: str) -> tuple[str, str]:
    """Namespace and name; one written before the slash counts more than `namespace`. Raises Problem."""
    before, slash, after = what.partition("/")
    place = (before, after) if slash and before not in _KINDS else (namespace, after or what)
    if not values.is_namespace_name(place[0]) or _NAME.fullmatch(place[1]) is None:
        raise Problem(f"{what!r} is no name of a Pod; write NAME or NAMESPACE/NAME", exit_code=2)
    return place


def exists(namespace: str, name: str) -> bool | None:
    """Whether the lab that runs here has the Pod; None: there is nobody to ask."""
    found = found_in_lab(namespace, name)
    return None if found is None else bool(found)


def found_in_lab(namespace: str, name: str) -> dict[str, Any] | None:
    """The Pod as the lab that runs here has it; empty: it has none; None: there is nobody to ask."""
    from cli import kube  # noqa: PLC0415 slow to import, and seldom asked
    from lab.api.client import Client  # noqa: PLC0415

    async def find(client: Client) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(_API_SECONDS):
                return await client.find(PODS, namespace, name)
        except TimeoutError as exc:
            raise Problem("the API server does not answer") from exc

    try:
        labs.running()
        return kube.run(find) or {}
    except Problem:
        return None
