"""Connections that a prefix in use swallowed later get other addresses: a few per second, in a steady order.

One at a time is put on the agenda like any other request, so nothing else waits for them. Who finds no
replacement keeps what stands; it is told once, counted, and tried again when there may be room.
"""

import asyncio

import structlog

from schemas.grant import Connection
from schemas.subjects import RequestKey
from services.ipam.model import Writes
from services.ipam.service.figures import Figures
from services.ipam.service.following import Following

log = structlog.get_logger()


class Readdressing:
    """Whose turn it is, and who is left without a replacement."""

    def __init__(self, following: Following, figures: Figures, *, per_second: float) -> None:
        self._following = following
        self._figures = figures
        self._pause = 1 / per_second
        self._due: RequestKey | None = None
        self._settled = asyncio.Event()
        self._stuck: set[RequestKey] = set()

    def is_due(self, key: RequestKey) -> bool:
        """Whether this request may be given other addresses now."""
        return key == self._due

    def settled(self, key: RequestKey, before: Connection | None, writes: Writes) -> bool:
        """Take note of what became of a request; whether people were told of it here."""
        is_granted = key in self._following.state.grants
        if not is_granted:
            self._stuck.discard(key)
        if key != self._due:
            return False
        self._due = None
        self._settled.set()
        after = writes.granted
        if before is not None and after is not None and after.readdressed and _moved(before, after):
            self._stuck.discard(key)
            self._figures.readdressed.inc()
            log.info(
                "connection re-addressed",
                client=f"{key.namespace}/{key.pod}",
                interface=key.interface,
                addresses=after.client.addresses,
                instead_of=before.client.addresses,
                revision=after.revision,
                reason=after.readdressed,
            )
            return True
        if self._following.state.is_affected(key) and key not in self._stuck:
            self._stuck.add(key)
            log.warning(
                "connection overlaps a prefix in use and has no replacement",
                client=f"{key.namespace}/{key.pod}",
                interface=key.interface,
                overlap=self._following.state.grants[key].covered,
                remedy="give the endpoint a prefix or route that nothing else uses",
            )
            return True
        return False

    async def run(self) -> None:
        """For ever."""
        while True:
            await self._following.relief.wait()
            self._following.relief.clear()
            if not (self._stuck or self._following.excluded_anew):
                continue
            self._following.excluded_anew = False
            affected = self._following.state.affected()
            self._stuck.intersection_update(affected)
            for key in sorted(affected, key=self._stuck.__contains__):  # those first who have hope
                await self._take_turn(key)
            self._figures.unaddressable.set(len(self._stuck))

    async def _take_turn(self, key: RequestKey) -> None:
        self._due = key
        self._settled.clear()
        self._following.agenda.touch([key])
        await self._settled.wait()
        self._figures.unaddressable.set(len(self._stuck))
        await asyncio.sleep(self._pause / 10 if key in self._stuck else self._pause)


def _moved(before: Connection, after: Connection) -> bool:
    return (before.client.addresses, before.server.addresses) != (
        after.client.addresses,
        after.server.addresses,
    )
