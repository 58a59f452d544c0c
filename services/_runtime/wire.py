"""One connection to NATS: the only module that knows nats-py and its traps.

nats-py lets a request wait out its whole time-out although the connection is cut, buffers publishes while it
is, and closes for good on some errors. Here nothing is sent while the connection is down, a request ends the
moment it breaks, and a connection closed for good sets `closed`. A login that is refused is tried again for
ever: what this process holds is worth more than a quick end.
"""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import nats.errors
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from services._runtime.access import Access, NoToken
from services._runtime.backoff import backoff
from services._runtime.client import Client, is_about_login
from services._runtime.complaints import Complaints
from services._runtime.errors import Refused, Unavailable
from services._runtime.metrics import Metrics

log = structlog.get_logger()

REQUEST_SECONDS = 1.5
CONNECT_SECONDS = 5
LOGIN_RETRY_SECONDS = (0.1, 2.0)  # first and most: each try may cost the API server a review
SETTLE_SECONDS = 0.5  # what is asked already may be answered before a login is renewed
USER_INFO = "$SYS.REQ.USER.INFO"


class Lost(Unavailable):
    """No answer came: what was asked for may have happened or not."""


class LoginRefused(Exception):
    """A login for trial did not succeed; says why."""


class ApiError(Refused):
    """The server's JetStream API said no."""

    def __init__(self, what: str, code: int, err_code: int, description: str) -> None:
        super().__init__(f"{what}: {description} ({err_code})")
        self.code = code
        self.err_code = err_code
        self.description = description


