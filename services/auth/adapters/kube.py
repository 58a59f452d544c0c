"""Two questions to the API server: whose token is this, and which public keys sign such tokens.

Whatever goes wrong with asking is Unavailable: then tokens are checked without it.
"""

from typing import Any, Protocol, Self

import aiohttp
import msgspec

from services._kube import JSON, Access
from services._runtime.errors import Unavailable

NAME = "nsm-auth"
REVIEW_SECONDS = 1.0  # the server of the bus waits two for everything
_LIMITS = aiohttp.ClientTimeout(total=REVIEW_SECONDS)
_ACCEPTED = f"{JSON}, application/jwk-set+json"
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_KEYS = "/openid/v1/jwks"
_DISCOVERY = "/.well-known/openid-configuration"


class Tokens(Protocol):
    """Who knows about tokens."""

    async def review(self, token: str, audience: str) -> bytes: ...
    async def public_keys(self) -> tuple[str, bytes]: ...


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str


class Kube:
    """One API server. `async with Kube(kubeconfig)`; an empty path means: from inside a Pod."""

    def __init__(self, kubeconfig: str = "") -> None:
        self._access = Access(kubeconfig, name=NAME)

    async def __aenter__(self) -> Self:
        await self._access.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._access.__aexit__()

    async def review(self, token: str, audience: str) -> bytes:
        """The TokenReview of a token, answered. Raises Unavailable."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        return await self._ask("POST", _REVIEWS, body)

    async def public_keys(self) -> tuple[str, bytes]:
        """(issuer, JWKS) of ServiceAccount tokens. Raises Unavailable."""
        try:
            told = msgspec.json.decode(await self._ask("GET", _DISCOVERY), type=_Discovery)
        except msgspec.DecodeError as exc:
            raise Unavailable(f"GET {_DISCOVERY}: {exc}") from exc
        return told.issuer, await self._ask("GET", _KEYS)

    async def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        async with self._access.request(
            method, path, limits=_LIMITS, body=body, accept=_ACCEPTED
        ) as response:
            answer = await response.read()
        if response.status >= 400:
            text = answer[:200].decode(errors="replace")
            raise Unavailable(f"{method} {path}: {response.status} {text}")
        return answer
