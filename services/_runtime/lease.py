"""The right to lead: a message in NSM_LIVE that ends by itself unless it is renewed.

It only decides who *tries* to lead; that nobody else writes is the guard's work (`leading`). The same holder
name takes its own lease back at once: a restarted process need not wait for its former self.
"""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from schemas.codec import Malformed, Tombstone, encode
from schemas.live import LeaderReport
from schemas.live import Lease as LeaseMessage
from schemas.subjects import LeaseKey
from services._runtime.bus import Bus, WrongSequence

log = structlog.get_logger()

RETRY_SECONDS = 1.0
RELEASE_SECONDS = 1.0
RELEASED_TTL = 1


class LeaseLost(Exception):
    """Somebody else may lead now."""


class Lease:
    """One holder's claim to lead one service. Sequence 0: not held. `word`: what each renewal says, too."""

    def __init__(
        self,
        bus: Bus,
        service: str,
        holder: str,
        *,
        seconds: int,
        word: Callable[[], LeaderReport] = LeaderReport,
    ) -> None:
        self._bus = bus
        self._key = LeaseKey(service)
        self._holder = holder
        self._word = word
        self._seconds = seconds
        self._sequence = 0
        self._renewed = 0.0

    @property
    def left(self) -> float:
        """Seconds until it ends unless renewed."""
        return max(0.0, self._renewed + self._seconds - self._now())

    @property
    def expired(self) -> bool:
        return self.left == 0.0

    async def acquire(self) -> None:
        """Wait until the lease is ours."""
        said = self._holder
        while True:
            # Each time: a server without its disk lost this stream, and the leader that would make it may be dead.
            await self._bus.ensure_streams()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._seconds):
                    holder = await self._try()
                    if holder == self._holder:
                        return
                    if holder != said:
                        said = holder
                        log.info("standing by", lease=self._key.service, holder=holder)
            await asyncio.sleep(RETRY_SECONDS)

    async def renew(self) -> None:
        """Keep it. Raises LeaseLost if it is somebody else's, or if the bus did not answer in time."""
        try:
            async with asyncio.timeout(self.left):
                if await self._write(self._sequence):
                    return
                # The stream was made anew, or it ended by the server's clock: take it again if nobody did.
                if await self._try() == self._holder:
                    return
        except TimeoutError as exc:
            raise LeaseLost(f"not renewed within {self._seconds} s") from exc
        raise LeaseLost("held by somebody else")

    async def release(self) -> None:
        """Let the next one take it at once, if the bus can be reached."""
        if self._sequence and not self.expired:
            with contextlib.suppress(TimeoutError, WrongSequence):
                async with asyncio.timeout(RELEASE_SECONDS):
                    await self._bus.store(
                        self._key, b"", ttl=RELEASED_TTL, expect=lambda: expecting(self._sequence)
                    )
        self._sequence = 0

    async def _try(self) -> str:
        """Take it if nobody else has it; who has it now."""
        found = await self._read()
        holder, sequence = ("", 0) if found is None else found
        if holder in ("", self._holder):
            return self._holder if await self._write(sequence) else ""
        return holder

    async def _read(self) -> tuple[str, int] | None:
        """(holder, sequence), the holder "" if released; None if there is no lease."""
        try:
            found = await self._bus.read(self._key)
        except Malformed as exc:
            log.warning("the lease is malformed, it will end by itself", reason=exc.reason)
            return "?", 0
        if found is None:
            return None
        message, sequence = found
        return ("" if isinstance(message, Tombstone) else message.holder), sequence

    async def _write(self, after: int) -> bool:
        message = LeaseMessage(service=self._key.service, holder=self._holder, word=self._word())
        started = self._now()  # before the request: the server's clock may have started then
        try:
            self._sequence = await self._bus.store(
                self._key,
                encode(message),
                ttl=self._seconds,
                expect=lambda: expecting(after),
                after=after,
            )
        except WrongSequence:
            return False
        self._renewed = started
        return not self.expired

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def expecting(sequence: int, subject: str = "") -> dict[str, str]:
    """Headers: the last message of `subject` (default: the written one) has this sequence; 0: there is none."""
    headers = {"Nats-Expected-Last-Subject-Sequence": str(sequence)}
    if subject:
        headers["Nats-Expected-Last-Subject-Sequence-Subject"] = subject
    return headers
