"""A small HTTP client of the lab's API for the `nsm` command. Works against any Kubernetes API it is shown.

Failures are `ClientError` with a message for people; `reason` is the server's own word (NotFound, Conflict).
"""

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from lab.api.discovery import APPLY
from lab.api.kinds import Kind
from lab.api.manifests import MANAGER, Applied, Manifest, ManifestError, Outcome, outcome_of

Obj = dict[str, Any]

_PAGE = 500
_TIMEOUT = aiohttp.ClientTimeout(total=30)
_MERGE = "application/merge-patch+json"


class ClientError(Exception):
    """A request that failed. `code` is 0 when nobody answered."""

    def __init__(self, message: str, *, reason: str = "", code: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.code = code


class Client:
    """One connection pool to an API server; use it as an async context manager."""

    def __init__(self, url: str, *, token: str = "") -> None:
        self.url = url.rstrip("/")
        self._headers = {"Accept": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Unlimited: a watch must not hold the connection another request waits for.
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(
            headers=self._headers, timeout=_TIMEOUT, connector=connector
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    # ---- objects

    async def get(self, kind: Kind, namespace: str, name: str) -> Obj:
        return (await self._ask("GET", kind.path(namespace, name)))[1]

    async def find(self, kind: Kind, namespace: str, name: str) -> Obj | None:
        """An object, or None if there is none."""
        try:
            return await self.get(kind, namespace, name)
        except ClientError as error:
            if error.reason == "NotFound":
                return None
            raise

    async def objects(
        self, kind: Kind, *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> list[Obj]:
        """All objects that match; an empty namespace means all."""
        found, _ = await self._pages(kind, namespace, _selectors(labels, fields))
        return found

    async def create(self, kind: Kind, body: Obj) -> Obj:
        path = kind.path(body["metadata"].get("namespace", ""))
        return (await self._ask("POST", path, body=body))[1]

    async def patch(
        self, kind: Kind, namespace: str, name: str, patch: Obj, *, status: bool = False
    ) -> Obj:
        """A merge patch."""
        path = kind.path(namespace, name, "status" if status else "")
        return (await self._ask("PATCH", path, body=patch, media=_MERGE))[1]

    async def apply(self, kind: Kind, body: Obj) -> tuple[Obj, Outcome]:
        """Server-side apply: the object, and what that did."""
        namespace, name = body["metadata"].get("namespace", ""), body["metadata"]["name"]
        before = await self.find(kind, namespace, name)
        query = {"fieldManager": MANAGER, "force": "true"}
        path = kind.path(namespace, name)
        code, after = await self._ask("PATCH", path, body=body, media=APPLY, query=query)
        if code == 201 or before is None:
            return after, "created"
        return after, outcome_of(before, after)

    async def apply_all(self, manifests: Sequence[Manifest]) -> list[Applied]:
        """Apply manifests in order. Raises ManifestError with what the API said about which."""
        applied = []
        for manifest in manifests:
            try:
                _, outcome = await self.apply(manifest.kind, manifest.body)
            except ClientError as error:
                raise ManifestError(f"{manifest.place}: {manifest.title}: {error}") from error
            applied.append(Applied(manifest, outcome))
        return applied

    async def delete(
        self, kind: Kind, namespace: str, name: str, *, grace_seconds: int | None = None
    ) -> Obj:
        """Delete an object, or begin to; the object or a Status, as the server says."""
        body: Obj = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        return (await self._ask("DELETE", kind.path(namespace, name), body=body))[1]

    async def watch(
        self, kind: Kind, *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> AsyncIterator[tuple[str, Obj]]:
        """What is there as ADDED, then every change, until the caller stops or the server does.

        Raises ClientError when the server cuts it; the caller starts anew.
        """
        selectors = _selectors(labels, fields)
        found, version = await self._pages(kind, namespace, selectors)
        for obj in found:
            yield "ADDED", obj
        query = selectors | {"watch": "1", "resourceVersion": version}
        timeout = aiohttp.ClientTimeout(sock_connect=5)
        url = self.url + kind.path(namespace)
        try:
            async with self._open.get(url, params=query, timeout=timeout) as response:
                if response.status >= 400:
                    raise _failure(response.status, await response.read())
                async for line in _lines(response):
                    event = msgspec.json.decode(line)
                    if event["type"] == "ERROR":
                        raise _failure(
                            event["object"].get("code", 0), msgspec.json.encode(event["object"])
                        )
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise self._unreachable(exc) from exc

    # ---- faults, of a lab's API server only

    async def misbehave(self, fault: Obj) -> list[Obj]:
        """Let something go wrong (`lab.api.misbehaving.Fault` says what there is); all that is to come."""
        told: list[Obj] = (await self._ask("POST", "/misbehave", body=fault))[1]["faults"]
        return told

    async def faults(self) -> list[Obj]:
        """All that is still to go wrong."""
        told: list[Obj] = (await self._ask("GET", "/misbehave"))[1]["faults"]
        return told

    async def behave(self) -> None:
        """All faults end."""
        await self._ask("DELETE", "/misbehave")

    # ---- HTTP

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise ClientError("the client is used outside of its `async with`")
        return self._session

    async def _pages(
        self, kind: Kind, namespace: str, selectors: dict[str, str]
    ) -> tuple[list[Obj], str]:
        found: list[Obj] = []
        token = ""
        while True:
            query = selectors | {"limit": str(_PAGE)} | ({"continue": token} if token else {})
            _, page = await self._ask("GET", kind.path(namespace), query=query)
            found += page["items"]
            token = page["metadata"].get("continue", "")
            if not token:
                return found, page["metadata"]["resourceVersion"]

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Obj | None = None,
        media: str = "application/json",
        query: dict[str, str] | None = None,
    ) -> tuple[int, Obj]:
        data = None if body is None else msgspec.json.encode(body)
        headers = {} if data is None else {"Content-Type": media}
        try:
            async with self._open.request(
                method, self.url + path, data=data, headers=headers, params=query
            ) as response:
                answer = await response.read()
                if response.status >= 400:
                    raise _failure(response.status, answer)
                return response.status, msgspec.json.decode(answer)
        except (aiohttp.ClientError, TimeoutError) as exc:
            raise self._unreachable(exc) from exc
        except msgspec.DecodeError as exc:
            raise ClientError(f"{self.url}{path} did not answer with JSON: {exc}") from exc

    def _unreachable(self, exc: Exception) -> ClientError:
        why = str(exc) or type(exc).__name__
        return ClientError(
            f"the API server at {self.url} does not answer: {why}", reason="Unreachable"
        )


def _selectors(labels: str, fields: str) -> dict[str, str]:
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {name: text for name, text in given.items() if text}


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    # Not the stream's own readline: it refuses lines above 64 KiB.
    rest = b""
    async for chunk in response.content.iter_any():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            if line:
                yield line


def _failure(code: int, answer: bytes) -> ClientError:
    try:
        status = msgspec.json.decode(answer)
        return ClientError(status["message"], reason=status.get("reason", ""), code=code)
    except (msgspec.DecodeError, KeyError, TypeError):
        text = answer[:200].decode(errors="replace")
        return ClientError(f"the API server answered {code}: {text}", code=code)
