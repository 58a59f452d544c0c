"""What an install Job speaks with: Secrets, ConfigMaps, events and definitions, as an API server keeps them."""

import http.client
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tools.kube import Api

ROOT = "/api/v1/namespaces/nsm-system/"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/"


class Server(ThreadingHTTPServer):
    """`objects` by `plural/name`. Each write raises the version, and one that names an old version is refused."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, Any] = {}
        self.denied: set[tuple[str, str]] = set()
        self.owners: dict[str, str] = {}  # path: another manager, who owns what it holds
        self.before_create: dict[str, Any] = {}  # path: what another run creates just before
        self.before_patch: dict[str, Any] = {}  # path: what another run makes of it just before
        self.version = 0

    def keep(self, path: str, told: Any) -> None:
        self.version += 1
        metadata = {**told.get("metadata", {}), "resourceVersion": str(self.version)}
        self.objects[path] = {**told, "metadata": metadata}


class Handler(BaseHTTPRequestHandler):
    server: Server

    def answer(self, status: int, body: Any) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = json.loads(body or "{}")
        path, _, query = self.path.removeprefix(ROOT).removeprefix(DEFINITIONS).partition("?")
        assert self.headers["Authorization"] == "Bearer secret"
        if (self.command, path.partition("/")[0]) in self.server.denied:
            self.answer(403, {"reason": "Forbidden", "message": "no right"})
        elif self.command == "POST":
            metadata = told["metadata"]
            name = metadata.get("name") or f"{metadata['generateName']}{self.server.version}"
            self.create(f"{path}/{name}", told)
        elif self.command == "PATCH" and "apply-patch" in self.headers["Content-Type"]:
            self.apply(path, told, query)
        elif self.command == "PATCH":
            assert self.headers["Content-Type"] == "application/merge-patch+json"
            self.patch(path, told)
        else:
            found = self.server.objects.get(path)
            self.answer(200 if found else 404, found or {"reason": "NotFound"})

    def create(self, path: str, told: Any) -> None:
        self.server.objects.update(self.server.before_create.pop(path, {}))
        if path in self.server.objects:
            self.answer(409, {"reason": "AlreadyExists"})
            return
        self.server.keep(path, told)
        self.answer(201, self.server.objects[path])

    def patch(self, path: str, told: Any) -> None:
        if path in self.server.before_patch:
            self.server.keep(path, self.server.before_patch.pop(path))
        found = self.server.objects[path]
        wanted = told.get("metadata", {})
        if (
            wanted.get("resourceVersion", found["metadata"]["resourceVersion"])
            != (found["metadata"]["resourceVersion"])
        ):
            self.answer(409, {"reason": "Conflict", "message": "the object has been modified"})
            return
        annotations = {
            **found["metadata"].get("annotations", {}),
            **(wanted.get("annotations") or {}),
        }
        kept = {name: value for name, value in annotations.items() if value is not None}
        metadata = {**found["metadata"], "annotations": kept}
        self.server.keep(path, {**found, **told, "metadata": metadata})
        self.answer(200, self.server.objects[path])

    def apply(self, path: str, told: Any, query: str) -> None:
        assert query == "fieldManager=nsm", "and no force"
        if path in self.server.owners:
            cause = {
                "field": ".spec.versions",
                "message": f'conflict with "{self.server.owners[path]}"',
            }
            self.answer(409, {"reason": "Conflict", "details": {"causes": [cause]}})
            return
        self.server.keep(path, told)
        self.answer(200, self.server.objects[path])

    do_GET = do_POST = do_PATCH = handle_any  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def api(server: Server) -> Iterator[Api]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    yield Api(connection, token="secret", namespace="nsm-system")
    connection.close()
