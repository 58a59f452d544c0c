"""One connection to NATS: the only module that knows nats-py and its traps.

nats-py lets a request wait out its whole time-out although the connection is cut, buffers publishes while it
is, and closes for good on some errors. Here nothing is sent while the connection is down, a request ends the
moment it breaks, and a connection closed for good sets `closed`.
"""

import asyncio
import itertools
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import nats
import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from services._runtime.errors import Refused, Unavailable
from services._runtime.metrics import Metrics

log = structlog.get_logger()

REQUEST_SECONDS = 1.5
API = "$JS.API"


class Lost(Unavailable):
    """No answer came: what was asked for may have happened or not."""


class ApiError(Refused):
    """The server's JetStream API said no."""

    def __init__(self, what: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{what}: {description} ({err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description


class Wire:
    """A named connection that comes back by itself."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        # The suffix makes names of consumers and inboxes fresh per process: a reused name has an empty snapshot.
        self.name = f"{name.replace('.', '_')}-{secrets.token_hex(4)}"
        self.metrics = metrics
        self.closed = asyncio.Event()
        self.reconnects = 0
        self._client = Client()
        self._up = asyncio.Event()
        self._said_down = False
        self._closing = False
        self._in_flight: set[asyncio.Timeout] = set()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count()

    async def open(self, url: str) -> None:
        """Connect to one of these (comma separated); tries for ever."""
        await self._client.connect(
            url.split(","),
            name=self.name,
            inbox_prefix=f"_INBOX.{self.name}",
            max_reconnect_attempts=-1,
            reconnect_time_wait=cast("int", 0.1),  # nats-py sleeps it as a float
            connect_timeout=5,
            ping_interval=5,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
        )
        self._said_down = False
        self._up.set()
        log.info("connected to the bus", url=self._address(), connection=self.name)

    async def close(self) -> None:
        self._closing = True
        await self._client.close()

    async def connected(self) -> None:
        """Wait until the connection stands."""
        await self._up.wait()

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each reconnection; the returned function ends that."""
        number = next(self._numbers)
        self._callbacks[number] = callback
        return lambda: self._callbacks.pop(number, None) and None

    async def request(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None
    ) -> Msg:
        """Ask and wait for the answer. Raises Unavailable (nobody there) or Lost (nobody knows)."""
        await self.connected()
        try:
            async with asyncio.timeout(REQUEST_SECONDS) as scope:
                self._in_flight.add(scope)
                try:
                    # No time-out of nats-py's own: ours can be cut short by a disconnect.
                    return await self._client.request(
                        subject, payload, timeout=cast("float", None), headers=headers
                    )
                finally:
                    self._in_flight.discard(scope)
        except nats.errors.NoRespondersError as exc:
            raise Unavailable(f"{subject}: nobody answers on the bus") from exc
        except nats.errors.ConnectionClosedError:
            raise
        except nats.errors.MaxPayloadError as exc:
            # Sent again it would be as large: nobody can mend this by waiting.
            raise Refused(
                f"{subject}: a message of {len(payload)} bytes is larger than the bus takes "
                f"({self._client.max_payload}); raise max_payload of the NATS server"
            ) from exc
        except (TimeoutError, OSError, nats.errors.Error) as exc:
            raise Lost(f"{subject}: no answer: {exc or 'timed out'}") from exc

    async def api(self, operation: str, body: object = None) -> dict[str, Any]:
        """A request to the JetStream API. Raises ApiError, Unavailable."""
        payload = b"" if body is None else msgspec.json.encode(body)
        message = await self.request(f"{API}.{operation}", payload)
        answer: dict[str, Any] = msgspec.json.decode(message.data)
        error = answer.get("error")
        if error is None:
            return answer
        if error.get("code") == 503:
            raise Unavailable(f"{operation}: {error.get('description')}")
        raise ApiError(
            operation, error.get("code", 0), error.get("err_code", 0), error.get("description", "")
        )

    async def tell(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None
    ) -> None:
        """Send and forget: for what nobody answers. Dropped while the connection is down."""
        if self._up.is_set():
            try:
                await self._client.publish(subject, payload, headers=headers)
            except (OSError, nats.errors.Error) as exc:
                log.debug("message dropped", subject=subject, reason=str(exc))

    async def subscribe(
        self, subject: str, callback: Callable[[Msg], Awaitable[None]]
    ) -> Subscription:
        """Deliver `subject` to `callback`, without limits: at a limit nats-py would drop and say nothing."""
        return await self._client.subscribe(
            subject, cb=callback, pending_msgs_limit=0, pending_bytes_limit=0
        )

    async def unsubscribe(self, subscription: Subscription) -> None:
        try:
            await subscription.unsubscribe()
        except (OSError, nats.errors.Error) as exc:
            log.debug("unsubscribe not sent", reason=str(exc))

    def new_inbox(self) -> str:
        return self._client.new_inbox()

    async def _on_error(self, error: Exception) -> None:
        text = str(error)
        if "permissions violation" in text.lower():
            self.metrics.permission_errors.inc()
            log.error("the bus does not permit this", reason=text, connection=self.name)
        elif self._up.is_set():
            log.warning("bus error", reason=text)
        elif not self._said_down and not self._closing:
            self._said_down = True
            log.warning("the bus cannot be reached, trying on", reason=text)

    async def _on_disconnected(self) -> None:
        self._up.clear()
        if not self._closing:
            log.warning("connection to the bus lost", connection=self.name)
        now = asyncio.get_running_loop().time()
        for scope in self._in_flight:
            if not scope.expired():
                scope.reschedule(now)

    async def _on_reconnected(self) -> None:
        self.reconnects += 1
        self.metrics.reconnects.inc()
        self._said_down = False
        self._up.set()
        log.info("connected to the bus again", url=self._address(), connection=self.name)
        for callback in list(self._callbacks.values()):
            callback()

    async def _on_closed(self) -> None:
        self._up.clear()
        self.closed.set()

    def _address(self) -> str:
        url = self._client.connected_url
        return f"{url.hostname}:{url.port}" if url is not None else ""
