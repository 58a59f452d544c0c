"""Objects of the API server by path: read, made, replaced. Foreign errors end here.

Unavailable: busy or away, try later. Conflict: somebody was faster, read again. Denied: a right is missing.
"""

import json
from typing import Any, Self

import aiohttp
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from services._runtime.errors import Conflict, Unavailable

NAME = "nsm-webhook"  # who we are in audit logs and managedFields
_SECONDS = aiohttp.ClientTimeout(total=10.0)

Object = dict[str, Any]


class NoCluster(Exception):
    """Nothing says where the API server is: settings have to be changed."""


class Denied(Exception):
    """The API server will not take this request, however often it is asked."""


class Kube:
    """One API server. `async with Kube(kubeconfig)`; an empty path means: from inside a Pod.

    Opened for each round of questions: the credentials are those that hold now.
    """

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

    async def read(self, path: str) -> Object | None:
        """The object, or None. Raises Unavailable, Denied."""
        return await self._ask("GET", path)

    async def create(self, path: str, body: Object) -> None:
        """Make an object; Conflict: it is there. Raises Unavailable, Conflict, Denied."""
        await self._ask("POST", path, body)

    async def replace(self, path: str, body: Object) -> None:
        """Replace the version that `body` was read as. Raises Unavailable, Conflict, Denied."""
        if await self._ask("PUT", path, body) is None:
            raise Conflict(f"PUT {path}: it is gone")

    async def _ask(self, method: str, path: str, body: Object | None = None) -> Object | None:
        client = self._client
        if client is None:
            raise RuntimeError("a Kube is used inside `async with`")
        headers = {"Accept": "application/json", "User-Agent": NAME}
        if body is not None:
            headers["Content-Type"] = "application/json"
        configuration, what = client.configuration, f"{method} {path}"
        try:
            await client.update_params_for_auth(headers, [], ["BearerToken"])
            async with client.rest_client.pool_manager.request(
                method,
                f"{configuration.host}{path}",
                headers=headers,
                params={} if body is None else {"fieldManager": NAME},
                data=None if body is None else json.dumps(body),
                timeout=_SECONDS,
                proxy=configuration.proxy or None,
                server_hostname=configuration.tls_server_name or None,
            ) as response:
                return _checked(what, response.status, await response.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as exc:
            raise Unavailable(f"{what}: {exc!r}") from exc


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
