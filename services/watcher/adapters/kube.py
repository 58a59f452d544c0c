"""Requests to the API server: raw bytes there and back.

Foreign errors end here: Unavailable (busy or away, try later), Conflict (our view is old), Missing,
Expired (the version asked for is gone), Denied (somebody must fix a right or a request).
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

import aiohttp
import msgspec

from services._kube import JSON, Access
from services._runtime.errors import Conflict, Unavailable

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
NAME = "nsm-watcher"  # who we are in audit logs and managedFields
_REQUEST_SECONDS = 30.0


class Missing(Exception):
    """Neither the object nor, for a list, the kind is there."""


class Expired(Exception):
    """410: the version asked for is compacted away; list again."""


class Denied(Exception):
    """The request will not be taken like this; trying again does not help.

    `remedy` says who can change that. `namespace_is_going`: nobody has to.
    """

    def __init__(self, what: str, *, status: int = 0, namespace_is_going: bool = False) -> None:
        super().__init__(what)
        self.status = status
        self.namespace_is_going = namespace_is_going

    @property
    def remedy(self) -> str:
        if self.status == 403:
            return "grant the watcher the right to do this"
        return "change what this answer of the API server names"


class _Cause(msgspec.Struct, frozen=True):
    field: str | None = None
    reason: str | None = None


class _Details(msgspec.Struct, frozen=True):
    causes: tuple[_Cause, ...] | None = None


class _Status(msgspec.Struct, frozen=True):
    reason: str = ""
    message: str = ""
    details: _Details | None = None

    @property
    def causes(self) -> tuple[_Cause, ...]:
        return (self.details and self.details.causes) or ()

    @property
    def is_about_uid(self) -> bool:
        return any(cause.field == "metadata.uid" for cause in self.causes)

    @property
    def namespace_is_going(self) -> bool:
        # NamespaceTerminating, the only one of its kind.
        return any((cause.reason or "").endswith("Terminating") for cause in self.causes)


_MANAGER = {"fieldManager": NAME}


class Kube:
    """One API server. `async with Kube(kubeconfig)`; an empty path means: from inside a Pod."""

    def __init__(self, kubeconfig: str = "") -> None:
        self._access = Access(kubeconfig, name=NAME)

    async def __aenter__(self) -> Self:
        await self._access.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._access.__aexit__()

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> bytes:
        """The body of a GET."""
        return await self._whole("GET", path, query=query)

    async def post(self, path: str, body: Any) -> bytes:
        """Create an object."""
        return await self._whole("POST", path, query=_MANAGER, body=body)

    async def patch(self, path: str, body: Any, *, content_type: str = MERGE) -> bytes:
        """Change an object; the body's metadata.uid, if given, is a precondition."""
        return await self._whole(
            "PATCH", path, query=_MANAGER, body=body, content_type=content_type
        )

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of a GET, chunk by chunk, without a limit on time: who reads watches the clock."""
        limits = aiohttp.ClientTimeout(total=None, sock_connect=10)
        async with self._request("GET", path, query=query, limits=limits) as response:
            yield response.content.iter_any()

    async def _whole(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
    ) -> bytes:
        # A large page of a busy server takes its time, as long as it comes.
        limits = aiohttp.ClientTimeout(
            total=4 * _REQUEST_SECONDS, sock_connect=10, sock_read=_REQUEST_SECONDS
        )
        async with self._request(
            method, path, query=query, body=body, content_type=content_type, limits=limits
        ) as response:
            return await response.read()

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        limits: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with self._access.request(
            method, path, limits=limits, query=query, body=body, content_type=content_type
        ) as response:
            if response.status >= 400:
                raise _error(f"{method} {path}", response, await response.read())
            yield response


def _error(what: str, response: aiohttp.ClientResponse, body: bytes) -> Exception:
    try:
        told = msgspec.json.decode(body, type=_Status)
    except msgspec.DecodeError:
        told = _Status(message=body[:200].decode(errors="replace"))
    text = f"{what}: {response.status} {told.reason}: {told.message}"
    match response.status:
        case 404:
            return Missing(text)
        case 409:
            return Conflict(text)
        case 422 if told.is_about_uid:  # the precondition of a patch is told as a forbidden change
            return Conflict(text)
        case 410 if response.method == "GET":  # to anything else no server in its senses says so
            return Expired(text)
        case status if status == 429 or status >= 500:
            # Only these two say that all of us shall stay away; others concern what was asked.
            after = response.headers.get("Retry-After", "") if status in (429, 503) else ""
            return Unavailable(text, float(after) if after.isdigit() else None)
        case 401:
            return Unavailable(text)  # the next request has the new token
        case _:
            return Denied(text, status=response.status, namespace_is_going=told.namespace_is_going)
