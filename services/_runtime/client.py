"""nats-py's client with its traps around a login mended; `wire` is its only user.

nats-py takes it as the end of everything when the server ends a login, and does without TLS when a server (or
who stands in for it) does not ask for it. Here an ended login is a lost connection like any other, and a token
never travels in the clear where TLS was wanted. What is trusted is read again for each connection, so that a
certificate authority is replaced under a running process. `flush` is a barrier: nats-py's PING overtakes what
waits to be written, a subscription for one. And who is cancelled while it connects ends.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from nats import errors
from nats.aio.client import Client as NatsClient
from nats.aio.client import Srv

# After a restart of the server the responder that checks tokens comes back too, and at once: who is there
# before it waits out the server's whole time-out for it.
HESITATE_SECONDS = (0.1, 0.2)


class NoTls(OSError):
    """TLS is wanted and the server does not offer it."""


class LoginCut(OSError):
    """The server hung up at the login; under load the reason it gave is lost on the way."""


class Client(NatsClient):
    """`hesitate`: leave the responder a moment at a reconnection. `insist_on_tls`: never speak without.

    `trust`: what TLS trusts, asked for each connection; None: what `connect` was told.
    """

    def __init__(
        self,
        *,
        hesitate: bool = False,
        insist_on_tls: bool = False,
        trust: Callable[[], ssl.SSLContext | None] = lambda: None,
    ) -> None:
        super().__init__()
        self.hesitate = hesitate
        self._insist_on_tls = insist_on_tls
        self._trust = trust

    @property
    def ssl_context(self) -> ssl.SSLContext:
        return self._trust() or super().ssl_context

    async def _connect_to_server(self, s: Srv) -> None:
        try:
            with _cancellation_kept():
                await super()._connect_to_server(s)
        except BaseException:
            self._drop_socket()
            raise
        if self.hesitate and self.is_reconnecting:
            await asyncio.sleep(random.uniform(*HESITATE_SECONDS))

    async def _process_connect_init(self) -> None:
        try:
            with _cancellation_kept():
                await super()._process_connect_init()
        except ConnectionError as exc:
            self._drop_socket()
            raise LoginCut(f"the server hung up at the login ({exc}): its log says why") from exc
        except BaseException:
            self._drop_socket()
            raise
        if self._server_info.get("tls_required"):
            _tell_of_tls(self._transport)

    def _drop_socket(self) -> None:
        """Of a login without success: nats-py forgets it, or, after a failed handshake, waits for its end for ever."""
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()  # `close` would first speak TLS with the other side
        self._transport = None

    async def flush(self, timeout: int = 10) -> None:  # noqa: ASYNC109  nats-py's own signature
        await self._flush_pending(force_flush=True)
        await super().flush(timeout)

    def _connect_command(self) -> bytes:
        if self._insist_on_tls and not self._server_info.get("tls_required"):
            raise NoTls(
                "the server does not offer TLS, which NSM_TLS_CA asks for: set up its tls block"
            )
        return super()._connect_command()

    async def _process_err(self, err_msg: str) -> None:
        if not is_about_login(err_msg):
            await super()._process_err(err_msg)
            return
        error = errors.Error(f"nats: {err_msg}")
        await self._error_cb(error)
        await self._process_op_err(error)


@contextmanager
def _cancellation_kept() -> Iterator[None]:
    """nats-py's wait_for loses a cancellation that comes with an answer or an error (Python 3.11)."""
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        yield
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError


def _tell_of_tls(transport: Any) -> None:
    """nats-py upgrades to TLS with a protocol that does not know of it: asyncio would warn at its end."""
    transport._io_writer.transport.get_protocol()._over_ssl = True  # noqa: SLF001


def is_about_login(error: Any) -> bool:
    """Whether the server refused or ended a login: `Authorization Violation`, `User Authentication Expired`, …"""
    text = str(error).lower()
    return (
        isinstance(error, LoginCut) or "authorization violation" in text or "authentication" in text
    )
