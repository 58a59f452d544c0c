"""Who may talk to an API server without a token on loopback: the owner's processes, and no web page.

Loopback is every local user's, and the owner's browser is at every web site's command. So a connection must
come from the owner (or root), name this server as its host, say nothing of a web origin, and what changes
something must be of a type that no web form can send.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from lab.api import discovery, protobuf, responses
from lab.api.errors import ApiError, unsupported_media_type

# (address, port) of the peer, and of our end.
IsTrusted = Callable[[tuple[str, int], tuple[str, int]], bool]

_READING = frozenset({"GET", "HEAD"})
_BODIES = (
    "application/json",
    "application/yaml",
    protobuf.MEDIA_TYPE,
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    discovery.APPLY,
)


def guard(is_trusted: IsTrusted) -> Middleware:
    """A middleware to stand in front of all others. Whose a connection is, is asked once."""
    known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        transport = request.transport
        if transport is None:  # closed: nobody hears the answer
            return responses.refuse(_forbidden("the connection is gone"))
        here = transport.get_extra_info("sockname")
        if transport not in known:
            peer = transport.get_extra_info("peername")
            known[transport] = await asyncio.to_thread(is_trusted, peer, here)  # milliseconds
        if not known[transport]:
            return responses.refuse(_forbidden("this lab is another user's"))
        problem = _problem(request, here[1])
        return await handler(request) if problem is None else responses.refuse(problem)

    return guarded


def _problem(request: web.Request, port: int) -> ApiError | None:
    if request.host not in (f"127.0.0.1:{port}", f"localhost:{port}"):
        return _forbidden(f"the host {request.host!r} is not this server")
    if hdrs.ORIGIN in request.headers:
        return _forbidden("web pages may not talk to a lab")
    given = hdrs.CONTENT_TYPE in request.headers and request.content_type in _BODIES
    if request.method not in _READING and request.body_exists and not given:
        return unsupported_media_type(_BODIES)
    if request.method == hdrs.METH_POST and not given:
        return unsupported_media_type(_BODIES)
    return None


def _forbidden(why: str) -> ApiError:
    return ApiError(403, "Forbidden", f"forbidden: {why}")
