"""Informer: the objects of one kind as the API server has them, whatever happens to the connection.

List, then watch from the list's version. Every change is told once, in order, as (before, after); an
object whose UID changed is told as gone and come. 410 in either form: list again and tell the difference.
A watch that says nothing for 70 s, not even a bookmark, is idle or dead, and which of them cannot be
told: list again. A kind the server goes on not knowing has no objects and is asked for again.
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
_BELIEVE_MISSING_AFTER = 3  # answers in a row: objects that we have not seen yet may be on the bus
_BACKOFF_SECONDS = (0.1, 5.0)
_FAIR_WATCH_SECONDS = 2.0  # one that lasted this long says that the server is well


class Resource(msgspec.Struct, frozen=True, kw_only=True):
    """A kind and where it is. `name`: only the object of this name in the path's namespace."""

    kind: type[Any]
    path: str
    name: str = ""

    @property
    def title(self) -> str:
        return f"{self.path}/{self.name}" if self.name else self.path

    @property
    def query(self) -> dict[str, str]:
        return {"fieldSelector": f"metadata.name={self.name}"} if self.name else {}

    def has(self, found: Object) -> bool:
        return not self.name or found.metadata.name == self.name


class _ListMeta(msgspec.Struct, frozen=True, rename={"resource_version": "resourceVersion"}):
    resource_version: str = ""
    remaining: str | None = msgspec.field(default=None, name="continue")


class _List(msgspec.Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw = msgspec.Raw(b"{}")


class _Failure(msgspec.Struct, frozen=True):
    code: int = 0
    reason: str = ""
    message: str = ""


class _Version(msgspec.Struct, frozen=True):
    metadata: _ListMeta = _ListMeta()


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
        self._decoder = msgspec.json.Decoder(resource.kind)
        self._failures = 0
        self._missing = 0
        self._unreadable: set[Ref] = set()
        self._heard: float | None = None

    def silent_seconds(self) -> float:
        """How long the server has said nothing of this kind; a list once a minute counts, too."""
        return math.inf if self._heard is None else time.monotonic() - self._heard

    async def run(self) -> None:
        """List and watch for ever."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
            except Missing:
                await self._kind_is_missing()
            except Expired:
                self._version = ""
                await self._pause(None)
            except (Unavailable, Conflict, Denied, msgspec.DecodeError) as exc:
                await self._pause(exc)

    async def _list(self) -> None:
        """Tell what differs page by page, at the end what is gone. Of the newest truth, not a cache."""
        found: set[Ref] = set()
        self._unreadable = set()
        query = {**self.resource.query, "limit": str(_PAGE)}
        while True:
            page = msgspec.json.decode(await self._kube.get(self.resource.path, query), type=_List)
            for raw in page.items or ():
                each = self._decode(raw)
                if each is not None:
                    found.add(each.ref)
                    self._seen(each)
            if not page.metadata.remaining:
                break
            query["continue"] = page.metadata.remaining
        self._missing = 0
        self._heard = time.monotonic()
        self._keep_only(found)
        self._version = page.metadata.resource_version
        self._sync()

    def _keep_only(self, found: set[Ref]) -> None:
        for ref in self.items.keys() - found - self._unreadable:
            self._gone(ref)

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
                async for line in lines.split(chunks):
                    self._heard = time.monotonic()
                    silence.reschedule(loop.time() + self._silence)
                    self._recovered()
                    self._event(line)
        except TimeoutError:
            log.debug(
                "watch is silent, listing", resource=self.resource.title, seconds=self._silence
            )
            self._version = ""
        finally:
            if loop.time() - begun >= _FAIR_WATCH_SECONDS:
                self._recovered()
        if loop.time() - begun < _FAIR_WATCH_SECONDS:
            await self._pause(None)

    def _event(self, line: bytes) -> None:
        event = msgspec.json.decode(line, type=_Event)
        match event.type:
            case "ADDED" | "MODIFIED":
                found = self._decode(event.object)
                if found is not None:
                    self._seen(found)
                    self._move_to(found.metadata.resource_version)
            case "DELETED":
                gone = msgspec.json.decode(event.object, type=Object)
                if self.resource.has(gone):
                    self._gone(gone.ref)
                    self._move_to(gone.metadata.resource_version)
            case "BOOKMARK":
                told = msgspec.json.decode(event.object, type=_Version)
                self._move_to(told.metadata.resource_version)
            case "ERROR":
                self._refused(msgspec.json.decode(event.object, type=_Failure))

    def _move_to(self, version: str) -> None:
        """A version below ours comes from a server whose past is another one, such as a restored backup."""
        if version.isdigit() and self._version.isdigit() and int(version) < int(self._version):
            raise Expired(f"watch {self.resource.title}: {version} comes after {self._version}")
        self._version = version or self._version

    def _refused(self, failure: _Failure) -> None:
        text = f"watch {self.resource.title}: {failure.code} {failure.reason}: {failure.message}"
        if failure.code == 410 or failure.reason in ("Expired", "Gone"):
            raise Expired(text)
        raise Unavailable(text)

    def _decode(self, raw: msgspec.Raw) -> Any:
        """The object, or None if it is none of ours or cannot be read: then what we had stays."""
        try:
            found = self._decoder.decode(raw)
        except msgspec.DecodeError as exc:
            self._cannot_read(raw, exc)
            return None
        if not self.resource.has(found):
            return None
        self._unreadable.discard(found.ref)
        return found

    def _cannot_read(self, raw: msgspec.Raw, exc: Exception) -> None:
        ref = msgspec.json.decode(raw, type=Object).ref
        if ref not in self._unreadable:
            self._unreadable.add(ref)
            log.error(
                "object cannot be read", resource=self.resource.title, object=ref, reason=str(exc)
            )

    def _seen(self, found: Any) -> None:
        before = self.items.get(found.ref)
        if before is not None and before.uid != found.uid:
            self._gone(found.ref)
            before = None
        if before == found:
            return
        self.items[found.ref] = found
        self._on_change(found.ref, before, found)

    def _gone(self, ref: Ref) -> None:
        before = self.items.pop(ref, None)
        self._unreadable.discard(ref)
        if before is not None:
            self._on_change(ref, before, None)

    async def _kind_is_missing(self) -> None:
        self._missing += 1
        if self._missing == 1:
            log.warning(
                "kind is unknown to the API server; its objects count as none until it is installed",
                resource=self.resource.title,
            )
        # A server that just started may not know its custom kinds yet: one answer is no proof.
        if self._missing >= _BELIEVE_MISSING_AFTER:
            self._keep_only(set())
            self._sync()
        self._version = ""
        await asyncio.sleep(_RETRY_MISSING_SECONDS * random.uniform(0.8, 1.2))

    def _recovered(self) -> None:
        if self._failures > 1:
            log.info("watching again", resource=self.resource.title, attempts=self._failures)
        self._failures = 0

    async def _pause(self, exc: Exception | None) -> None:
        """Longer each time, and never in step with others."""
        self._failures += 1
        seconds = min(self._least * 2 ** (self._failures - 1), self._most)
        if isinstance(exc, Unavailable) and exc.after is not None:
            seconds = max(seconds, exc.after)
        if exc is not None and self._failures in (1, 5):
            log.warning(
                "cannot watch", resource=self.resource.title, reason=str(exc), again_in=seconds
            )
        await asyncio.sleep(seconds * random.uniform(0.5, 1.0))
