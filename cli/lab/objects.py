"""`nsm lab apply|delete`: Kubernetes objects of the lab."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from cli import kube, labs
from cli.problems import Problem
from lab.api.client import Client, ClientError
from lab.api.kinds import Kind
from lab.api.manifests import Applied

Namespace = Annotated[str, typer.Option("--namespace", "-n", help="Namespace of what names none.")]
Files = Annotated[
    list[Path],
    typer.Option(
        "--filename",
        "-f",
        help="A file or folder of manifests, or - for standard input; repeatable.",
    ),
]


def apply(files: Files, namespace: Namespace = "default") -> None:
    """Create or change the objects of manifests, as `kubectl apply` does."""
    found = kube.manifests(files, namespace)

    async def act(client: Client) -> list[Applied]:
        return await client.apply_all(found)

    tell_applied(kube.run(act))


def tell_applied(applied: list[Applied]) -> None:
    """As kubectl says it, one line per object."""
    for one in applied:
        print(f"{one.manifest.title} {one.outcome}")


def delete(  # noqa: PLR0917 options of a command
    what: Annotated[
        list[str] | None,
        typer.Argument(help="KIND NAME…, or KIND/NAME…; or -f.", show_default=False),
    ] = None,
    files: Annotated[
        list[Path] | None,
        typer.Option("--filename", "-f", help="Delete the objects of manifests."),
    ] = None,
    namespace: Namespace = "default",
    grace: Annotated[
        int | None,
        typer.Option("--grace-period", help="Seconds between TERM and KILL.", show_default=False),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="The same as --grace-period 1.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until they are gone.")] = True,
    timeout: Annotated[str, typer.Option("--timeout", help="Of the wait.")] = "60s",
) -> None:
    """Delete objects and wait until they are gone."""
    if files:
        found = kube.manifests(files, namespace)
        targets = [(m.kind, m.namespace, m.name) for m in reversed(found)]
    else:
        targets = [(kind, namespace, name) for kind, name in parse_targets(what or [])]
    seconds = labs.duration_seconds(timeout)
    grace_seconds = 1 if now else grace

    async def act(client: Client) -> None:
        uids = {target: await kube.uid_of(client, *target) for target in targets}
        for kind, where, name in targets:
            try:
                await client.delete(kind, where, name, grace_seconds=grace_seconds)
            except ClientError as exc:
                if files and exc.reason == "NotFound":
                    continue  # as good as deleted
                raise
            if not wait:
                print(f"{kind.singular}/{name} is being deleted")
        if wait:
            await _tell_gone(client, uids, seconds)

    kube.run(act)


async def _tell_gone(
    client: Client, uids: Mapping[tuple[Kind, str, str], str], seconds: float
) -> None:
    label = ""
    try:
        async with asyncio.timeout(seconds):
            for (kind, where, name), uid in uids.items():
                label = f"{kind.singular}/{name}"
                await kube.until_gone(client, kind, where, name, uid=uid)
                print(f"{label} deleted")
    except TimeoutError as exc:
        raise Problem(
            f"{label} is still there after {seconds:g} s; it has a longer grace period or finalizers"
        ) from exc


def parse_targets(words: list[str]) -> list[tuple[Kind, str]]:
    """`pod a b` or `pod/a node/b`. Raises Problem."""
    if not words:
        raise Problem("nothing named; write KIND NAME, KIND/NAME or -f FILE", exit_code=2)
    if "/" in words[0]:
        pairs = [word.partition("/")[::2] for word in words]
    elif len(words) == 1:
        raise Problem(f"{words[0]} which? write {words[0]} NAME", exit_code=2)
    else:
        pairs = [(words[0], name) for name in words[1:]]
    found = []
    for kind_name, name in pairs:
        kind = kube.kind_of(kind_name)
        if kind is None or not name:
            raise Problem(f"{kind_name}/{name}: the lab's API knows no such thing", exit_code=2)
        found.append((kind, name))
    return found
