"""Which networks of Pods there are on this node: by the CNI's result files, else by the Pods' processes.

A file names a network the moment it is made; where none comes for a Pod that somebody wants, its processes are
looked for, ever less often. Not seeing is not being gone: a network has ended when its file says so, or when
it can no longer be reached under its name. Another name for the same network is no change.
"""

import asyncio
import contextlib
import os
from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple, Protocol

import structlog

from schemas.intent import PodRef
from services._node import cni, processes
from services._node.cni import CniResult
from services._node.errors import Gone
from services._node.places import Place
from services._node.processes import Roots

log = structlog.get_logger()

_SEARCH_SECONDS = 1.0  # the CNI's file, if one comes, is there long before
_SEARCH_MOST_SECONDS = 30.0


class Finder(Protocol):
    """Who opens and checks networks."""

    async def find_place(self, result: CniResult) -> Place: ...
    async def is_there(self, place: Place) -> bool: ...


class _Patience(NamedTuple):
    """When a Pod is looked for next, and how long after that."""

    at: float
    delay_seconds: float


class Sandboxes:
    """`places` by Pod uid. `on_change` is told the uids whose network came, went or was replaced.

    `wanted` says which Pods of this node somebody asks for. `watch` and `search` are its tasks.
    """

    def __init__(
        self,
        finder: Finder,
        directory: str | os.PathLike[str],
        *,
        roots: Roots,
        wanted: Callable[[], Iterable[PodRef]],
        on_change: Callable[[set[str]], None],
        search_seconds: float = _SEARCH_SECONDS,
    ) -> None:
        self.places: dict[str, Place] = {}
        self.ended: set[str] = set()  # was there, is gone
        self.unreadable: set[str] = set()  # nobody could look yet
        self._finder = finder
        self._directory = directory
        self._roots = roots
        self._wanted = wanted
        self._on_change = on_change
        self._search_seconds = search_seconds
        self._results: dict[str, CniResult] = {}
        self._sought: dict[str, PodRef] = {}  # found by their processes
        self._patience: dict[str, _Patience] = {}
        self._complaints: dict[str, str] = {}

    def remember(self, uids: Iterable[str]) -> None:
        """Networks known from before our start: if nothing names them, they have ended."""
        self.ended.update(uids)

    def forget(self, wanted: set[str]) -> None:
        """Keep the ends of wanted Pods only: others will never be asked for again."""
        known = self._results.keys() | self._sought.keys()
        self.ended &= wanted
        self.unreadable &= self._results.keys()
        self._complaints = {u: why for u, why in self._complaints.items() if u in known | wanted}

    def told(self, uid: str) -> str:
        """For people: where the network of a Pod is, or why nobody knows."""
        if (place := self.places.get(uid)) is not None:
            by = "its processes" if uid in self._sought else "a CNI result"
            return f"{place.netns} (cookie {place.cookie}), by {by}"
        if uid in self.ended:
            return "ended"
        return self._complaints.get(uid) or (
            f"not found: no CNI result in {self._directory} names it, and none of its processes was found"
        )

    async def watch(self, looked: Callable[[], None]) -> None:
        """For ever, by the files; `looked` is called after the first look."""
        async with contextlib.aclosing(cni.watch(self._directory)) as watching:
            async for results in watching:
                await self._update(cni.by_uid(results))
                looked()

    async def search(self) -> None:
        """For ever, by the processes of Pods that are wanted and that no file leads to."""
        while True:
            await asyncio.sleep(self._search_seconds)
            if due := self._due():
                await self._seek(due)

    async def verify(self, uids: Collection[str] | None = None) -> None:
        """Look again at these networks, or at all: files may outlive what they name, or come before it."""
        changed: set[str] = set()
        for uid in (self._results.keys() | self._sought.keys()) if uids is None else set(uids):
            place = self.places.get(uid)
            if place is None or not await self._finder.is_there(place):
                await self._find(uid)
                if self.places.get(uid) != place:
                    changed.add(uid)
        if changed:
            self._on_change(changed)

    async def _update(self, newest: dict[str, CniResult]) -> None:
        changed = {uid for uid in newest if newest[uid] != self._results.get(uid)}
        gone = self._results.keys() - newest.keys()
        self._results = newest
        # The ended first: what somebody holds open in their networks keeps them alive.
        for uids in (gone, changed):
            for uid in uids:
                await self._find(uid)
            if uids:
                self._on_change(uids)

    async def _find(self, uid: str) -> None:
        """What was seen counts only if no other file came, and none went, meanwhile."""
        while True:
            result, reason = self._results.get(uid), ""
            place: Place | None = None
            try:
                place = await self._look(uid, result)
            except Exception as exc:  # noqa: BLE001  Refused, or our mistake: it costs this Pod, not the node
                reason = str(exc) or repr(exc)
            if self._results.get(uid) == result:
                break
        if reason:
            self._complain(uid, reason)
            if uid not in self.places:
                self.unreadable.add(uid)
            return  # what is known stays: not seeing is not being gone
        self.unreadable.discard(uid)
        if place is not None:
            self._enter(place)
        elif self.places.pop(uid, None) is not None:
            self._sought.pop(uid, None)
            self.ended.add(uid)

    async def _look(self, uid: str, result: CniResult | None) -> Place | None:
        place: Place | None = None
        if result is not None:
            place = await self._ask(result)
        if place is None and (pod := self._sought.get(uid)) is not None:
            place = (await self._ask_processes([pod])).get(uid)
        known = self.places.get(uid)
        if place is None or known is None or known.cookie != place.cookie:
            return place
        return known if await self._finder.is_there(known) else place  # its name may have ended

    def _enter(self, place: Place) -> None:
        self.places[place.uid] = place
        self.ended.discard(place.uid)
        self._complaints.pop(place.uid, None)

    async def _ask(self, result: CniResult) -> Place | None:
        """The network of a result, or None. Raises Refused."""
        try:
            return await self._finder.find_place(result)
        except Gone as exc:
            self._complain(result.uid, str(exc))
            return None

    def _due(self) -> list[PodRef]:
        """The Pods to look for now."""
        now = asyncio.get_running_loop().time()
        missing = {pod.uid: pod for pod in self._wanted() if pod.uid not in self.places}
        first = _Patience(now + self._search_seconds, self._search_seconds)
        self._patience = {uid: self._patience.get(uid, first) for uid in missing}
        due = [uid for uid, patience in self._patience.items() if patience.at <= now]
        for uid in due:
            delay_seconds = min(self._patience[uid].delay_seconds * 2, _SEARCH_MOST_SECONDS)
            self._patience[uid] = _Patience(now + delay_seconds, delay_seconds)
        return [missing[uid] for uid in due]

    async def _seek(self, pods: list[PodRef]) -> None:
        found = await self._ask_processes(pods)
        came: set[str] = set()
        for pod in pods:
            if pod.uid in found and pod.uid not in self.places:
                self._sought[pod.uid] = pod
                self._enter(found[pod.uid])
                came.add(pod.uid)
                log.info("pod network found by its processes", uid=pod.uid)
        if came:
            self._on_change(came)

    async def _ask_processes(self, pods: list[PodRef]) -> dict[str, Place]:
        """Never raises for what one Pod's processes hold."""
        found: dict[str, Place] = {}
        candidates = await asyncio.to_thread(processes.find, pods, self._roots)
        for uid, results in candidates.items():
            for result in results:
                try:
                    place = await self._ask(result)
                except Exception as exc:  # noqa: BLE001  the next candidate may do
                    self._complain(uid, str(exc) or repr(exc))
                    continue
                if place is not None:
                    found[uid] = place
                    break
        return found

    def _complain(self, uid: str, reason: str) -> None:
        """Once per reason: result files of long dead sandboxes lie about on many nodes."""
        if self._complaints.get(uid) != reason:
            self._complaints[uid] = reason
            log.info("pod network not usable", uid=uid, reason=reason)
