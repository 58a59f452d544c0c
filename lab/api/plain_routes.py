"""Routes that answer without objects: health, version, discovery, OpenAPI, and whose a token is."""

from typing import Any

from aiohttp import hdrs, web

from lab.api import discovery, requests, responses
from lab.api.errors import ApiError, no_such_path
from lab.api.identity import Issuer
from lab.api.store import Store

Obj = dict[str, Any]

_PROTOBUF = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"


def add(router: web.UrlDispatcher, store: Store) -> None:
    """Register all of them. Some clients end the short ones with a slash."""
    for path in ("/healthz", "/livez", "/readyz"):
        router.add_get(path, _ok)
    router.add_get("/version{_:/?}", _version)
    router.add_get("/api{_:/?}", _core_versions)
    told = _Told(store)
    router.add_get("/apis{_:/?}", told.groups)
    router.add_get("/apis/{group}{_:/?}", told.group)
    router.add_get("/api/{version}{_:/?}", told.resources)
    router.add_get("/apis/{group}/{version}{_:/?}", told.resources)
    router.add_get("/openapi/v2", told.openapi_v2)
    router.add_get("/openapi/v3", told.openapi_index)
    router.add_get("/openapi/v3/api/{version}", told.openapi)
    router.add_get("/openapi/v3/apis/{group}/{version}", told.openapi)


def add_identity(router: web.UrlDispatcher, issuer: Issuer) -> None:
    """Register what others check tokens with."""

    async def review(request: web.Request) -> web.Response:
        body = requests.read_body(await request.read(), request.content_type)
        return responses.plain(issuer.review(body), status=201)

    async def jwks(_: web.Request) -> web.Response:
        return responses.plain(issuer.jwks())

    async def configuration(_: web.Request) -> web.Response:
        return responses.plain(issuer.configuration())

    router.add_post(f"/apis/{discovery.REVIEWS}/tokenreviews", review)
    router.add_get("/openid/v1/jwks", jwks)
    router.add_get("/.well-known/openid-configuration", configuration)


async def _version(_: web.Request) -> web.Response:
    return responses.plain(discovery.version())


async def _core_versions(request: web.Request) -> web.Response:
    return responses.plain(discovery.core_versions(request.host))


async def _ok(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def nowhere(_: web.Request) -> web.Response:
    raise no_such_path()


class _Told:
    """Discovery, of the kinds that are served at that moment."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def groups(self, _: web.Request) -> web.Response:
        return responses.plain(discovery.group_list(self._store.served))

    async def group(self, request: web.Request) -> web.Response:
        return _found(discovery.group(self._store.served, request.match_info["group"]))

    async def resources(self, request: web.Request) -> web.Response:
        where = request.match_info
        served = self._store.served
        place = (where.get("group", ""), where["version"])
        return _found(discovery.resources(served, self._store.has_status, *place))

    async def openapi_index(self, _: web.Request) -> web.Response:
        return responses.plain(discovery.openapi_index(self._store.served))

    async def openapi(self, request: web.Request) -> web.Response:
        where = request.match_info
        place = (where.get("group", ""), where["version"])
        store = self._store
        return _found(discovery.openapi(store.served, store.schema_of, store.has_status, *place))

    async def openapi_v2(self, request: web.Request) -> web.Response:
        accept = request.headers.get(hdrs.ACCEPT, "*/*")
        if "application/json" not in accept and "*/*" not in accept:
            if _PROTOBUF not in accept:
                raise ApiError(406, "NotAcceptable", "only application/json is served here")
            # Older kinds, and lists of newer ones, kubectl checks by this document if it can; what is not in it
            # is left to the server, which checks all that it is sent. A message of no bytes is an empty one.
            return web.Response(body=b"", content_type=_PROTOBUF.replace("@", "."))
        return responses.plain(discovery.openapi_v2(self._store.served, self._store.schema_of))


def _found(body: Obj | None) -> web.Response:
    if body is None:
        raise no_such_path()
    return responses.plain(body)
