"""An API server for one kind, over real HTTP, that can be told to misbehave. Refuses what it does not know."""

import asyncio
import json
from collections import deque
from pathlib import Path
from typing import Any

from aiohttp import web

from lab.api.listening import Listener

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{{name: fake, cluster: {{server: "{url}"}}}}]
users: [{{name: fake, user: {{token: fake-token}}}}]
contexts: [{{name: fake, context: {{cluster: fake, user: fake}}}}]
current-context: fake
"""
PATH = "/api/v1/pods"
CUSTOM_PATH = "/apis/networkservicemesh.io/v1/networkservices"  # a kind that may be missing


class FaultyApi:
    """`put` and `delete` objects; `list_answers` and `watch_answers` are statuses to give first.

    As a real one it takes a watch from a version it has not reached yet, and is silent up to there.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.version = 100
        self.oldest = 0  # a watch from before this is answered with 410
        self.list_answers: deque[int] = deque()
        self.watch_answers: deque[int] = deque()
        self.lists: list[dict[str, str]] = []
        self.watches: list[dict[str, str]] = []
        self.tokens: set[str] = set()
        self.agents: set[str] = set()
        self.watching = asyncio.Condition()
        self._history: list[tuple[int, bytes]] = []
        self._queues: dict[asyncio.Queue[bytes | None], tuple[web.Request, int]] = {}
        self._listener: Listener | None = None
        self.url = ""
        self.bodies: deque[str] = deque()  # what it says instead of a list
        self.groups = 200  # how it answers who asks for its groups

    async def start(self, tmp_path: Path) -> Path:
        app = web.Application()
        app.router.add_get(PATH, self._get)
        app.router.add_get(CUSTOM_PATH, self._get)
        app.router.add_get("/apis", self._groups)
        self._listener = await Listener.open(app, shutdown_timeout=0.1)
        self.url = f"http://127.0.0.1:{self._listener.port}"
        path = tmp_path / "kubeconfig"
        path.write_text(KUBECONFIG.format(url=self.url))
        return path

    async def stop(self) -> None:
        self.end_watches()
        assert self._listener is not None
        await self._listener.close()

    def put(self, found: dict[str, Any], *, told: bool = True) -> None:
        self.version += 1
        name = found["metadata"]["name"]
        verb = "MODIFIED" if name in self.objects else "ADDED"
        found["metadata"]["resourceVersion"] = str(self.version)
        self.objects[name] = found
        if told:
            self._tell(verb, found)

    def delete(self, name: str, *, told: bool = True) -> None:
        self.version += 1
        found = self.objects.pop(name)
        found["metadata"]["resourceVersion"] = str(self.version)
        if told:
            self._tell("DELETED", found)

    def bookmark(self) -> None:
        self.version += 1
        self._tell("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}}, kept=False)

    def error(self, code: int) -> None:
        failure = {"kind": "Status", "code": code, "reason": "Whatever"}
        self.raw(json.dumps({"type": "ERROR", "object": failure}).encode() + b"\n")

    def raw(self, data: bytes) -> None:
        for queue in self._queues:
            queue.put_nowait(data)

    def end_watches(self) -> None:
        for queue in self._queues:
            queue.put_nowait(None)

    def cut_watches(self) -> None:
        for request, _ in self._queues.values():
            assert request.transport is not None
            request.transport.abort()

    def restore(self, version: int) -> None:
        """A backup of long ago, without any objects, takes the place of all that was."""
        self.version = version
        self.objects.clear()
        self._history.clear()
        self.cut_watches()

    async def watched(self, times: int) -> None:
        """Until that many watches were opened."""
        async with self.watching:
            await self.watching.wait_for(lambda: len(self.watches) >= times)

    def _tell(self, verb: str, found: dict[str, Any], *, kept: bool = True) -> None:
        line = json.dumps({"type": verb, "object": found}).encode() + b"\n"
        if kept:
            self._history.append((self.version, line))
        for queue, (_, since) in self._queues.items():
            if self.version > since:
                queue.put_nowait(line)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.tokens.add(request.headers.get("Authorization", ""))
        self.agents.add(request.headers.get("User-Agent", ""))
        query = dict(request.query)
        return await self._watch(request, query) if "watch" in query else self._list(query)

    async def _groups(self, _: web.Request) -> web.Response:
        if self.groups != 200:
            return _status(self.groups)
        return web.json_response({"kind": "APIGroupList", "groups": []})

    def _list(self, query: dict[str, str]) -> web.Response:
        self.lists.append(query)
        if self.bodies:
            return web.Response(text=self.bodies.popleft())
        status = self.list_answers.popleft() if self.list_answers else 200
        if status != 200:
            return _status(status)
        begin = int(query.get("continue", "0"))
        end = begin + int(query["limit"])
        names = sorted(self.objects)
        meta = {"resourceVersion": str(self.version)}
        if end < len(names):
            meta["continue"] = str(end)
        return web.json_response(
            {"metadata": meta, "items": [self.objects[name] for name in names[begin:end]]}
        )

    async def _watch(self, request: web.Request, query: dict[str, str]) -> web.StreamResponse:
        assert query["allowWatchBookmarks"] == "true"
        assert 300 <= int(query["timeoutSeconds"]) <= 600
        status = self.watch_answers.popleft() if self.watch_answers else 200
        since = int(query["resourceVersion"])
        if since < self.oldest:
            status = 410
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        if status == 200:
            self._queues[queue] = (request, since)
        for version, line in self._history:
            if version > since:
                queue.put_nowait(line)
        async with self.watching:
            self.watches.append(query)
            self.watching.notify_all()
        if status != 200:
            return _status(status)
        response = web.StreamResponse()
        try:
            await response.prepare(request)
            while (data := await queue.get()) is not None:
                await response.write(data)
        except ConnectionError:
            pass
        finally:
            self._queues.pop(queue, None)
        return response


def _status(status: int) -> web.Response:
    body = {"kind": "Status", "code": status, "reason": "Told", "message": "as told"}
    return web.json_response(body, status=status)
