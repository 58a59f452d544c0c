"""Two questions to the API server: whose token is this, and which public keys sign such tokens.

Whatever goes wrong with asking is Unavailable: then tokens are checked without it.
"""

import json
from typing import Any, Protocol, Self

import aiohttp
import msgspec
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from services._runtime.errors import Unavailable

NAME = "nsm-auth"
REVIEW_SECONDS = 1.0  # the server of the bus waits two for everything
_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_KEYS = "/openid/v1/jwks"
_DISCOVERY = "/.well-known/openid-configuration"


class NoCluster(Exception):
    """Nothing says where the API server is: settings have to be changed."""


class Tokens(Protocol):
    """Who knows about tokens."""

    async def review(self, token: str, audience: str) -> bytes: ...
    async def public_keys(self) -> tuple[str, bytes]: ...


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str


class Kube:
    """One API server. `async with Kube(kubeconfig)`; an empty path means: from inside a Pod."""

    def __init__(self, kubeconfig: str = "") -> None:
        self._kubeconfig = kubeconfig
        self._client: ApiClient | None = None

    async def __aenter__(self) -> Self:
        configuration = Configuration()
        try:
            if self._kubeconfig:
                await load_kube_config(
                    config_file=self._kubeconfig,
                    client_configuration=configuration,
                    persist_config=False,
                )
            else:
                load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        except ConfigException as exc:
            raise NoCluster(
                f"kubeconfig {self._kubeconfig!r}: {exc}; name one that exists, or none inside a Pod"
            ) from exc
        self._client = ApiClient(configuration=configuration)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

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
        client = self._client
        if client is None:
            raise RuntimeError("a Kube is used inside `async with`")
        headers = {"Accept": "application/json, application/jwk-set+json", "User-Agent": NAME}
        if body is not None:
            headers["Content-Type"] = "application/json"
        configuration = client.configuration
        try:
            await client.update_params_for_auth(headers, [], ["BearerToken"])
            async with client.rest_client.pool_manager.request(
                method,
                f"{configuration.host}{path}",
                headers=headers,
                data=None if body is None else json.dumps(body),
                timeout=aiohttp.ClientTimeout(total=REVIEW_SECONDS),
                proxy=configuration.proxy or None,
                server_hostname=configuration.tls_server_name or None,
            ) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise Unavailable(f"{method} {path}: {exc!r}") from exc
        if response.status >= 400:
            text = answer[:200].decode(errors="replace")
            raise Unavailable(f"{method} {path}: {response.status} {text}")
        return bytes(answer)
