"""What the bus tests share: followers in a task, waiting for a condition, a wire that can be cut."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp

from schemas.codec import encode
from services._runtime.bus import Bus
from services._runtime.leading import Term, lead
from services._runtime.mirror import Mirror


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition that no event announces."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def ready(port: int) -> None:
    """Wait until a service's process says that it is, on its health port."""
    async with asyncio.timeout(30), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"http://127.0.0.1:{port}/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running(*coroutines: Any) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Run coroutines beside the block; what they raise fails the block."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(c) for c in coroutines]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()


async def lose(bus: Bus, *messages: Any) -> None:
    """From their stream, as a disk would lose them: written once more with a short life, they end unheard.

    Returns when each has ended; the first may be written again by then.
    """
    mortal = {each.key: await bus.store(each.key, encode(each), ttl=1) for each in messages}
    async with asyncio.timeout(20):
        for key, sequence in mortal.items():
            while (found := await bus.peek(key)) is not None and found.sequence == sequence:
                await asyncio.sleep(0.05)


class Changes:
    """Collects what a mirror reports."""

    def __init__(self) -> None:
        self.all: list[tuple[Any, Any]] = []

    def __call__(self, key: Any, message: Any) -> None:
        self.all.append((key, message))

    def of(self, key: Any) -> list[Any]:
        return [message for changed, message in self.all if changed == key]


@asynccontextmanager
async def mirroring(
    bus: Bus,
    stream: str,
    filters: Sequence[str] = ("nsm.>",),
    *,
    patience_seconds: float = 10,
    **options: Any,
) -> AsyncIterator[tuple[Mirror, Changes]]:
    """A synced mirror and its changes."""
    changes = Changes()
    mirror = Mirror(bus, stream, filters, on_change=changes, **options)
    async with running(mirror.run()):
        async with asyncio.timeout(patience_seconds):
            await mirror.synced.wait()
        yield mirror, changes


class Leading:
    """A candidate for leadership with its own bus; remembers its terms."""

    def __init__(self, bus: Bus, service: str, stream: str, holder: str) -> None:
        self.bus = bus
        self.own = Mirror(bus, stream, ["nsm.>"], on_change=lambda *_: None)
        self.terms: list[Term] = []
        self.cancelled = 0
        self.seen_at_start: list[set[Any]] = []
        self.leads = asyncio.Event()
        self._args = (service, holder)

    async def run(self) -> None:
        service, holder = self._args
        async with asyncio.TaskGroup() as group:
            group.create_task(self.own.run())
            group.create_task(lead(self.bus, service, self.own, self.decide, holder=holder))

    async def decide(self, term: Term) -> None:
        self.seen_at_start.append(set(self.own.items))
        self.terms.append(term)
        self.leads.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.leads.clear()
            self.cancelled += 1


class Proxy:
    """A wire between client and server that can be cut while both live."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._pairs: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()

    def cut(self) -> None:
        for writer in list(self._pairs):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._pairs |= {writer, up_writer}
        try:
            # Cancelled when the loop ends; asyncio's stream server would complain.
            with suppress(asyncio.CancelledError):
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, up_writer))
                    group.create_task(self._pump(up_reader, writer))
        finally:
            self._pairs -= {writer, up_writer}
            for one in (writer, up_writer):
                one.transport.abort()

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.transport.abort()
