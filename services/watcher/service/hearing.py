"""Which of the nodes that Kubernetes calls not Ready are heard of on the bus, by the heartbeat of their plumbers.

Asked while there are such nodes, and then once for all of them: 5,000 heartbeats a few seconds apart are nobody's
reading. A heartbeat that is there counts at once. That there is none counts only when it was so for a while without
a cut: after one, or in a stream that was made anew, plumbers need some seconds to be there again.
"""

import asyncio
from collections.abc import Callable, Iterable

import structlog
from prometheus_client import Gauge

from schemas.subjects import AliveKey
from services._runtime.bus import Bus
from services._runtime.errors import Unavailable
from services._runtime.streams import LIVE
from services.watcher.core.intent import Intent
from services.watcher.model import Ref

log = structlog.get_logger()

_LOOK_SECONDS = 5.0
# Two heartbeats' lives: the last one ended ten seconds ago, and none followed.
_SILENT_SECONDS = 20.0
_SHOWN = 20  # nodes named in one line


class Hearing:
    """`heard` at any time; `run` listens while we lead. `on_change` is told the Pods of whom that changed."""

    def __init__(
        self,
        bus: Bus,
        intent: Intent,
        *,
        on_change: Callable[[Iterable[Ref]], None],
        clock: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._intent = intent
        self._on_change = on_change
        self._clock = clock
        self._heard: dict[str, bool] = {}
        self._since: dict[str, float] = {}  # when a node was first found silent
        self._lost: set[str] = set()  # as was told last
        self._place: tuple[str, int] = ("", 0)
        lost = Gauge(
            "nsm_watcher_lost_nodes",
            "Nodes with clients that are not Ready and whose plumber is silent; told by the leader",
            registry=bus.metrics.registry,
        )
        lost.set_function(lambda: sum(not heard for heard in self._heard.values()))

    def heard(self, node: str) -> bool | None:
        """Whether its plumber lives; None: we have not listened long enough. Only of nodes that are not Ready."""
        return self._heard.get(node)

    def forget(self, node: str) -> None:
        """Kubernetes calls it Ready: should that end, its silence is to be proved anew."""
        self._heard.pop(node, None)
        self._since.pop(node, None)

    async def run(self) -> None:
        """Listen for the length of a term."""
        try:
            while True:
                await self._look()
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._heard.clear()
            self._since.clear()
            self._lost.clear()

    async def _look(self) -> None:
        nodes = self._intent.unready_nodes()
        for known in (self._heard, self._since):
            for node in known.keys() - nodes.keys():
                del known[node]
        turned = await self._turned(nodes) if nodes else []
        self._tell_lost()
        for node in turned:
            self._on_change(nodes[node])

    async def _turned(self, nodes: Iterable[str]) -> list[str]:
        """Of whom what is known changed."""
        try:
            incarnation, alive = await self._bus.holds(LIVE, AliveKey)
        except Unavailable as exc:
            log.debug("heartbeats not read", reason=exc.what)
            self._since.clear()
            return []
        place = (incarnation, self._bus.reconnects)
        if place != self._place:
            self._place = place
            self._since.clear()
        return [node for node in nodes if self._judge(node, is_alive=_subject(node) in alive)]

    def _tell_lost(self) -> None:
        """One line when it starts, one when it ends: heard again, Ready again, or without clients."""
        lost = {node for node, heard in self._heard.items() if not heard}
        before, self._lost = self._lost, lost
        if new := sorted(lost - before):
            log.warning("nodes lost: not Ready, and silent", nodes=new[:_SHOWN], count=len(new))
        if ended := sorted(before - lost):
            log.info("nodes lost no more", nodes=ended[:_SHOWN], count=len(ended))

    def _judge(self, node: str, *, is_alive: bool) -> bool:
        """Whether it is heard now and was not, or the other way round."""
        before, now = self._heard.get(node), self._clock()
        if is_alive:
            self._since.pop(node, None)
        elif now - self._since.setdefault(node, now) < _SILENT_SECONDS:
            return False
        self._heard[node] = is_alive
        return before is not is_alive


def _subject(node: str) -> str:
    return AliveKey(node).subject
