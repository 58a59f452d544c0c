"""The lab's Kubernetes API for commands: one client per command, its failures as Problems."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

from cli import labs
from cli.problems import Problem, Unheard
from lab.api.client import Client, ClientError
from lab.api.kinds import Kind, by_any_name
from lab.api.manifests import Manifest, ManifestError, read_paths

T = TypeVar("T")

_ASK_SECONDS = 0.05


def run(action: Callable[[Client], Awaitable[T]]) -> T:
    """What `action` returns, given a client of the lab that runs here. Raises Problem."""
    here, state = labs.running()

    async def with_client() -> T:
        async with Client(state.api_url) as client:
            return await action(client)

    try:
        return asyncio.run(with_client())
    except ManifestError as exc:
        raise Problem(str(exc)) from exc
    except ClientError as exc:
        if not _is_away(exc):
            raise Problem(str(exc)) from exc
        is_told = not exc.code or str(exc.code) in str(exc)
        said = str(exc) if is_told else f"the API server answers {exc.code}: {exc}"
        raise Unheard(f"{said}; see {here.log('lab')}") from exc


def _is_away(exc: ClientError) -> bool:
    """Whether it says something of the server, and nothing of what was asked."""
    return not exc.code or exc.code == HTTPStatus.TOO_MANY_REQUESTS or exc.code >= 500


async def uid_of(client: Client, kind: Kind, namespace: str, name: str) -> str:
    """Which one bears the name now; empty: none."""
    found = await client.find(kind, namespace, name)
    return str(found["metadata"]["uid"]) if found else ""


async def until_gone(client: Client, kind: Kind, namespace: str, name: str, *, uid: str) -> None:
    """Until the object is gone, though another one may bear its name by then. For ever."""
    newest = uid and await client.find(kind, namespace, name)
    while newest and newest["metadata"]["uid"] == uid:
        # Asked, not watched: between looking and watching it may go without an event.
        await asyncio.sleep(_ASK_SECONDS)
        newest = await client.find(kind, namespace, name)


def manifests(paths: list[Path], namespace: str) -> list[Manifest]:
    """The objects of files and folders. Raises Problem."""
    try:
        return read_paths(paths, namespace=namespace)
    except ManifestError as exc:
        raise Problem(str(exc), exit_code=2) from exc


def kind_of(name: str) -> Kind | None:
    """What people type for a kind of the API."""
    return by_any_name(name)