class Wire:
    """A named connection that comes back by itself."""

    def __init__(
        self,
        name: str,
        metrics: Metrics,
        access: Access = Access(),  # noqa: B008  frozen
    ) -> None:
        # The suffix makes names of consumers and inboxes fresh per process: a reused name has an empty snapshot.
        self.name = f"{name.replace('.', '_')}-{secrets.token_hex(4)}"
        self.metrics = metrics
        self.access = access
        self.closed = asyncio.Event()
        self.reconnects = 0
        self.token_used = ""  # of the newest login
        self._client = Client(
            hesitate=bool(access.token_file),
            insist_on_tls=bool(access.tls_ca),
            trust=access.tls,
        )
        self._url = ""
        self._up = asyncio.Event()
        self._asking = asyncio.Event()  # requests may be sent
        self._again = asyncio.Event()
        self._complaints = Complaints(self.name, access, metrics)
        self._login_delays = backoff(*LOGIN_RETRY_SECONDS)
        self._closing = False
        self._renewing = False
        self._in_flight: set[asyncio.Timeout] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count()

    async def open(self, url: str) -> None:
        """Connect to one of these (comma separated); tries for ever. Raises Refused: a CA file of no use."""
        self._url = url
        await self._client.connect(
            **self._options(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=cast("int", 0.1),  # nats-py sleeps it as a float
            ping_interval=5,
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnected,
            reconnected_cb=self._on_reconnected,
            closed_cb=self._on_closed,
        )
        self._is_up()
        log.info("connected to the bus", url=self._address(), connection=self.name)

    def _options(self) -> dict[str, Any]:
        try:
            tls = self.access.tls()
        except OSError as exc:
            raise Refused(
                f"the CA file {self.access.tls_ca} cannot be used: {exc}; set NSM_TLS_CA to one in PEM form"
            ) from exc
        return {
            "servers": self._url.split(","),
            "name": self.name,
            "inbox_prefix": f"{self.access.inbox}.{self.name}",
            "connect_timeout": CONNECT_SECONDS,
            "token": self._token if self.access.token_file else None,
            "tls": tls,
        }

    def _token(self) -> str:
        self.token_used = self.access.token()
        return self.token_used

    async def close(self) -> None:
        self._closing = True
        await self._client.close()

    async def connected(self) -> None:
        """Wait until the connection stands."""
        await self._up.wait()

    async def reconnected(self, reconnects: int) -> None:
        """Wait until there were more reconnections than this."""
        while self.reconnects <= reconnects:
            await self._again.wait()

    async def login_seconds(self) -> float | None:
        """How long the server lets this login be; None: no end. Raises Unavailable."""
        answer = msgspec.json.decode((await self.request(USER_INFO)).data)
        nanoseconds = (answer.get("data") or {}).get("expires")
        return nanoseconds / 1e9 if nanoseconds else None

    async def try_login(self) -> None:
        """Log in beside the connection that stands, and leave. Raises LoginRefused."""
        client = Client(insist_on_tls=bool(self.access.tls_ca))

        async def say_nothing(_error: Exception) -> None: ...

        before = self.token_used
        try:
            await client.connect(**self._options(), allow_reconnect=False, error_cb=say_nothing)
        except (OSError, TimeoutError, nats.errors.Error) as exc:
            self.token_used = before
            raise LoginRefused(str(exc) or "no answer in time") from exc
        finally:
            await client.close()

    async def log_in_again(self) -> None:
        """Break the connection and make it anew at once, between two requests if there is such a moment."""
        self._asking.clear()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE_SECONDS):
                    await self._idle.wait()
        except asyncio.CancelledError:
            if self._up.is_set():
                self._asking.set()
            raise
        log.debug("the login is renewed", connection=self.name)
        self._renewing = True
        self._client.hesitate = False
        await self._client.force_reconnect()

    def on_reconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` after each reconnection; the returned function ends that."""
        number = next(self._numbers)
        self._callbacks[number] = callback
        return lambda: self._callbacks.pop(number, None) and None

    async def request(
        self, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None
    ) -> Msg:
        """Ask and wait for the answer. Raises Unavailable (nobody there) or Lost (nobody knows)."""
        while not self._asking.is_set():  # who waited is woken late: it may be cleared again
            await self._asking.wait()
        try:
            async with asyncio.timeout(REQUEST_SECONDS) as scope:
                self._in_flight.add(scope)
                self._idle.clear()
                try:
                    # No time-out of nats-py's own: ours can be cut short by a disconnect.
                    return await self._client.request(
                        subject, payload, timeout=cast("float", None), headers=headers
                    )
                finally:
                    self._in_flight.discard(scope)
                    if not self._in_flight:
                        self._idle.set()
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
        message = await self.request(f"{self.access.api}.{operation}", payload)
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
        text = str(error) or type(error).__name__
        if "permissions violation" in text.lower():
            self._complaints.forbidden(text)
        elif self._up.is_set():
            log.warning("bus error", reason=text)
        elif self._closing:
            pass
        elif isinstance(error, NoToken) or is_about_login(error):
            self._complaints.refused(text)
            await asyncio.sleep(next(self._login_delays))  # nats-py tries again after this
        else:
            self._complaints.unreachable(text)

    async def _on_disconnected(self) -> None:
        self._up.clear()
        self._asking.clear()
        if not self._closing and not self._renewing:
            log.warning("connection to the bus lost", connection=self.name)
        now = asyncio.get_running_loop().time()
        for scope in self._in_flight:
            if not scope.expired():
                scope.reschedule(now)

    async def _on_reconnected(self) -> None:
        self.reconnects += 1
        self.metrics.reconnects.inc()
        self._is_up()
        self._again.set()
        self._again.clear()
        log.info("connected to the bus again", url=self._address(), connection=self.name)
        for callback in list(self._callbacks.values()):
            callback()

    def _is_up(self) -> None:
        self._complaints.settled()
        self._login_delays = backoff(*LOGIN_RETRY_SECONDS)
        self._renewing = False
        self._client.hesitate = bool(self.access.token_file)
        self._up.set()
        self._asking.set()

    async def _on_closed(self) -> None:
        self._up.clear()
        self.closed.set()

    def _address(self) -> str:
        url = self._client.connected_url
        return f"{url.hostname}:{url.port}" if url is not None else ""
