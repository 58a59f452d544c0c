"""Links are removed together: one request per network for as many as there are.

A removal waits for RCU in the kernel, with a lock that every change of an interface needs: 17 ms for one link, and
not much more for a hundred that go at once. What is asked for while one round is under way goes with the next one.
The kernel removes a group of links in one go; which group that is marks them as doomed, so that an interrupted
round leaves nothing that counts as standing.
"""

import asyncio
import errno
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from typing import Any

from services._node import encoding
from services._node.links import LinkError, Netlink
from services.plumber.adapters import tables
from services.plumber.adapters.errors import Gone, Refused
from services.plumber.adapters.reading import DOOMED
from services.plumber.model import Found, Place, Remove, parse_alias

Opened = Callable[[Place], AbstractContextManager[tuple[int, Netlink]]]
_Failures = dict[str, Exception]  # by connection


class Removals:
    """`work` runs a blocking call, `opened` opens a Pod's network."""

    def __init__(
        self,
        work: Callable[[Callable[[], _Failures]], Coroutine[Any, Any, _Failures]],
        opened: Opened,
    ) -> None:
        self._work = work
        self._opened = opened
        self._waiting: list[tuple[Remove, asyncio.Future[None]]] = []
        self._busy = False

    async def remove(self, removal: Remove) -> None:
        """Return once nothing of it stands. Raises Refused."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((removal, done))
        if not self._busy:
            await self._run()
        await done

    async def _run(self) -> None:
        self._busy = True
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                await self._perform(batch)
        except asyncio.CancelledError:
            for _, done in self._waiting:
                done.cancel()
            self._waiting = []
            raise
        finally:
            self._busy = False

    async def _perform(self, batch: list[tuple[Remove, asyncio.Future[None]]]) -> None:
        try:
            failures = await self._work(lambda: self._remove([removal for removal, _ in batch]))
        except asyncio.CancelledError:
            # raised, also where the own removal is done and this round is for others: else nobody could stop us
            for _, done in batch:
                done.cancel()
            raise
        except Exception as exc:  # noqa: BLE001  each of them raises it
            for _, done in batch:
                if not done.done():
                    done.set_exception(exc)
            return
        for removal, done in batch:
            failure = failures.get(removal.connection)
            if done.done():
                continue  # whoever waited was cancelled
            if failure is None:
                done.set_result(None)
            else:
                done.set_exception(failure)

    def _remove(self, removals: Sequence[Remove]) -> _Failures:
        """The endpoints' ends first: many links of one endpoint are one network's. Each takes its peer with it."""
        failures: _Failures = {}
        gone: set[str] = set()
        for part in (slice(-1, None), slice(0, -1)):
            inside: dict[Place, list[tuple[str, Found]]] = {}
            for removal in removals:
                for end in removal.ends[part]:
                    is_gone = removal.connection in gone and _are_a_pair(removal.ends)
                    if not is_gone or end.lookups or end.kept:
                        inside.setdefault(end.place, []).append((removal.connection, end))
            for place, ends in inside.items():
                gone |= self._remove_in(place, ends, failures)
        return failures

    def _remove_in(
        self, place: Place, ends: Sequence[tuple[str, Found]], failures: _Failures
    ) -> set[str]:
        """The connections whose link it removed."""
        try:
            with self._opened(place) as (_, socket):
                found = {c: index for c, end in ends if (index := _index(socket, c, end))}
                _delete(socket, list(found.values()))
                if any(end.lookups or end.kept for _, end in ends):
                    tables.tidy(socket)
                return set(found)
        except Gone:
            return set()
        except (OSError, Refused) as exc:
            text = exc.strerror if isinstance(exc, OSError) else ""
            for connection, end in ends:
                failures[connection] = Refused(f"{end.interface}: {text or exc}")
            return set()


def _are_a_pair(ends: Sequence[Found]) -> bool:
    return len(ends) == 2 and ends[0].peer_index == ends[1].index


def _index(socket: Netlink, connection: str, end: Found) -> int:
    """Of the link under the end's name, if it is the connection's; else 0."""
    standing = socket.look_up(name=end.interface)
    alias = parse_alias(standing.alias) if standing is not None else None
    if standing is None or alias is None or alias.tag != connection:
        return 0
    return standing.index


def _delete(socket: Netlink, indexes: Sequence[int]) -> None:
    if len(indexes) == 1:
        requests = [encoding.delete_link(indexes[0])]
    elif indexes:
        requests = [encoding.set_group(index, DOOMED) for index in indexes]
        _tolerating_absence(socket, requests)
        requests = [encoding.delete_link(group=DOOMED)]
    else:
        return
    _tolerating_absence(socket, requests)


def _tolerating_absence(socket: Netlink, requests: Sequence[encoding.Request]) -> None:
    """The other end was faster, or the Pod."""
    try:
        socket.request(requests)
    except LinkError as exc:
        if exc.errno not in {errno.ENODEV, errno.ENOENT}:
            raise
