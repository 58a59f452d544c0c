"""The API server as the webhook meets it: keeps two objects with versions, and asks over real TLS what it trusts."""

import base64
import io
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry

from lab.api.listening import Listener
from services._runtime.health import Health
from services.webhook.adapters import Kube
from services.webhook.service import Webhook
from services.webhook.service.answering import PATH
from services.webhook.service.material import SECRET
from services.webhook.service.trust import CONFIGURATION, CONFIGURATION_PATH
from services.webhook.settings import Settings
from tests.runtime.helpers import running, until

SECRETS = "/api/v1/namespaces/nsm-system/secrets"
NAME = "webhook.nsm-system.svc"
KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {}}],
    "users": [{"name": "u", "user": {"token": "the-token"}}],
    "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "c",
}


def an_empty_secret() -> dict[str, Any]:
    """As it is applied."""
    return {"type": "Opaque", "metadata": {"name": SECRET, "labels": {"of": "the user"}}}


def a_configuration() -> dict[str, Any]:
    service = {"name": "webhook", "namespace": "nsm-system", "path": PATH, "port": 443}
    return {
        "metadata": {"name": CONFIGURATION, "labels": {"of": "the user"}},
        "webhooks": [
            {"name": "readiness-gate.networkservicemesh.io", "clientConfig": {"service": service}}
        ],
    }


class Api:
    """`put` and read objects by path; `statuses` are given to the next requests instead of answers."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.statuses: list[int] = []
        self.writes: list[str] = []
        self.tokens: set[str] = set()
        self.port = 0
        self._version = 0

    def put(self, path: str, found: dict[str, Any]) -> dict[str, Any]:
        self._version += 1
        metadata = {**found["metadata"], "resourceVersion": str(self._version)}
        self.objects[path] = {**found, "metadata": metadata}
        return self.objects[path]

    @property
    def secret(self) -> dict[str, Any]:
        return self.objects[f"{SECRETS}/{SECRET}"]

    @property
    def trusted(self) -> bytes:
        (webhook,) = self.objects[CONFIGURATION_PATH]["webhooks"]
        return base64.b64decode(webhook["clientConfig"].get("caBundle", ""))

    def leaf(self) -> bytes:
        return base64.b64decode(self.secret["data"]["tls.crt"])

    def kubeconfig(self, directory: Path) -> str:
        body = json.loads(json.dumps(KUBECONFIG))
        body["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{self.port}"
        path = directory / "kubeconfig"
        path.write_text(json.dumps(body))
        return str(path)

    @asynccontextmanager
    async def served(self) -> AsyncIterator["Api"]:
        app = web.Application(middlewares=[self._trouble])
        app.router.add_get("/{path:.*}", self._get)
        app.router.add_put("/{path:.*}", self._replace)
        listener = await Listener.open(app, shutdown_timeout=0.1)
        self.port = listener.port
        try:
            yield self
        finally:
            await listener.close()

    @web.middleware
    async def _trouble(self, request: web.Request, handler: Any) -> web.StreamResponse:
        self.tokens.add(request.headers.get("Authorization", ""))
        if self.statuses:
            return web.json_response({"message": "trouble"}, status=self.statuses.pop(0))
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _get(self, request: web.Request) -> web.Response:
        found = self.objects.get(request.path)
        return web.json_response(found or {}, status=200 if found else 404)

    async def _replace(self, request: web.Request) -> web.Response:
        body = await request.json()
        found = self.objects.get(request.path)
        if found is None:
            return web.json_response({}, status=404)
        if body["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
            return web.json_response({"reason": "Conflict"}, status=409)
        self.writes.append(f"PUT {request.path}")
        return web.json_response(self.put(request.path, body))

    async def admit(self, port: int, pod: dict[str, Any], *, name: str = NAME) -> dict[str, Any]:
        """Asks the webhook on `port`, trusting what the configuration says and nobody else."""
        request = {"uid": "u-1", "namespace": "ns", "operation": "CREATE", "object": pod}
        review = {
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": request,
        }
        status, body = await self.ask(port, json.dumps(review).encode(), name=name)
        assert status == 200, body
        assert (body["apiVersion"], body["kind"]) == (review["apiVersion"], review["kind"])
        response: dict[str, Any] = body["response"]
        assert response["uid"] == "u-1"
        return response

    async def ask(self, port: int, body: bytes, *, name: str = NAME) -> tuple[int, dict[str, Any]]:
        trust = ssl.create_default_context(cadata=self.trusted.decode())
        trust.verify_flags |= ssl.VERIFY_X509_STRICT
        async with (
            aiohttp.ClientSession() as session,
            session.post(
                f"https://127.0.0.1:{port}{PATH}",
                data=io.BytesIO(body),
                headers={"Content-Type": "application/json"},
                ssl=trust,
                server_hostname=name,
            ) as response,
        ):
            return response.status, await response.json()


class Replica:
    """One webhook, and what it says of itself."""

    def __init__(self, kubeconfig: str, **changes: Any) -> None:
        self.registry = CollectorRegistry()
        self.health = Health(self.registry)
        self.now = datetime.now(UTC)
        settings = Settings(address="127.0.0.1:0", **changes)
        self.webhook = Webhook(
            settings,
            lambda: Kube(kubeconfig),
            health=self.health,
            registry=self.registry,
            clock=lambda: self.now,
            round_seconds=0.05,
        )

    @property
    def port(self) -> int:
        return self.webhook.port

    def figure(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0


@asynccontextmanager
async def replicas(
    api: Api, directory: Path, number: int = 1, *, ready: bool = True, **changes: Any
) -> AsyncIterator[list[Replica]]:
    kubeconfig = api.kubeconfig(directory)
    made = [Replica(kubeconfig, **changes) for _ in range(number)]
    async with running(*(each.webhook.run() for each in made)):
        if ready:
            await until(lambda: all(each.health.ready for each in made))
        yield made
