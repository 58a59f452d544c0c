"""Where the API server is and who we are there, as the kubeconfig or our Pod says now.

Credentials, certificates and addresses change while we run. Who is refused (401) or cannot get a connection reads
them again: a new token goes into the next request, anything else makes a new connection pool. The library reads a
mounted token again by the wall clock, which may jump, and nothing else ever.
"""

import asyncio
import time
from pathlib import Path
from typing import Self

import aiohttp
import structlog
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config
from yaml import YAMLError

log = structlog.get_logger()

_LOOK_SECONDS = 1.0  # a server that is away makes every request ask

# What connections are made of.
_Place = tuple[object, ...]


class NoCluster(Exception):
    """Nothing says where the API server is: settings have to be changed."""


class Access:
    """`async with Access(kubeconfig)`; an empty path means: from inside a Pod."""

    def __init__(self, kubeconfig: str = "") -> None:
        self._kubeconfig = kubeconfig
        self._client: ApiClient | None = None
        self._place: _Place = ()
        self._looked = -_LOOK_SECONDS
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        try:
            configuration = await self._read()
            self._place = _place_of(configuration)
        except (ConfigException, OSError) as exc:
            raise NoCluster(
                f"kubeconfig {self._kubeconfig!r}: {exc}; name one that exists, or none inside a Pod"
            ) from exc
        self._client = ApiClient(configuration=configuration)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    @property
    def configuration(self) -> Configuration:
        return self._open.configuration

    @property
    def session(self) -> aiohttp.ClientSession:
        session: aiohttp.ClientSession = self._open.rest_client.pool_manager
        return session

    @property
    def _open(self) -> ApiClient:
        if self._client is None:
            raise RuntimeError("a Kube is used inside `async with`")
        return self._client

    async def headers(self) -> dict[str, str]:
        """What says who we are."""
        headers: dict[str, str] = {}
        await self._open.update_params_for_auth(headers, [], ["BearerToken"])
        return headers

    async def was_refused(self, token: str) -> None:
        """The server does not know us by this token, or by our certificate."""
        async with self._turn:
            now = self._open.configuration.api_key.get("BearerToken", token)
            if now == token:  # else another request was faster
                await self._renew()

    async def has_no_connection(self) -> None:
        """The server is away, has moved, or one of us does not trust the other's certificate any more."""
        async with self._turn:
            if time.monotonic() - self._looked >= _LOOK_SECONDS:
                await self._renew()

    async def _renew(self) -> None:
        self._looked = time.monotonic()
        try:
            configuration = await self._read()
            place = _place_of(configuration)
            if place == self._place:
                self._open.configuration = configuration
                return
            old, self._client = self._open, ApiClient(configuration=configuration)
        except (ConfigException, OSError, ValueError, YAMLError) as exc:
            log.warning("credentials cannot be read again", reason=str(exc))
            return
        self._place = place
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


def _place_of(configuration: Configuration) -> _Place:
    files = (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    read = tuple(Path(each).read_bytes() if each else b"" for each in files)
    ways = (configuration.host, configuration.proxy, configuration.tls_server_name)
    return (*ways, configuration.verify_ssl, *read)
