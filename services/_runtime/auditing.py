"""What a stream lost although it is the same one: found by counting, by whoever leads.

Nothing tells of it: a server that kept the wrong copy, or a disk that did, sends no message, and the stream keeps the
date of its creation. Each check is one question to the server, whatever the size of the stream. It is sure of what it
says but for servers that are several, whose views differ for a moment; so two in a row count.
"""

import asyncio

import structlog

from services._runtime.errors import Unavailable
from services._runtime.mirror import RESYNC_SECONDS, Mirror

log = structlog.get_logger()

CHECK_SECONDS = 30.0
_COUNT_SECONDS = 20.0
AGAIN_SECONDS = 5.0  # between the two that count


class Audit:
    """Counts the messages of a mirror's stream. Only for owners."""

    def __init__(self, mirror: Mirror) -> None:
        self.found = 0  # times in a row that it was short
        self.mirror = mirror

    async def until_short(self) -> None:
        """Return when the stream holds less than was read of it."""
        self.mirror.audited = True
        try:
            await self._two_in_a_row()
            self.found += 1
        finally:
            # What is missing stays known until whoever leads next has seen to it.
            self.mirror.audited = self.found > 0

    async def _two_in_a_row(self) -> None:
        suspected = False
        while True:
            await asyncio.sleep(AGAIN_SECONDS if suspected else self._pause())
            try:
                async with asyncio.timeout(_COUNT_SECONDS):
                    is_short = await self.mirror.is_short()
            except TimeoutError:
                is_short = True  # what was there a moment ago cannot be read
            except Unavailable as exc:
                log.debug("stream not counted", stream=self.mirror.stream, reason=exc.what)
                continue
            if is_short and suspected:
                return
            suspected = is_short
            if not is_short:
                self.found = 0
                self.mirror.renew()

    def _pause(self) -> float:
        # Were we wrong, nothing that is done about it would help: then at least not again and again.
        return min(CHECK_SECONDS * (1 << self.found), RESYNC_SECONDS)
