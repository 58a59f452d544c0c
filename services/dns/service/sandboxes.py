"""Which networks of Pods there are on this node, as the CNI's result files and the kernel say together."""

import contextlib
import os
from collections.abc import Callable

import structlog

from services._node import cni
from services._node.cni import CniResult
from services.dns.adapters import Gone, Kernel, Place, Refused

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
        self._kernel = kernel
        self._directory = directory
        self._on_change = on_change
        self._results: dict[str, CniResult] = {}
        self._complaints: dict[str, str] = {}

    def forget(self, wanted: set[str]) -> None:
        """Keep the ends of wanted Pods only: others will never be asked for again."""
        self.ended &= wanted
        self._complaints = {u: why for u, why in self._complaints.items() if u in self._results}

    async def watch(self, looked: Callable[[], None]) -> None:
        """For ever; `looked` is called after the first look."""
        async with contextlib.aclosing(cni.watch(self._directory)) as watching:
            async for results in watching:
                await self._update(cni.by_uid(results))
                looked()

    async def verify(self) -> None:
        """Look again at every network: result files may outlive what they name, or come before it."""
        for uid in list(self._results):
            place = self.places.get(uid)
            if place is None or not await self._kernel.is_there(place):
                await self._find(uid)
                if self.places.get(uid) != place:
                    self._on_change({uid})

    async def _update(self, newest: dict[str, CniResult]) -> None:
        changed = {uid for uid in newest if newest[uid] != self._results.get(uid)}
        gone = self._results.keys() - newest.keys()
        self._results = newest
        # The ended first: what is open in their networks keeps them alive.
        for uid in (*gone, *changed):
            await self._find(uid)
            self._on_change({uid})

    async def _find(self, uid: str) -> None:
        result = self._results.get(uid)
        place: Place | None = None
        if result is not None:
            try:
                place = await self._kernel.find_place(result)
            except Gone as exc:
                self._complain(result, str(exc))
            except Refused as exc:
                self._complain(result, str(exc))
                return  # what is known stays: not seeing is not being gone
            except Exception as exc:
                log.exception("pod network not found", uid=uid, reason=repr(exc))
                return
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
