"""What an HTTP request asks for: which objects, and in which form it takes them."""

from aiohttp import hdrs, web

from lab.api.kinds import Kind
from lab.api.presenting import Presenter, style_of
from lab.api.requests import Target
from lab.api.selectors import Selection, select
from lab.api.store import Store


def presenter(store: Store, request: web.Request, kind: Kind) -> Presenter:
    """Writes answers as the client accepts them."""
    return Presenter(
        kind,
        style=style_of(request.headers.get(hdrs.ACCEPT, "")),
        include=request.query.get("includeObject", "Metadata"),
        now=store.now(),
        definition=store.definition(kind),
    )


def selection(request: web.Request, target: Target) -> Selection:
    """The objects that are meant."""
    fields = request.query.get("fieldSelector", "")
    if target.name:
        fields = f"metadata.name={target.name}"
    labels = request.query.get("labelSelector", "")
    return select(target.kind, namespace=target.namespace, labels=labels, fields=fields)
