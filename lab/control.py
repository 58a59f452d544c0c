"""What the command line may ask of a running lab besides Kubernetes: processes and nodes, over a socket file.

Only the owner of the lab directory reaches it. Both sides are here: the server in the daemon, and a client
without an event loop for the command line.
"""

import http.client
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import msgspec

from lab.layout import LabProblem, Layout

SIGNALS = ("TERM", "KILL", "INT", "HUP", "STOP", "CONT", "USR1", "USR2")


class Verbs(Protocol):
    """What the daemon does. Unknown names raise LabProblem."""

    def processes(self) -> list[Any]: ...

    def kill(self, name: str, number: int, *, hold: bool) -> None: ...

    def start(self, name: str) -> None: ...

    async def stop_node(self, name: str) -> None: ...

    async def start_node(self, name: str) -> None: ...

    async def block_node(self, name: str) -> None: ...

    async def unblock_node(self, name: str) -> None: ...


async def serve(layout: Layout, verbs: Verbs) -> None:
    """Listen on the lab's socket file; ends with the loop."""
    from aiohttp import web  # noqa: PLC0415 the command line imports this module too, and is fast

    async def processes(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(verbs.processes()))

    async def kill(request: web.Request) -> web.Response:
        number = signal.Signals[f"SIG{request.query.get('signal', 'TERM')}"]
        verbs.kill(request.match_info["name"], number, hold="hold" in request.query)
        return web.Response(body=b"{}")

    async def start(request: web.Request) -> web.Response:
        verbs.start(request.match_info["name"])
        return web.Response(body=b"{}")

    changes = {
        "stop": verbs.stop_node,
        "start": verbs.start_node,
        "block": verbs.block_node,
        "unblock": verbs.unblock_node,
    }

    async def node(request: web.Request) -> web.Response:
        await changes[request.match_info["verb"]](request.match_info["name"])
        return web.Response(body=b"{}")

    @web.middleware
    async def tell_problems(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except LabProblem as exc:
            return web.json_response({"error": str(exc)}, status=404)
        return response

    app = web.Application(middlewares=[tell_problems])
    app.router.add_get("/processes", processes)
    app.router.add_post("/processes/{name:.+}/kill", kill)
    app.router.add_post("/processes/{name:.+}/start", start)
    app.router.add_post(f"/nodes/{{name}}/{{verb:{'|'.join(changes)}}}", node)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    layout.control.unlink(missing_ok=True)
    with _short(layout.control) as path:
        await web.UnixSite(runner, path).start()
    layout.control.chmod(0o600)


def call(layout: Layout, method: str, path: str, **query: str) -> Any:
    """Ask the lab that runs here. Raises LabProblem."""
    layout.check_owner()
    with _short(layout.control) as place:
        connection = _Connection(place)
        target = quote(path) + (f"?{urlencode(query)}" if query else "")
        try:
            connection.request(method, target)
            response = connection.getresponse()
            body = msgspec.json.decode(response.read() or b"{}")
        except (OSError, http.client.HTTPException) as exc:
            layout.read_state()  # says that no lab runs here, if that is why
            raise LabProblem(f"the lab in {layout.root} does not answer: {exc}") from exc
        finally:
            connection.close()
    if response.status != http.client.OK:
        raise LabProblem(body.get("error", f"HTTP {response.status}"))
    return body


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("lab", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A name below the 108 bytes that a socket address may have, however deep the lab directory is."""
    try:
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise LabProblem(
            f"no lab runs in {path.parent} ({exc.strerror}); start one with: nsm lab up"
        ) from exc
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
