"""Requests to the API server, where and as whom the kubeconfig or our Pod says now.

Credentials, certificates and addresses change while we run. Who is refused (401) or cannot get a connection reads
them again, but not more often than once a second, however many are: a new token goes into the next request, anything
else makes a new connection pool. The library reads a mounted token again by the wall clock, which may jump, and
nothing else ever.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
import structlog
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config
from yaml import YAMLError

from services._kube.proxy import proxy_for
from services._runtime.errors import Unavailable

log = structlog.get_logger()

JSON = "application/json"

_BUFFER_BYTES = 2 << 20  # a large object in one line of a watch
_LOOK_SECONDS = 1.0  # a server that is away makes every request ask

# What connections are made of.
_Place = tuple[object, ...]
# The library trips over an empty file, or half a one, in many ways.
_TRIPPED = (ValueError, TypeError, AttributeError, LookupError, YAMLError)
_UNREADABLE = (ConfigException, OSError, *_TRIPPED)


class NoCluster(Exception):
    """Nothing says where the API server is: settings have to be changed."""


class Access:
    """`async with Access(kubeconfig, name=…)`; an empty path means: from inside a Pod. `name`: who we are in logs."""

    def __init__(self, kubeconfig: str = "", *, name: str) -> None:
        self._kubeconfig = kubeconfig
        self._name = name
        self._client: ApiClient | None = None
        self._place: _Place = ()
        self._proxy = ""
        self._looked = -_LOOK_SECONDS
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            configuration = await self._read()
            self._place = _place_of(configuration)
            self._proxy = _proxy(configuration)
            self._client = _client(configuration)
        except _UNREADABLE as exc:
            raise NoCluster(
                f"kubeconfig {self._kubeconfig!r}: {exc}; name one that exists, or none inside a Pod"
            ) from exc
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        path: str,
        *,
        limits: aiohttp.ClientTimeout,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = JSON,
        accept: str = JSON,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, whatever its status. Raises Unavailable where there is none or it breaks off."""
        try:
            headers = await self._headers(accept, content_type if body is not None else "")
            configuration = self._open.configuration
            async with self._open.rest_client.pool_manager.request(
                method,
                f"{configuration.host}{path}",
                params=query or {},
                headers=headers,
                data=json.dumps(body) if body is not None else None,
                timeout=limits,
                proxy=self._proxy or None,
                server_hostname=configuration.tls_server_name or None,
            ) as response:
                if response.status == 401:
                    await self._was_refused(headers.get("authorization", ""))
                yield response
        except (aiohttp.ClientError, TimeoutError, OSError, ConfigException) as exc:
            await self._broke(exc)
            raise Unavailable(f"{method} {path}: {exc!r}") from exc

    @property
    def _open(self) -> ApiClient:
        if self._client is None:
            raise RuntimeError("an Access is used inside `async with`")
        return self._client

    async def _headers(self, accept: str, content_type: str) -> dict[str, str]:
        headers = {"Accept": accept, "User-Agent": self._name}
        if content_type:
            headers["Content-Type"] = content_type
        await self._open.update_params_for_auth(headers, [], ["BearerToken"])
        return headers

    async def _was_refused(self, token: str) -> None:
        """The server does not know us by this token, or by our certificate."""
        async with self._turn:
            now = self._open.configuration.api_key.get("BearerToken", token)
            if now == token:  # else another request was faster
                await self._renew()

    async def _broke(self, exc: Exception) -> None:
        """The server may be away, have moved, or one of us not trust the other's certificate any more."""
        if isinstance(exc, aiohttp.ClientConnectionError):
            async with self._turn:
                await self._renew()

    async def _renew(self) -> None:
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return  # who is refused now is so again when it tries again
        self._looked = time.monotonic()
        try:
            configuration = await self._read()
            place = _place_of(configuration)
            if place == self._place:
                self._open.configuration = configuration
                return
            proxy, client = _proxy(configuration), _client(configuration)
        except _UNREADABLE as exc:
            log.warning("credentials cannot be read again", reason=str(exc))
            return
        old, self._client = self._open, client
        self._place, self._proxy = place, proxy
        log.info("certificates or address of the API server changed", host=configuration.host)
        await old.close()  # what is under way there is asked for again

    async def _read(self) -> Configuration:
        configuration = Configuration()
        if self._kubeconfig:
            await load_kube_config(
                config_file=self._kubeconfig,
                client_configuration=configuration,
                persist_config=False,
            )
        else:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return configuration


def _client(configuration: Configuration) -> ApiClient:
    """With a session that asks the environment nothing: the library's does, twice and in threads, for each request.

    What it would find beside a proxy, a password for this host in ~/.netrc, would break requests with a token.
    """
    client = ApiClient(configuration=configuration)
    rest = client.rest_client
    connector = rest.pool_manager.connector
    rest.pool_manager.detach()
    rest.pool_manager = aiohttp.ClientSession(connector=connector, read_bufsize=_BUFFER_BYTES)
    return client


def _proxy(configuration: Configuration) -> str:
    """Of the kubeconfig, else of the environment."""
    return str(configuration.proxy or proxy_for(str(configuration.host)))


def _place_of(configuration: Configuration) -> _Place:
    files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    read = tuple(Path(each).read_bytes() if each else b"" for each in files)
    ways = (configuration.host, configuration.proxy, configuration.tls_server_name)
    return (*ways, configuration.verify_ssl, *read)
