"""The API server: HTTP over a `Store`. It decides nothing that the store could decide.

Requests pass the caller's middlewares first, then authentication, then the one place that turns `ApiError`
into a Status response. It shares the event loop of whoever starts it.
"""

import asyncio
import hmac
from collections.abc import Sequence
from typing import Any

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from lab.api import plain_routes, requests, responses
from lab.api.asked import presenter, selection
from lab.api.errors import (
    method_not_allowed,
    no_such_path,
    not_found,
    unauthorized,
)
from lab.api.history import Change
from lab.api.identity import Issuer
from lab.api.kinds import DEFINITIONS
from lab.api.listening import Listener
from lab.api.listing import ListQuery, list_page, parse_version
from lab.api.misbehaving import Faults
from lab.api.mischief import Mischief
from lab.api.requests import Target
from lab.api.store import Store
from lab.api.watching import BOOKMARK_SECONDS, Watch, WatchQuery
from lab.api.writing import Writing

Obj = dict[str, Any]

_OPEN_PATHS = frozenset({"/healthz", "/livez", "/readyz", "/version", Mischief.PATH})
_EXPIRY_SECONDS = 30.0
_MAX_BODY = 3 * 2**20  # as etcd's request limit makes it


class ApiOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How the server differs from the default: a token to ask for, how often bookmarks come."""

    token: str = ""
    bookmark_seconds: float = BOOKMARK_SECONDS
    bookmark_at_start: bool = False


class LabApi:
    """The server. `app` may get further routes before `start`; `middlewares` stand in front of all."""

    def __init__(
        self,
        store: Store,
        *,
        options: ApiOptions | None = None,
        middlewares: Sequence[Middleware] = (),
    ) -> None:
        self.store = store
        self.issuer = Issuer(store)
        self._writing = Writing(store, self.issuer)
        self.faults = Faults()
        self.url = ""
        self._options = options or ApiOptions()
        self._first_token = self._options.token
        self._watches: set[Watch] = set()
        self._listener: Listener | None = None
        self._end_defined = store.shelf(DEFINITIONS).listen(self._definition_changed)
        self._expiry: asyncio.TimerHandle | None = None
        mischief = Mischief(self)
        self.befall = mischief.befall
        own = (mischief.middleware, self._authenticate, responses.say_errors)
        self.app = web.Application(middlewares=[*middlewares, *own], client_max_size=_MAX_BODY)
        self.app.router.add_route("*", mischief.PATH, mischief.control)
        self._add_routes(self.app.router)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> str:
        """Listen; returns the URL. Port 0 takes a free one."""
        self._listener = await Listener.open(
            self.app, host, port, handler_cancellation=True, shutdown_timeout=2
        )
        self.url = f"http://{host}:{self._listener.port}"
        self._expire()
        return self.url

    async def stop(self) -> None:
        """End all watches and stop listening."""
        self.faults.clear()
        if self._expiry is not None:
            self._expiry.cancel()
        for watch in self._watches:
            watch.feed.end()
        if self._listener is not None:
            await self._listener.close()
            self._listener = None

    def _expire(self) -> None:
        self.store.expire_events()
        loop = asyncio.get_running_loop()
        self._expiry = loop.call_later(_EXPIRY_SECONDS, self._expire)

    def cut(self, *, but: asyncio.BaseTransport | None = None) -> None:
        """Close all connections now but one, in the middle of whatever they say."""
        if self._listener is None:
            return
        for connection in self._listener.server.connections:
            if connection.transport is not None and connection.transport is not but:
                connection.transport.abort()

    def rotate(self, token: str) -> None:
        """From now on only this token is let in."""
        self._options = msgspec.structs.replace(self._options, token=token)

    def behave(self) -> None:
        """No fault stands any more, and who was let in at first is again."""
        self.faults.clear()
        self.rotate(self._first_token)

    def _definition_changed(self, _: Change) -> None:
        """With a definition end the watches of its kind."""
        for watch in self._watches:
            if watch.kind.custom and self.store.definition(watch.kind) is None:
                watch.feed.end()

    # ---- routes

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        plain_routes.add(router, self.store)
        plain_routes.add_identity(router, self.issuer)
        router.add_route("*", "/api/{version}/{tail:.+}", self._object)
        router.add_route("*", "/apis/{group}/{version}/{tail:.+}", self._object)
        router.add_route("*", "/{tail:.*}", plain_routes.nowhere)

    @web.middleware
    async def _authenticate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        token = self._options.token
        if token and request.path not in _OPEN_PATHS:
            given = request.headers.get(hdrs.AUTHORIZATION, "")
            if not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
                return responses.refuse(unauthorized())
        return await handler(request)

    async def _object(self, request: web.Request) -> web.StreamResponse:
        where = request.match_info
        target = requests.parse_target(where.get("group", ""), where["version"], where["tail"])
        if target.kind.custom:
            if self.store.definition(target.kind) is None:
                raise no_such_path()
            if target.subresource and not self.store.has_status(target.kind):
                raise not_found(target.kind, target.name)  # in these words
        match (request.method, bool(target.name)):
            case ("GET", named):
                watching = requests.flag(request.query, "watch") and not target.subresource
                if watching:
                    return await self._watch(request, target)
                return self._get(request, target) if named else self._list(request, target)
            case ("POST", False) | ("POST", True) if not target.name or target.is_action:
                return await self._writing.create(request, target)
            case ("PUT", True) if not target.is_action:
                return await self._writing.update(request, target)
            case ("PATCH", True) if not target.is_action:
                return await self._writing.patch(request, target)
            case ("DELETE", True) if not target.subresource:
                return await self._writing.delete(request, target)
            case ("DELETE", False):
                return await self._writing.delete_collection(request, target)
        raise method_not_allowed(target.kind)

    # ---- reading

    def _get(self, request: web.Request, target: Target) -> web.Response:
        if target.is_action:
            raise method_not_allowed(target.kind)
        record = self.store.record(target.kind, target.namespace, target.name)
        return responses.raw(presenter(self.store, request, target.kind).one(record.body))

    def _list(self, request: web.Request, target: Target) -> web.Response:
        query = ListQuery(
            limit=requests.number(request.query, "limit"),
            token=request.query.get("continue", ""),
            version=request.query.get("resourceVersion", ""),
            match=request.query.get("resourceVersionMatch", ""),
        )
        if not query.token and (fault := self.faults.of_list(target.kind.plural)):
            past = max(self.store.version - fault.back, 1)
            query = msgspec.structs.replace(query, version=str(past), match="Exact")
        page = list_page(self.store, target.kind, selection(request, target), query)
        return responses.raw(
            presenter(self.store, request, target.kind).many(page.records, page.metadata)
        )

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        version = parse_version(request.query.get("resourceVersion", ""))
        query = WatchQuery(
            version=version or None,
            timeout_seconds=requests.number(request.query, "timeoutSeconds"),
            bookmarks=requests.flag(request.query, "allowWatchBookmarks"),
            initial_events=requests.flag(request.query, "sendInitialEvents"),
            bookmark_seconds=self._options.bookmark_seconds,
            bookmark_at_start=self._options.bookmark_at_start,
        )
        watch = Watch(
            self.store,
            target.kind,
            wanted=selection(request, target),
            presenter=presenter(self.store, request, target.kind),
            query=query,
            faults=self.faults,
        )
        self._watches.add(watch)
        try:
            return await watch.serve(request)
        finally:
            self._watches.discard(watch)
