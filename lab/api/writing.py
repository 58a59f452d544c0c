"""Requests that write: what they say is handed to the store, and what it made of it back to who asked.

It decides nothing that the store could decide, and knows no connection.
"""

from typing import Any

from aiohttp import web

from lab.api import conversion, discovery, requests, responses
from lab.api.asked import presenter, selection
from lab.api.errors import bad_request, method_not_allowed, unsupported_media_type
from lab.api.identity import Issuer
from lab.api.kinds import PODS, SERVICE_ACCOUNTS, SERVICES, Kind
from lab.api.requests import Target
from lab.api.store import PatchKind, Store

Obj = dict[str, Any]

_PATCH_FORMS: dict[str, PatchKind] = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
}
# Deleting these answers with the object, the others with a Status.
_RETURNED = frozenset({PODS, SERVICES, SERVICE_ACCOUNTS})


class Writing:
    """Creates, updates, patches and deletes."""

    def __init__(self, store: Store, issuer: Issuer) -> None:
        self.store = store
        self.issuer = issuer

    async def create(self, request: web.Request, target: Target) -> web.Response:
        body = requests.read_body(await request.read(), request.content_type)
        dry_run = requests.dry_run(request.query)
        if target.subresource == "binding":
            return self._bind(target, body, dry_run=dry_run)
        if target.subresource == "token":
            answer = self.issuer.request(target.namespace, target.name, body)
            return responses.plain(answer, status=201)
        if target.kind.namespaced and not target.namespace:
            raise method_not_allowed(target.kind)
        obj = conversion.inward(target.kind, requests.fitting(target, body))
        strict = requests.strict(request.query)
        created = self.store.create(target.kind, obj, dry_run=dry_run, strict=strict)
        return self._written(request, target.kind, created, status=201)

    def _written(
        self, request: web.Request, kind: Kind, body: Obj, *, status: int = 200
    ) -> web.Response:
        """What was written, with a warning for each field that was dropped."""
        response = responses.raw(presenter(self.store, request, kind).one(body), status=status)
        if request.query.get("fieldValidation") != "Ignore":
            for name in self.store.unknown:
                response.headers.add("Warning", f'299 - "unknown field \\"{name}\\""')
        return response

    def _bind(self, target: Target, body: Obj, *, dry_run: bool) -> web.Response:
        node = body.get("target", {})
        node_name = node.get("name") if isinstance(node, dict) else None
        if not isinstance(node_name, str) or not node_name:
            raise bad_request("target.name: Required value")
        self.store.bind(target.namespace, target.name, node_name, dry_run=dry_run)
        success = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "code": 201,
        }
        return responses.plain(success, status=201)

    async def update(self, request: web.Request, target: Target) -> web.Response:
        body = requests.read_body(await request.read(), request.content_type)
        obj = conversion.inward(target.kind, requests.fitting(target, body, name=target.name))
        written = self.store.update(
            target.kind,
            obj,
            status=target.subresource == "status",
            dry_run=requests.dry_run(request.query),
            strict=requests.strict(request.query),
        )
        return self._written(request, target.kind, written)

    async def patch(self, request: web.Request, target: Target) -> web.Response:
        kind, media = target.kind, request.content_type
        if media not in discovery.patch_types(kind):
            raise unsupported_media_type(discovery.patch_types(kind))
        patch = requests.read_patch(await request.read(), media)
        dry_run = requests.dry_run(request.query)
        if media == discovery.APPLY:
            return self._apply(request, target, patch, dry_run=dry_run)
        if isinstance(patch, dict):
            patch = conversion.inward(kind, patch)
        written = self.store.patch(
            kind,
            target.namespace,
            target.name,
            patch,
            form=_PATCH_FORMS[media],
            status=target.subresource == "status",
            dry_run=dry_run,
            strict=requests.strict(request.query),
        )
        return self._written(request, kind, written)

    def _apply(
        self, request: web.Request, target: Target, body: Any, *, dry_run: bool
    ) -> web.Response:
        manager = request.query.get("fieldManager", "")
        if not manager:
            raise bad_request("fieldManager: Required value: is required for apply patch")
        if not isinstance(body, dict):
            raise bad_request("the body is no object")
        obj = conversion.inward(target.kind, requests.fitting(target, body, name=target.name))
        status = target.subresource == "status"
        applied, new = self.store.apply(
            target.kind,
            obj,
            manager=manager,
            status=status,
            dry_run=dry_run,
            strict=requests.strict(request.query),
        )
        return self._written(request, target.kind, applied, status=201 if new else 200)

    async def delete(self, request: web.Request, target: Target) -> web.Response:
        options = await _delete_options(request)
        precondition = options.get("preconditions") or {}
        removed = self.store.delete(
            target.kind,
            target.namespace,
            target.name,
            grace_seconds=options.get("gracePeriodSeconds"),
            uid=precondition.get("uid") or "",
            version=precondition.get("resourceVersion") or "",
            dry_run=_dry(request, options),
        )
        if removed.gone and target.kind not in _RETURNED:
            return responses.plain(responses.gone(target.kind, removed.body))
        return responses.raw(presenter(self.store, request, target.kind).one(removed.body))

    async def delete_collection(self, request: web.Request, target: Target) -> web.Response:
        if target.kind.namespaced and not target.namespace:
            raise method_not_allowed(target.kind)
        options = await _delete_options(request)
        meant = self.store.delete_all(
            target.kind,
            selection(request, target),
            grace_seconds=options.get("gracePeriodSeconds"),
            dry_run=_dry(request, options),
        )
        head = {"kind": f"{target.kind.kind}List", "apiVersion": target.kind.api_version}
        shown = [conversion.outward(target.kind, body) for body in meant]
        metadata = {"resourceVersion": str(self.store.version)}
        return responses.plain(head | {"metadata": metadata, "items": shown})


async def _delete_options(request: web.Request) -> Obj:
    data = await request.read()
    options = requests.read_body(data, request.content_type) if data.strip() else {}
    if "gracePeriodSeconds" in request.query:
        options["gracePeriodSeconds"] = requests.number(request.query, "gracePeriodSeconds")
    if not isinstance(options.get("preconditions") or {}, dict):
        raise bad_request("preconditions is no object")
    if not isinstance(options.get("gracePeriodSeconds") or 0, int):
        raise bad_request("gracePeriodSeconds is no number")
    return options


def _dry(request: web.Request, options: Obj) -> bool:
    return requests.dry_run(request.query) or options.get("dryRun") == ["All"]
