"""A login that ends is renewed before it does, and nobody notices.

The server ends a login with the token it was made with. Nothing is cut before a second login with the token as
it is now has been tried: while nobody answers for tokens, what stands goes on to its very end. Also that end is
only a lost connection: `wire` tries to come back for ever.
"""

import asyncio
import random

import structlog

from services._runtime.access import NoToken
from services._runtime.backoff import backoff
from services._runtime.errors import Unavailable
from services._runtime.wire import LoginRefused, Wire

log = structlog.get_logger()

RENEW_AT = (
    0.75,
    0.85,
)  # of the life; the spread keeps nodes that came together from coming again together
# A token is replaced at 80 % of its life; until here it is worth waiting for a new one.
WAIT_FOR_TOKEN_UNTIL = 0.92
_LOOK_SECONDS = 0.25  # between two looks at the token file
_MOST_RETRY_SECONDS = 10.0


async def keep(wire: Wire) -> None:
    """Renew every login of this connection in time, for ever."""
    if not wire.access.token_file:
        return
    delays = backoff(0.1, _MOST_RETRY_SECONDS)
    while True:
        await wire.connected()
        logins = wire.reconnects
        try:
            seconds = await wire.login_seconds()
        except Unavailable as exc:
            log.debug("the end of the login is not known yet", reason=exc.what)
            await asyncio.sleep(next(delays))
            continue
        delays = backoff(0.1, _MOST_RETRY_SECONDS)
        if seconds is None:
            await wire.reconnected(logins)
        else:
            patient_until = _now() + seconds * WAIT_FOR_TOKEN_UNTIL
            if not await _reconnects_within(wire, logins, seconds * random.uniform(*RENEW_AT)):
                await _renew(wire, logins, patient_until=patient_until)


async def _reconnects_within(wire: Wire, logins: int, seconds: float) -> bool:
    """Whether the connection was made anew for another reason: then that login counts."""
    try:
        async with asyncio.timeout(seconds):
            await wire.reconnected(logins)
    except TimeoutError:
        return False
    return True


async def _renew(wire: Wire, logins: int, *, patient_until: float) -> None:
    """Log in anew as soon as there is another token, or none came in time."""
    delays = backoff(0.1, _MOST_RETRY_SECONDS)
    said = False
    while wire.reconnects == logins:
        delay = _LOOK_SECONDS
        try:
            if wire.access.token() != wire.token_used or _now() >= patient_until:
                await wire.try_login()
                await wire.log_in_again()
                await wire.reconnected(logins)
                return
        except (LoginRefused, NoToken) as exc:
            if not said:
                said = True
                log.warning(
                    "the login cannot be renewed yet, trying on until it ends",
                    reason=str(exc),
                    role=wire.access.role,
                    token_file=wire.access.token_file,
                )
            delay = next(delays)
        await _reconnects_within(wire, logins, delay)


def _now() -> float:
    return asyncio.get_running_loop().time()
