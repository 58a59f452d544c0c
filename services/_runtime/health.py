"""Questions over HTTP: /livez (the loop turns), /readyz (what is awaited, by name), /metrics, and a service's own.

A service's own tell who is connected to whom, and cost work: only this machine may ask them. Health ports of nodes
are open to every Pod of the cluster.
"""

from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import Any

import msgspec
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from services._runtime.settings import SettingsError

log = structlog.get_logger()

# Given the parameters of the URL: what is answered, as JSON. Raises LookupError for what does not exist.
Question = Callable[[Mapping[str, str]], Awaitable[Any]]


class Health:
    """Ready when everything expected is done and nobody asked us to stop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._awaited: dict[str, None] = {}
        self._stopping = False
        self._questions: dict[str, Question] = {}
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def awaited(self) -> list[str]:
        """What readiness waits for, in the order of expectation."""
        return ["end of shutdown"] if self._stopping else list(self._awaited)

    @property
    def ready(self) -> bool:
        return not self.awaited

    def expect(self, task: str) -> None:
        """Not ready until `done(task)`."""
        self._awaited[task] = None

    def done(self, task: str) -> None:
        if task not in self._awaited:
            return
        del self._awaited[task]
        log.info("readiness step done", step=task, awaited=self.awaited)

    def answer(self, path: str, question: Question) -> None:
        """Answer GET `path`, from before `start` on or from now."""
        self._questions[path] = question

    def stopping(self) -> None:
        """Never ready again: Kubernetes sends nothing new while we drain."""
        self._stopping = True

    async def start(self, address: str) -> None:
        """Serve on host:port; port 0 takes any, `port` says which. Raises SettingsError."""
        host, _, port = address.rpartition(":")
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
                web.get("/{path:.*}", self._question),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, host.strip("[]") or "127.0.0.1", int(port))
        try:
            await site.start()
        except (OSError, OverflowError) as exc:
            await self._runner.cleanup()
            raise SettingsError(
                f"NSM_HEALTH_ADDRESS={address!r} cannot be used: {exc}; set it to another one"
            ) from exc
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _livez(self, _: web.Request) -> web.Response:
        return web.json_response({"live": True})

    async def _readyz(self, _: web.Request) -> web.Response:
        body = {"ready": self.ready, "awaited": self.awaited}
        return web.json_response(body, status=200 if self.ready else 503)

    async def _metrics(self, _: web.Request) -> web.Response:
        text = generate_latest(self._registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _question(self, request: web.Request) -> web.Response:
        question = self._questions.get(request.path)
        if question is None:
            known = ["/livez", "/readyz", "/metrics", *self._questions]
            return web.json_response({"error": f"no {request.path}", "paths": known}, status=404)
        if not _is_from_here(request):
            remedy = "ask on the node itself, say by kubectl exec in this Pod"
            error = f"{request.path} is for this machine only: {remedy}"
            return web.json_response({"error": error}, status=403)
        try:
            answer = await question(request.query)
        except LookupError as exc:
            return web.json_response({"error": str(exc)}, status=404)
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


def _is_from_here(request: web.Request) -> bool:
    """Over loopback, or from the address that it came to: no other machine's answers would arrive there."""
    assert request.transport is not None, "a request that is being answered has a connection"
    peer, own = (request.transport.get_extra_info(name)[0] for name in ("peername", "sockname"))
    return peer == own or ip_address(peer).is_loopback
