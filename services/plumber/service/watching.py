"""The kernel's notices from the networks of connected Pods, turned into reasons to look.

Where the kernel lets us hear none, or we lose some, the sweep finds what they would have told, only later.
"""

import asyncio
from collections.abc import Callable

import structlog

from schemas.subjects import ConnectionKey
from services._node import monitor
from services._node.errors import Refused
from services._node.monitor import Change, Monitor
from services._node.places import Place
from services._node.sandboxes import Sandboxes
from services.plumber.service.standing import Standing

log = structlog.get_logger()


class Watching:
    """`on_contradiction` is told a connection that is no more as it was, `on_loss` that any may be.

    `open`, then `run` as a task, then `close`.
    """

    def __init__(
        self,
        standing: Standing,
        sandboxes: Sandboxes,
        *,
        on_contradiction: Callable[[ConnectionKey], None],
        on_loss: Callable[[], None],
    ) -> None:
        self._standing = standing
        self._sandboxes = sandboxes
        self._on_contradiction = on_contradiction
        self._on_loss = on_loss
        self._ended: set[int] = set()  # cookies of networks
        self._end_seen = asyncio.Event()
        self._deaf: dict[int, str] = {}  # cookies of networks that could not be watched, and why
        self._monitor: Monitor | None = None

    @property
    def watched(self) -> int:
        """How many networks."""
        return self._monitor.watched if self._monitor else 0

    def open(self) -> None:
        """Before `run`, and before anything is attended to."""
        try:
            self._monitor = Monitor(on_changes=self._changed, on_loss=self._lost)
        except OSError as exc:
            log.warning(
                "changes in Pods are found by the sweep only",
                reason=str(exc),
                remedy="give the plumber the capabilities NET_BROADCAST and SYS_ADMIN",
            )

    async def run(self) -> None:
        """For ever."""
        async with asyncio.TaskGroup() as group:
            if self._monitor is not None:
                group.create_task(self._monitor.run())
            group.create_task(self._verify_ended())

    async def _verify_ended(self) -> None:
        """A network that the kernel calls ended is looked for at once, whatever its file says."""
        while True:
            await self._end_seen.wait()
            self._end_seen.clear()
            ended, self._ended = self._ended, set()
            places = self._sandboxes.places
            await self._sandboxes.verify([uid for uid, p in places.items() if p.cookie in ended])

    def close(self) -> None:
        """After `run`."""
        if self._monitor is not None:
            self._monitor.close()

    def attend(self, place: Place) -> None:
        """Watch this network from now on; before it is read, so that nothing falls between."""
        if self._monitor is None or self._monitor.is_watched(place.cookie):
            return
        try:
            self._monitor.watch(place.netns, place.cookie)
        except (Refused, OSError) as exc:
            if self._deaf.get(place.cookie) != str(exc):
                log.warning("pod network not watched", uid=place.uid, reason=str(exc))
            self._deaf[place.cookie] = str(exc)
        else:
            self._deaf.pop(place.cookie, None)

    def _changed(self, changes: list[Change]) -> None:
        for key in self._standing.contradicted(changes):
            self._on_contradiction(key)
        for change in changes:
            if change.kind == monitor.DELNSID:
                self._ended.add(change.cookie)
                self._end_seen.set()

    def _lost(self) -> None:
        log.warning("notices of the kernel lost; every connection is looked at")
        self._on_loss()
