"""Watches over HTTP: changes after a version as JSON lines, with bookmarks, until the time is up.

The listener is set before anything is awaited, so no change falls between the first state and what follows.
A reader that stays too far behind is cut off: it lists anew, and nobody else waits for it.
"""

import asyncio
import random
from collections import deque

import msgspec
from aiohttp import web

from lab.api.errors import ApiError
from lab.api.history import Change
from lab.api.kinds import Kind
from lab.api.misbehaving import Cut, Fault, Faults, Spoiler
from lab.api.presenting import Presenter, error_event
from lab.api.selectors import Selection
from lab.api.store import Store

BOOKMARK_SECONDS = 60.0
MAX_BEHIND = 10_000  # changes; the real server's buffers are far smaller, its clients as hardy


class WatchQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a watch asks for. `version` None: start with what is there now."""

    version: int | None = None
    timeout_seconds: float = 0
    bookmarks: bool = False
    initial_events: bool = False
    bookmark_seconds: float = BOOKMARK_SECONDS
    bookmark_at_start: bool = False


class Feed:
    """Changes of one shelf that a reader has not taken yet."""

    def __init__(self, store: Store, kind: Kind) -> None:
        self._waiting: deque[Change] = deque()
        self._wake = asyncio.Event()
        self.overrun = False
        self.ended = False
        self.close = store.shelf(kind).listen(self._on_change)

    def _on_change(self, change: Change) -> None:
        if len(self._waiting) >= MAX_BEHIND:
            self.overrun = True
            self.close()
        self._waiting.append(change)
        self._wake.set()

    def end(self) -> None:
        """No more: the server stops."""
        self.ended = True
        self._wake.set()

    async def take(self, seconds: float) -> list[Change]:
        """What came, after waiting at most `seconds` for the first."""
        if not self._waiting and not self.ended and seconds > 0:
            try:
                async with asyncio.timeout(seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._wake.clear()
        taken = list(self._waiting)
        self._waiting.clear()
        return taken


class Watch:
    """One watch request."""

    def __init__(
        self,
        store: Store,
        kind: Kind,
        *,
        wanted: Selection,
        presenter: Presenter,
        query: WatchQuery,
        faults: Faults,
    ) -> None:
        self._store = store
        self.kind = kind
        self._faults = faults
        self._spoiler = Spoiler(faults, kind.plural)
        self._wanted = wanted
        self._presenter = presenter
        self._query = query
        self.feed = Feed(store, kind)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Write lines until the time is up, the reader goes, or the server stops."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            fault = self._faults.of_watch(self.kind.plural)
            first = self._first_lines()
            await response.prepare(request)
            await (self._misbehave(response, fault) if fault else self._tell(response, first))
            await response.write_eof()
        except Cut as cut:
            await response.write(cut.last)
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            return response  # the reader went
        finally:
            self.feed.close()
        return response

    async def _tell(self, response: web.StreamResponse, first: bytes) -> None:
        if first:
            await response.write(first)
        if not self.feed.ended:
            await self._follow(response)

    async def _misbehave(self, response: web.StreamResponse, fault: Fault) -> None:
        if fault.what == "error":
            await response.write(error_event(fault.error.status))
        elif fault.what == "mute":
            while not self.feed.ended:
                await self.feed.take(BOOKMARK_SECONDS)

    def _first_lines(self) -> bytes:
        try:
            return self._lines_until_now()
        except ApiError as error:
            # As the real server: the watch itself succeeded, its first and last event says why not.
            self.feed.ended = True
            return error_event(error.status)

    def _lines_until_now(self) -> bytes:
        query, bookmark = self._query, b""
        if query.version is None or query.initial_events:
            records = sorted(self._store.shelf(self.kind).records.items())
            held = (record for _, record in records if self._wanted.holds(record.body))
            lines = [self._presenter.event("ADDED", record) for record in held]
        else:
            lines = self._lines(self._store.shelf(self.kind).since(query.version))
        if query.initial_events and query.bookmarks:
            bookmark = self._presenter.bookmark(self._store.version, initial_end=True)
        elif query.bookmark_at_start and query.bookmarks:
            bookmark = self._presenter.bookmark(self._store.version)
        return self._spoiler.events(lines) + bookmark

    def _lines(self, changes: list[Change]) -> list[bytes]:
        after = self._query.version or 0
        events = (c.seen_by(self._wanted) for c in changes if c.version > after)
        return [self._presenter.event(*event) for event in events if event]

    async def _follow(self, response: web.StreamResponse) -> None:
        query, clock = self._query, asyncio.get_running_loop().time
        # Without a wish the real server takes 30 to 60 minutes at random, so that watches do not end at once.
        end = clock() + (query.timeout_seconds or random.uniform(1800, 3600))
        bookmark = clock() + query.bookmark_seconds if query.bookmarks else end
        while not self.feed.ended and not self.feed.overrun and clock() < end:
            changes = await self.feed.take(min(end, bookmark) - clock())
            self._presenter.at(self._store.now())
            told = self._spoiler.events(self._lines(changes))
            if query.bookmarks and clock() >= min(end, bookmark):
                told += self._bookmark()
                bookmark = clock() + query.bookmark_seconds
            if told:
                await response.write(told)

    def _bookmark(self) -> bytes:
        """As the real server: of a kind that did not move since the watch began there is none."""
        moved_to = self._store.shelf(self.kind).version
        if moved_to <= (self._query.version or 0):
            return b""
        return self._spoiler.bookmark(self._presenter.bookmark(moved_to))
