"""Responses: bytes as they are, objects as JSON, errors as Status objects. `say_errors` is the one place for those."""

from typing import Any

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from lab.api.errors import ApiError
from lab.api.kinds import Kind

Obj = dict[str, Any]

log = structlog.get_logger()


def gone(kind: Kind, body: Obj) -> Obj:
    details = {
        "name": body["metadata"]["name"],
        "kind": kind.plural,
        "uid": body["metadata"]["uid"],
    }
    if kind.group:
        details["group"] = kind.group
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
    return head | {"details": details}


@web.middleware
async def say_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return refuse(error)
    except web.HTTPRequestEntityTooLarge as exc:
        return refuse(ApiError(413, "RequestEntityTooLarge", exc.text or "request too large"))
    except web.HTTPException:
        raise
    except Exception:
        log.exception("request failed", method=request.method, path=request.path)
        text = "the lab's API server failed; its log says where"
        return refuse(ApiError(500, "InternalError", text))


def refuse(error: ApiError) -> web.Response:
    response = plain(error.status, status=error.code)
    if "retryAfterSeconds" in error.details:
        response.headers["Retry-After"] = str(error.details["retryAfterSeconds"])
    return response


def raw(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, content_type="application/json")


def plain(body: Obj, *, status: int = 200) -> web.Response:
    return raw(msgspec.json.encode(body), status=status)
