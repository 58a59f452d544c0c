"""Auth's own connection to the bus: logs in by key, hears questions, and is back at once when it was cut.

Whoever returns to a restarted server before its responder loses seconds, so this one tries fifty times as
often as everybody else.
"""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import cast

import structlog
from nats.aio.msg import Msg

from services._runtime.access import Access
from services._runtime.client import Client
from services._runtime.errors import Refused
from services.auth.core import callout, encoding
from services.auth.core.encoding import USER
from services.auth.model import Keys

log = structlog.get_logger()

RECONNECT_SECONDS = 0.02
_QUEUE = "nsm-auth"  # responders share the questions


class Responder:
    """`closed` is set when the connection has ended for good."""

    def __init__(self, keys: Keys, *, name: str, tls_ca: str = "") -> None:
        self.closed = asyncio.Event()
        self.is_connected = asyncio.Event()
        self.name = name
        self._keys = keys
        self._access = Access(tls_ca=tls_ca)
        self._client = Client(insist_on_tls=bool(tls_ca), trust=self._access.tls)
        # nats-py knows a key's public half only from a package that this does without.
        self._client._public_nkey = encoding.public_of(USER, keys.responder)  # noqa: SLF001
        self._said = ""
        self._closing = False

    async def open(self, url: str) -> None:
        """Connect to one of these (comma separated); tries for ever. Raises Refused: a CA file of no use."""
        try:
            self._access.tls()
        except OSError as exc:
            raise Refused(
                f"the CA file {self._access.tls_ca} cannot be used: {exc}; set NSM_TLS_CA"
            ) from exc
        await self._client.connect(
            url.split(","),
            name=self.name,
            signature_cb=self._sign,
            max_reconnect_attempts=-1,
            reconnect_time_wait=cast("int", RECONNECT_SECONDS),  # nats-py sleeps it as a float
            connect_timeout=2,
            ping_interval=2,
            max_outstanding_pings=2,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_connected,
            closed_cb=self._on_closed,
        )
        await self._on_connected()

    async def hear(self, callback: Callable[[Msg], Awaitable[None]]) -> None:
        """Deliver questions, and those of `ask_myself`, to `callback`."""
        for subject, queue in ((callout.SUBJECT, _QUEUE), (self._own_subject, "")):
            await self._client.subscribe(
                subject, queue, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0
            )
        await self._client.flush()

    async def ask_myself(self, data: bytes, headers: dict[str, str], *, seconds: float) -> bytes:
        """By way of the server to our own ears. Raises TimeoutError, OSError, nats.errors.Error."""
        # Not nats-py's own time-out: its wait_for loses a cancellation that comes with the answer (Python 3.11).
        async with asyncio.timeout(seconds):
            message = await self._client.request(
                self._own_subject, data, timeout=cast("float", None), headers=headers
            )
        return message.data

    async def close(self) -> None:
        self._closing = True
        await self._client.close()

    @property
    def _own_subject(self) -> str:
        return f"self-check.{self.name}"

    def _sign(self, nonce: str) -> bytes:
        return base64.b64encode(encoding.sign(USER, self._keys.responder, nonce.encode()))

    async def _on_connected(self) -> None:
        self._said = ""
        self.is_connected.set()
        log.info("connected to the bus", connection=self.name)

    async def _on_disconnected(self) -> None:
        self.is_connected.clear()
        if not self._closing:
            log.warning("connection to the bus lost", connection=self.name)

    async def _on_error(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text != self._said and not self._closing:  # fifty times a second
            self._said = text
            remedy = "the server has to include what `python -m services.auth config` prints for these keys"
            log.warning("bus error, trying on", reason=text, remedy=remedy)

    async def _on_closed(self) -> None:
        self.is_connected.clear()
        self.closed.set()
