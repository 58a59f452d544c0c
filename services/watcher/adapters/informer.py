"""Informer: the objects of one kind as the API server has them, whatever happens to the connection.

List, then watch from the list's version. What happened to an object is told as (before, after); one whose UID
changed is told as gone and come. What arrives together is told as one change per object: a burst costs what
it changed, not what it said. 410 in either form: list again and tell the difference. A watch that says nothing
for 70 s, not even a bookmark, is idle or dead, and which of them cannot be told: list again. A kind the server
goes on not knowing has no objects and is asked for again; but only an API server can say so, not a balancer in
front of it that leads nowhere, and never of the kinds that every API server has.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from services._runtime.errors import Conflict, Unavailable
from services.watcher.adapters import lines
from services.watcher.adapters.decoding import Decoder, Failure, Unreadable
from services.watcher.adapters.kube import Denied, Expired, Kube, Missing
from services.watcher.model import Object, Ref

log = structlog.get_logger()

OnChange = Callable[[Ref, Any, Any], None]

# The API server sends a bookmark about once a minute, but only if the version of that kind moved: on an idle
# kind such silence is normal. It is also all that is heard from a server whose past is another one, such as a
# restored backup: it takes a watch from a version it has not reached yet and then drops everything up to that.
# Only a list tells. What is idle for so long is seldom large.
SILENCE_SECONDS = 70.0
_PAGE = 500
_RETRY_MISSING_SECONDS = 1.0
_RETRY_OPTIONAL_SECONDS = 60.0  # such a kind comes with an upgrade of the cluster
_TELL_MISSING_AFTER = 2  # answers in a row: a balancer may have sent one of them elsewhere
_BELIEVE_MISSING_AFTER = 3  # answers in a row: objects that we have not seen yet may be on the bus
_BACKOFF_SECONDS = (0.1, 5.0)
_MOST_AWAY_SECONDS = 15.0  # whatever Retry-After says: who does not look grows old
NOT_INSTALLED = "the kind is not installed"
_TOLD_AFTER = 5  # failures in a row: some three seconds
_MOST_SILENT_SECONDS = 120.0  # a list after 70 is to be answered by then
_FAIR_WATCH_SECONDS = 2.0  # one that lasted this long says that the server is well


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A kind and where it is. `name`: only the object of this name in the path's namespace.

    `optional`: older clusters do not know the kind, and who may not list it does without.
    """

    kind: type[Any]
    path: str
    name: str = ""
    optional: bool = False

    @property
    def title(self) -> str:
        return f"{self.path}/{self.name}" if self.name else self.path

    @property
    def query(self) -> dict[str, str]:
        return {"fieldSelector": f"metadata.name={self.name}"} if self.name else {}

    @property
    def is_core(self) -> bool:
        """Whether no API server is without it."""
        return self.path.startswith("/api/")

    def has(self, found: Object) -> bool:
        return not self.name or found.metadata.name == self.name


