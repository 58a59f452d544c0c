"""Objects of the API server by path: read, replaced. Foreign errors end here.

Unavailable: busy or away, try later. Conflict: somebody was faster, read again. Denied: a right is missing.
"""

import json
from typing import Any, Self

import aiohttp

from services._kube import Access
from services._runtime.errors import Conflict, Unavailable

NAME = "nsm-webhook"  # who we are in audit logs and managedFields
_SECONDS = aiohttp.ClientTimeout(total=10.0)

Object = dict[str, Any]


class Denied(Exception):
    """The API server will not take this request, however often it is asked."""


class Kube:
    """One API server. `async with Kube(kubeconfig)`; an empty path means: from inside a Pod."""

    def __init__(self, kubeconfig: str = "") -> None:
        self._access = Access(kubeconfig, name=NAME)

    async def __aenter__(self) -> Self:
        await self._access.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._access.__aexit__()

    async def read(self, path: str) -> Object | None:
        """The object, or None. Raises Unavailable, Denied."""
        return await self._ask("GET", path)

    async def replace(self, path: str, body: Object) -> None:
        """Replace the version that `body` was read as. Raises Unavailable, Conflict, Denied."""
        if await self._ask("PUT", path, body) is None:
            raise Conflict(f"PUT {path}: it is gone")

    async def _ask(self, method: str, path: str, body: Object | None = None) -> Object | None:
        query = {} if body is None else {"fieldManager": NAME}
        async with self._access.request(
            method, path, limits=_SECONDS, query=query, body=body
        ) as response:
            return _checked(f"{method} {path}", response.status, await response.read())


def _checked(what: str, status: int, body: bytes) -> Object | None:
    text = f"{what}: {status} {body[:300].decode(errors='replace')}"
    match status:
        case 404:
            return None
        case 409:
            raise Conflict(text)
        case 401 | 429:
            raise Unavailable(text)
        case _ if status >= 500:
            raise Unavailable(text)
        case _ if status >= 400:
            raise Denied(text)
    try:
        found: Object = json.loads(body)
    except ValueError as exc:
        raise Unavailable(f"{what}: {exc}") from exc
    return found
