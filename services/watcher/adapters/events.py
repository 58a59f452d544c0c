"""Events: what people see in `kubectl describe`. The same news about the same object is one Event, counted.

An Event's name is made from what it says, so a restarted watcher goes on counting instead of repeating.
One object gets a handful at once and then one every half minute: a flapping Pod must not drown the others.
Only what was written counts: while the API server is busy, trying again costs nothing.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from services._runtime.errors import Conflict
from services.watcher.adapters.kube import NAME, Kube, Missing
from services.watcher.model import ObjectRef
from services.watcher.wording import shorten

_BURST = 12
_REFILL_SECONDS = 30.0
_REMEMBERED = 10_000
_MESSAGE_BYTES = 1024  # the API server's


class _Counted(msgspec.Struct, frozen=True):
    count: int | None = None


class Events:
    """`announce` creates or counts; `clock` is monotonic seconds."""

    def __init__(self, kube: Kube, *, instance: str, clock: Callable[[], float]) -> None:
        self._kube = kube
        self._instance = instance
        self._clock = clock
        self._counts: OrderedDict[str, int] = OrderedDict()  # by path
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # uid: (left, at)

    async def announce(
        self, about: ObjectRef, *, kind: str, reason: str, message: str, again: bool = True
    ) -> bool:
        """Say it. Not `again`: what was said before, also by a predecessor, is not counted up.

        False: kept back, this object has said enough for now.
        """
        text = shorten(message, _MESSAGE_BYTES)
        namespace = about.namespace or "default"
        digest = hashlib.sha256(f"{about.uid}\0{reason}\0{text}".encode()).hexdigest()[:16]
        name = f"{about.name[:230].rstrip('-.')}.{digest}"
        folder = f"/api/v1/namespaces/{namespace}/events"
        path = f"{folder}/{name}"
        if not again and path in self._counts:
            return True
        if self._left(about.uid) < 1:
            return False
        event = _event(about, name=name, namespace=namespace, instance=self._instance)
        event |= {"type": kind, "reason": reason, "message": text}
        for _ in range(3):  # it may expire or appear between our look and our word
            if path in self._counts:
                try:
                    await self._count(path, self._counts[path] + 1)
                    self._spend(about.uid)
                    return True
                except Missing:
                    del self._counts[path]
            try:
                await self._kube.post(folder, event)
                self._remember(path, 1)
                self._spend(about.uid)
                return True
            except Conflict:
                if await self._recall(path) and not again:
                    return True
        return False

    def kept_back_seconds(self, about: ObjectRef) -> float:
        """How long until this object may say something again."""
        return max(0.0, 1 - self._left(about.uid)) * _REFILL_SECONDS

    async def _recall(self, path: str) -> bool:
        """Go on where a predecessor stopped; False: what it said expired in this moment."""
        try:
            told = msgspec.json.decode(await self._kube.get(path), type=_Counted)
        except Missing:
            return False
        self._remember(path, told.count or 1)
        return True

    async def _count(self, path: str, count: int) -> None:
        await self._kube.patch(path, {"count": count, "lastTimestamp": _now()})
        self._remember(path, count)

    def _remember(self, path: str, count: int) -> None:
        self._counts[path] = count
        self._counts.move_to_end(path)
        while len(self._counts) > _REMEMBERED:
            self._counts.popitem(last=False)

    def _left(self, uid: str) -> float:
        now = self._clock()
        left, at = self._budgets.get(uid, (float(_BURST), now))
        return min(float(_BURST), left + (now - at) / _REFILL_SECONDS)

    def _spend(self, uid: str) -> None:
        self._budgets[uid] = (self._left(uid) - 1, self._clock())
        self._budgets.move_to_end(uid)
        while len(self._budgets) > _REMEMBERED:
            self._budgets.popitem(last=False)


def _event(about: ObjectRef, *, name: str, namespace: str, instance: str) -> dict[str, Any]:
    now = _now()
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "namespace": about.namespace,
            "name": about.name,
            "uid": about.uid,
        },
        "source": {"component": NAME},
        "reportingComponent": NAME,
        "reportingInstance": instance,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
