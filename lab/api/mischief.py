"""Where faults meet requests: the middleware in front of all others, and the route that people tell faults to."""

import asyncio
from typing import Protocol

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from lab.api import misbehaving, requests, responses
from lab.api.errors import ApiError
from lab.api.misbehaving import Fault, Faults, Verb
from lab.api.store import Store


class Server(Protocol):
    """What can be done to an API server."""

    store: Store
    faults: Faults

    def cut(self, *, but: asyncio.BaseTransport | None = None) -> None: ...

    def rotate(self, token: str) -> None: ...

    def behave(self) -> None: ...


class Mischief:
    """`befall` a server with a fault: now, or when the turn of such a request comes."""

    PATH = "/misbehave"

    def __init__(self, server: Server) -> None:
        self._server = server

    def befall(self, fault: Fault, *, told_over: asyncio.BaseTransport | None = None) -> None:
        """Raises ApiError (Expired): a backup from so long ago is not kept. Who told it gets his answer."""
        server = self._server
        match fault.what:
            case "cut-all":
                server.cut(but=told_over)
            case "compact":
                server.store.compact()
            case "restore":
                server.cut(but=told_over)
                server.store.restore(max(server.store.version - fault.back, 1))
            case "jump":
                server.store.jump(fault.seconds)
            case "rotate":
                server.rotate(fault.token)
            case _:
                server.faults.add(fault)

    async def control(self, request: web.Request) -> web.Response:
        """POST a fault, GET those to come, DELETE them all."""
        try:
            if request.method == hdrs.METH_POST:
                self.befall(misbehaving.read(await request.read()), told_over=request.transport)
        except ApiError as error:
            return responses.refuse(error)
        if request.method == hdrs.METH_DELETE:
            self._server.behave()
        told = [msgspec.to_builtins(fault) for fault in self._server.faults.to_come]
        return responses.plain({"faults": told})

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        faults = self._server.faults
        fault = None
        if faults.any and request.path != self.PATH:
            fault = faults.of_request(*_meant(request))
        if fault is None:
            return await handler(request)
        if fault.what == "refuse":
            return responses.refuse(fault.error)
        if fault.what == "drop":
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        await faults.pause(fault)
        return await handler(request)


def _meant(request: web.Request) -> tuple[str, Verb]:
    """Which kind a request is about, and what it does with it."""
    group, _, tail = request.path.strip("/").removeprefix("apis/").partition("/")
    if group == "api":
        group = ""
    version, _, tail = tail.partition("/")
    try:
        target = requests.parse_target(group, version, tail)
    except ApiError:
        return "", "get"
    plural = target.kind.plural
    if request.method != hdrs.METH_GET:
        return plural, "write"
    if requests.flag(request.query, "watch") and not target.subresource:
        return plural, "watch"
    if target.name:
        return plural, "get"
    return plural, "page" if request.query.get("continue") else "list"
