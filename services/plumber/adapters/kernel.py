"""The kernel of this node, seen through sockets opened in Pods' network namespaces.

Every operation may be repeated. What fails half-way is rolled back: a link of ours stands complete or not at
all. Descriptors live as long as the call that opened them. Calls block in worker threads; the threads
that enter a namespace are others, thrown away at once.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import msgspec

from schemas.grant import TUNNEL_PORT
from services._node import asking, encoding, links, netns, nft_tunnels, places, probe
from services._node.cni import CniResult
from services._node.nft import Nft
from services.plumber.adapters import reading, tables, writing
from services.plumber.adapters.errors import Gone, NameTaken, Refused
from services.plumber.adapters.inside import Inside
from services.plumber.adapters.reading import is_ours
from services.plumber.adapters.removals import Removals
from services.plumber.model import (
    Adjust,
    Create,
    End,
    Found,
    Operation,
    Pair,
    Place,
    Remove,
    Stray,
    Wiring,
)

__all__ = ["Gone", "Kernel", "NameTaken", "Refused"]

T = TypeVar("T")

_WORKERS = 4  # a removal sleeps 17 ms in the kernel; more only queue for the same lock
_CLOSERS = 16  # they only sleep (some 15 ms each, for RCU), and keep up with what all workers open


class Kernel:
    """Reads and changes links in Pods' namespaces, never those of the process or of the node."""

    def __init__(self, node_netns: str = "", *, sysctls: str = "/proc/sys/net") -> None:
        self._node = node_netns
        self._sysctls = sysctls
        self._removals = Removals(self._work, self._opened)
        self._can_tunnel: bool | None = None
        self._admitted: frozenset[str] | None = None  # None: nobody knows what stands
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="kernel")
        self._closers = ThreadPoolExecutor(_CLOSERS, thread_name_prefix="close")

    def close(self) -> None:
        """Wait for what is under way: half a change is worse than a late exit."""
        self._workers.shutdown(wait=True)
        self._closers.shutdown(wait=True)  # after those that give them something to do

    async def find_place(self, result: CniResult) -> Place:
        """The network that a CNI result names.

        Raises Gone if it is not there or not the Pod's, Refused if that cannot be told now.
        """
        return await self._work(lambda: places.find(result, node_netns=self._node))

    async def is_there(self, place: Place) -> bool:
        return await self._work(lambda: places.is_there(place))

    async def read(self, wiring: Wiring) -> Pair:
        """What stands of a connection where the wiring says. What cannot be reached does not stand."""
        return await self._work(lambda: self._read_pair(wiring))

    async def apply(self, operation: Operation) -> Pair:
        """Perform one operation; the ends it made. Raises NameTaken, Refused or Gone."""
        if isinstance(operation, Remove):
            await self._removals.remove(operation)
            return Pair()
        return await self._work(lambda: self._apply(operation))

    async def clear(self, wiring: Wiring) -> None:
        """Remove what is ours under the names of both ends, also what an interrupted creation left.

        Raises Refused.
        """
        await self._work(lambda: self._clear(wiring))

    async def find_strays(self, place: Place) -> list[Stray]:
        """Every link of ours in a Pod's network. Raises Refused or Gone."""
        return await self._work(lambda: self._find_strays(place))

    async def remove_stray(self, stray: Stray) -> None:
        """Remove a link of ours; one that is not there, or another's by now, is no error. Raises Refused."""
        await self._work(lambda: self._remove_stray(stray))

    async def open_asking(self, place: Place, version: int) -> socket.socket:
        """A socket that asks for other ends, in a Pod's network. Raises Refused or Gone."""
        return await self._work(lambda: self._open_asking(place, version))

    def close_later(self, opened: socket.socket) -> None:
        """Whoever closes a socket that hears packets sleeps; nobody waits for that."""
        self._closers.submit(opened.close)

    async def admit(self, peers: Collection[str]) -> None:
        """From now on the tunnel port of this node is for these nodes only. Raises Refused."""
        await self._work(lambda: self._admit(frozenset(peers)))

    async def read_node(self) -> reading.Node:
        """Facts of the node's own network."""
        return await self._work(self._read_node)

    async def _work(self, action: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._workers, action)
        return await future

    def _read_node(self) -> reading.Node:
        if self._can_tunnel is None:
            self._can_tunnel = _try_tunnel()
        mechanisms = ("veth", "vxlan") if self._can_tunnel else ("veth",)
        node = reading.read_node(self._node or None)
        return msgspec.structs.replace(node, mechanisms=mechanisms)

    def _read_pair(self, wiring: Wiring) -> Pair:
        return Pair(
            client=self._read_end(wiring, wiring.client, is_server=False),
            server=self._read_end(wiring, wiring.server, is_server=True),
        )

    def _read_end(self, wiring: Wiring, end: End | None, *, is_server: bool) -> Found | None:
        if end is None:
            return None
        try:
            with self._opened(end.place) as (_, socket):
                return reading.read_end(socket, end, (wiring.tag, is_server))
        except Gone:
            return None
        except OSError as exc:
            raise Refused(f"{end.interface}: {exc.strerror or exc}") from exc

    def _apply(self, operation: Create | Adjust) -> Pair:
        try:
            match operation:
                case Create():
                    return self._create(operation.wiring)
                case Adjust():
                    with (
                        Inside(self._sysctls) as inside,
                        self._opened(operation.end.place, inside.open) as (_, socket),
                    ):
                        writing.adjust(operation, inside, socket)
        except links.LinkError as exc:
            raise Refused(exc.strerror or str(exc)) from exc
        except OSError as exc:
            raise Refused(f"{exc.strerror or exc} ({exc.filename or 'no file'})") from exc
        return Pair()

    def _create(self, wiring: Wiring) -> Pair:
        with contextlib.ExitStack() as stack:
            sides: list[writing.Side] = []
            probes: list[socket.socket] = []
            stack.callback(self._closers.submit, probe.close, probes)
            for end in wiring.ends:
                probing = probes if wiring.tunnel is None else None
                inside = stack.enter_context(Inside(self._sysctls, probes=probing))
                fd, opened = stack.enter_context(self._opened(end.place, inside.open))
                sides.append(writing.Side(end, fd, opened, inside))
            node = stack.enter_context(links.Netlink(self._node or None)) if wiring.tunnel else None
            return writing.create(wiring, sides, node)

    def _remove_stray(self, stray: Stray) -> None:
        try:
            with self._opened(stray.place) as (_, socket):
                standing = socket.look_up(name=stray.interface)
                is_named = standing is not None and bool(standing.alias)
                if standing is None or not is_named or not is_ours(standing, stray.connection):
                    return
                socket.request([encoding.delete_link(standing.index)])
                tables.tidy(socket)
        except Gone:
            return
        except OSError as exc:
            if exc.errno != errno.ENODEV:  # the peer's end was faster
                raise Refused(f"{stray.interface}: {exc.strerror or exc}") from exc

    def _clear(self, wiring: Wiring) -> None:
        for end in wiring.ends:
            try:
                with self._opened(end.place) as (_, socket):
                    writing.clear(socket, end, wiring.tag)
                    if end == wiring.client:
                        tables.tidy(socket)
            except Gone:
                continue
            except OSError as exc:
                raise Refused(f"{end.interface}: {exc.strerror or exc}") from exc

    def _find_strays(self, place: Place) -> list[Stray]:
        with self._opened(place) as (_, socket):
            try:
                return reading.strays(socket, place)
            except OSError as exc:
                raise Refused(f"{place.netns}: {exc.strerror or exc}") from exc

    def _open_asking(self, place: Place, version: int) -> socket.socket:
        with self._opened(place) as (fd, _):
            try:
                return asking.open_socket(fd, version=version)
            except OSError as exc:
                raise Refused(f"{place.netns}: {exc.strerror or exc}") from exc

    def _admit(self, peers: frozenset[str]) -> None:
        try:
            opened = Nft(self._node or None)
            try:
                if peers == self._admitted and (not peers or nft_tunnels.stands(opened)):
                    return
                nft_tunnels.admit(opened, peers, port=TUNNEL_PORT)
            finally:
                # After a change the kernel cleans up before the socket is closed: 10 ms without any use to us.
                self._closers.submit(opened.close)
        except OSError as exc:
            raise Refused(f"guard of the tunnel port: {exc.strerror or exc}") from exc
        self._admitted = peers

    def _opened(
        self, place: Place, also: Callable[[], None] | None = None
    ) -> contextlib.AbstractContextManager[tuple[int, links.Netlink]]:
        """Descriptor and netlink socket of a Pod's namespace. Raises Gone; Refused if it cannot be told."""
        return places.opened(place, node_netns=self._node, also=also)


def _try_tunnel() -> bool:
    """Whether this kernel has tunnels, and the filter that guards them: tried in a network that ends with it."""

    def attempt() -> None:
        with links.Netlink() as socket, Nft() as opened:
            nft_tunnels.admit(opened, ["192.0.2.1", "2001:db8::1"], port=TUNNEL_PORT)
            born = encoding.Identity("probe", "02:00:00:00:00:01", 1400, reading.GROUP)
            to = encoding.Path(1, "192.0.2.1", "192.0.2.2", TUNNEL_PORT)
            fd = netns.open_fd(netns.OWN)
            try:
                socket.request([encoding.vxlan(born, to, netns=fd)])
            finally:
                os.close(fd)

    try:
        netns.in_new_netns(attempt)
    except OSError:
        return False
    return True
