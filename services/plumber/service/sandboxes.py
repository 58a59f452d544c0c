"""Which networks of Pods there are on this node, as the CNI's result files and the kernel say together."""

import contextlib
import os
from collections.abc import Callable, Iterable

import structlog

from services._node import cni
from services._node.cni import CniResult
from services.plumber.adapters import Gone, Kernel
from services.plumber.model import Place

log = structlog.get_logger()


class Sandboxes:
    """`places` by Pod uid. `on_change` is told the uids whose network came, went or was replaced."""

    def __init__(
        self,
        kernel: Kernel,
        directory: str | os.PathLike[str],
        *,
        on_change: Callable[[set[str]], None],
    ) -> None:
        self.places: dict[str, Place] = {}
        self.ended: set[str] = set()  # was there, is gone
        self.unreadable: set[str] = set()  # nobody could look yet
        self._kernel = kernel
        self._directory = directory
        self._on_change = on_change
        self._results: dict[str, CniResult] = {}
        self._complaints: dict[str, str] = {}

    def remember(self, uids: Iterable[str]) -> None:
        """Networks known from before our start: if no result file names them, they have ended."""
        self.ended.update(uids)

    def forget(self, wanted: set[str]) -> None:
        """Keep the ends of wanted Pods only: others will never be asked for again."""
        self.ended &= wanted
        self.unreadable &= self._results.keys()
        self._complaints = {u: why for u, why in self._complaints.items() if u in self._results}

    async def watch(self, looked: Callable[[], None]) -> None:
        """For ever; `looked` is called after the first look."""
        async with contextlib.aclosing(cni.watch(self._directory)) as watching:
            async for results in watching:
                await self._update(cni.by_uid(results))
                looked()

    async def verify(self) -> None:
        """Look again at every network: result files may outlive what they name, or come before it."""
        changed: set[str] = set()
        for uid in list(self._results):
            place = self.places.get(uid)
            if place is None or not await self._kernel.is_there(place):
                await self._find(uid)
                if self.places.get(uid) != place:
                    changed.add(uid)
        if changed:
            self._on_change(changed)

    async def _update(self, newest: dict[str, CniResult]) -> None:
        changed = {uid for uid in newest if newest[uid] != self._results.get(uid)}
        changed |= self._results.keys() - newest.keys()
        self._results = newest
        for uid in changed:
            await self._find(uid)
        self._on_change(changed)

    async def _find(self, uid: str) -> None:
        result = self._results.get(uid)
        place: Place | None = None
        if result is not None:
            try:
                place = await self._kernel.find_place(result)
            except Gone as exc:
                self._complain(result, str(exc))
            except Exception as exc:  # noqa: BLE001  Refused, or our mistake: it costs this Pod, not the node
                self._complain(result, str(exc) or repr(exc))
                if uid not in self.places:
                    self.unreadable.add(uid)
                return  # what is known stays: not seeing is not being gone
        self.unreadable.discard(uid)
        if place is not None:
            self.places[uid] = place
            self.ended.discard(uid)
            self._complaints.pop(uid, None)
        elif self.places.pop(uid, None) is not None:
            self.ended.add(uid)

    def _complain(self, result: CniResult, reason: str) -> None:
        """Once per reason: result files of long dead sandboxes lie about on many nodes."""
        if self._complaints.get(result.uid) != reason:
            self._complaints[result.uid] = reason
            log.info("pod network not usable", uid=result.uid, reason=reason)
