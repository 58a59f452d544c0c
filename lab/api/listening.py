"""A web application on one TCP port, which can stop at any moment and forgets nobody at the door."""

import asyncio
import socket
import ssl
from typing import Any, Self

from aiohttp import web

_TURNS_TO_LET_IN = 3


class Listener:
    """Listens from `open` to `close`; `server` knows the connections."""

    def __init__(self, runner: web.AppRunner, listening: socket.socket) -> None:
        self._runner = runner
        self._listening = listening
        self.port = int(listening.getsockname()[1])

    @classmethod
    async def open(
        cls,
        app: web.Application,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        ssl_context: ssl.SSLContext | None = None,
        **options: Any,
    ) -> Self:
        """Port 0 takes a free one; raises OSError if it is taken. `options` are those of `AppRunner`."""
        runner = web.AppRunner(app, access_log=None, **options)
        await runner.setup()
        try:
            listening = socket.create_server((host, port))
        except OSError:
            await runner.cleanup()
            raise
        await web.SockSite(runner, listening, ssl_context=ssl_context).start()
        return cls(runner, listening)

    @property
    def server(self) -> web.Server:
        """Raises if it is closed."""
        assert self._runner.server is not None
        return self._runner.server

    async def close(self) -> None:
        """Lets nobody in any more, and closes all connections."""
        # asyncio lets in two turns after it accepts, and leaves the socket open if the server closed between them.
        asyncio.get_running_loop().remove_reader(self._listening)
        for _ in range(_TURNS_TO_LET_IN):
            await asyncio.sleep(0)
        await self._runner.cleanup()