class Informer:
    """`run()` for ever; `items` is the current truth once `synced` is set."""

    def __init__(
        self,
        kube: Kube,
        resource: Resource,
        on_change: OnChange,
        *,
        silence_seconds: float = SILENCE_SECONDS,
        backoff_seconds: tuple[float, float] = _BACKOFF_SECONDS,
    ) -> None:
        self.resource = resource
        self.items: dict[Ref, Any] = {}
        self.synced = asyncio.Event()
        self._kube = kube
        self._on_change = on_change
        self._silence = silence_seconds
        self._least, self._most = backoff_seconds
        self._version = ""  # to watch from; empty: list first
        self._decoder = Decoder(resource.kind)
        self._changed: dict[Ref, Any] = {}  # to be told: what each was before
        self._failures = 0
        self._reason = ""  # of the last failure
        self._is_watching = False
        self._missing = 0
        self._unreadable: set[Ref] = set()
        self._heard: float | None = None

    def silent_seconds(self) -> float:
        """How long the server has said nothing of this kind; a list or a watch that it takes counts, too."""
        return math.inf if self._heard is None else time.monotonic() - self._heard

    def trouble(self) -> str:
        """Why edits of this kind are not seen; empty: they are, as far as anybody can tell."""
        if self._missing:  # whoever answers that there is no such kind is not silent
            is_told = self._missing >= _TELL_MISSING_AFTER and not self.resource.optional
            return NOT_INSTALLED if is_told else ""
        # A watch that stands is a good sign long before it has anything to tell.
        if self._failures >= _TOLD_AFTER and not self._is_watching:
            return self._reason
        if self._heard is not None and self.silent_seconds() > _MOST_SILENT_SECONDS:
            return f"no word for {self.silent_seconds():.0f} s"
        return ""

    async def run(self) -> None:
        """List and watch for ever."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except Missing as exc:
                await (self._pause(exc) if self.resource.is_core else self._kind_is_missing(exc))
            except Expired:
                self._version = ""
                await self._pause(None)
            except Denied as exc:
                await (self._kind_is_missing(exc) if self.resource.optional else self._pause(exc))
            except msgspec.DecodeError as exc:
                self._version = ""  # from there on would be the same line again
                await self._pause(exc)
            except (Unavailable, Conflict) as exc:
                await self._pause(exc)

    async def _list(self) -> None:
        """Tell what differs page by page, at the end what is gone. Of the newest truth, not a cache."""
        found: set[Ref] = set()
        self._unreadable = set()
        query = {**self.resource.query, "limit": str(_PAGE)}
        while True:
            body = await self._kube.get(self.resource.path, query)
            self._heard = time.monotonic()
            metadata, page = self._decoder.page(body)
            try:
                for each in page:
                    if (ref := self._put(each)) is not None:
                        found.add(ref)
            finally:
                self._tell()
            if not metadata.remaining:
                break
            query["continue"] = metadata.remaining
        self._missing = 0
        self._keep_only(found)
        self._version = metadata.resource_version
        self._sync()

    def _keep_only(self, found: set[Ref]) -> None:
        for ref in self.items.keys() - found - self._unreadable:
            self._gone(ref)
        self._tell()

    def _sync(self) -> None:
        if not self.synced.is_set():
            log.info("objects listed", resource=self.resource.title, count=len(self.items))
            self.synced.set()

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        query = {
            **self.resource.query,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(random.randint(300, 600)),
        }
        try:
            async with (
                asyncio.timeout(self._silence) as silence,
                self._kube.stream(self.resource.path, query) as chunks,
            ):
                self._is_watching = True
                self._heard = time.monotonic()  # that it is taken is a word
                async for together in lines.split(chunks):
                    self._heard = time.monotonic()
                    silence.reschedule(loop.time() + self._silence)
                    self._recovered()
                    self._events(together)
        except TimeoutError:
            log.debug(
                "watch is silent, listing", resource=self.resource.title, seconds=self._silence
            )
            self._version = ""
        finally:
            self._is_watching = False
            if loop.time() - begun >= _FAIR_WATCH_SECONDS:
                self._recovered()
        if loop.time() - begun < _FAIR_WATCH_SECONDS:
            await self._pause(None)

    def _events(self, together: list[bytes]) -> None:
        try:
            for line in together:
                self._event(*self._decoder.line(line))
        finally:
            self._tell()

    def _event(self, verb: str, found: Any) -> None:
        if isinstance(found, Failure):
            raise self._refused(found)
        head = found.head if isinstance(found, Unreadable) else found
        if verb != "BOOKMARK" and not self.resource.has(head):
            return
        # Before anything else: what a server with another past says is not worth telling.
        self._move_to(head.metadata.resource_version)
        if verb == "DELETED":
            self._gone(head.ref)
        elif verb in ("ADDED", "MODIFIED"):
            self._put(found)

    def _move_to(self, version: str) -> None:
        """A version below ours comes from a server whose past is another one, such as a restored backup."""
        if version.isdigit() and self._version.isdigit() and int(version) < int(self._version):
            raise Expired(f"watch {self.resource.title}: {version} comes after {self._version}")
        self._version = version or self._version

    def _refused(self, failure: Failure) -> Exception:
        text = f"watch {self.resource.title}: {failure.code} {failure.reason}: {failure.message}"
        if failure.code == 410 or failure.reason in ("Expired", "Gone"):
            return Expired(text)
        return Unavailable(text)

    def _put(self, found: Any) -> Ref | None:
        """The object is there; None: it is none of ours. What cannot be read stays as it was."""
        if isinstance(found, Unreadable):
            self._cannot_read(found)
            return None
        if not self.resource.has(found):
            return None
        ref: Ref = found.ref
        self._unreadable.discard(ref)
        self._changed.setdefault(ref, self.items.get(ref))
        self.items[ref] = found
        return ref

    def _cannot_read(self, found: Unreadable) -> None:
        ref = found.head.ref
        if ref not in self._unreadable:
            self._unreadable.add(ref)
            log.error(
                "object cannot be read", resource=self.resource.title, object=ref, reason=found.why
            )

    def _gone(self, ref: Ref) -> None:
        self._unreadable.discard(ref)
        before = self.items.pop(ref, None)
        self._changed.setdefault(ref, before)

    def _tell(self) -> None:
        """What changed since the last time, once per object, whatever lay between."""
        changed, self._changed = self._changed, {}
        for ref, before in changed.items():
            after = self.items.get(ref)
            if before is not None and after is not None and before.uid != after.uid:
                self._on_change(ref, before, None)
                self._on_change(ref, None, after)
            elif before != after:
                self._on_change(ref, before, after)

    async def _kind_is_missing(self, exc: Exception) -> None:
        self._missing += 1
        if self._missing == 1:
            told = log.info if self.resource.optional else log.warning
            told(
                "kind cannot be listed; its objects count as none until it is installed",
                resource=self.resource.title,
                reason=str(exc),
            )
        # A server that just started may not know its custom kinds yet: one answer is no proof.
        believed = self._missing >= _BELIEVE_MISSING_AFTER and await self._knows_its_groups()
        if believed:
            self._unreadable.clear()
            self._keep_only(set())
            self._sync()
        self._version = ""
        rarely = believed and self.resource.optional
        seconds = _RETRY_OPTIONAL_SECONDS if rarely else _RETRY_MISSING_SECONDS
        await asyncio.sleep(seconds * random.uniform(0.8, 1.2))

    async def _knows_its_groups(self) -> bool:
        """Whether who answers is an API server: one that leaves us out of its groups has its reasons."""
        try:
            return b"APIGroupList" in await self._kube.get("/apis")
        except Denied:
            return True  # somebody who knows rights
        except (Missing, Unavailable, Conflict, Expired):
            return False

    def _recovered(self) -> None:
        if self._failures > 1:
            log.info("watching again", resource=self.resource.title, attempts=self._failures)
        self._failures = 0

    async def _pause(self, exc: Exception | None) -> None:
        """Longer each time, and never in step with others."""
        self._failures += 1
        self._reason = str(exc or "each watch ends at once")
        seconds = min(self._least * 2 ** (self._failures - 1), self._most) * random.uniform(0.5, 1)
        if isinstance(exc, Unavailable) and exc.after is not None:
            after = min(exc.after, _MOST_AWAY_SECONDS)
            seconds = max(seconds, after * random.uniform(1.0, 1.2))  # not before
        if exc is not None and self._failures in (1, 5):
            log.warning(
                "cannot watch",
                resource=self.resource.title,
                reason=str(exc),
                again_in=round(seconds, 1),
            )
        await asyncio.sleep(seconds)
