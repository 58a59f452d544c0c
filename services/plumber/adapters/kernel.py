"""The kernel of this node, seen through sockets opened in Pods' network namespaces.

Every operation may be repeated. What fails half-way is rolled back: a link of ours stands complete or not at
all. Descriptors live as long as the call that opened them. Calls block in worker threads; the threads
that enter a namespace are others, thrown away at once.
"""

import asyncio
import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from services._node import links, netns
from services._node.cni import CniResult
from services.plumber.adapters import reading, writing
from services.plumber.adapters.errors import Gone, NameTaken, Refused
from services.plumber.model import (
    Adjust,
    Create,
    Found,
    Operation,
    Pair,
    Place,
    Remove,
    Stray,
    Wiring,
    parse_alias,
)

__all__ = ["Gone", "Kernel", "NameTaken", "Refused"]

T = TypeVar("T")

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EINVAL})
_WORKERS = 4  # a removal sleeps 17 ms in the kernel; more only queue for the same lock


class Kernel:
    """Reads and changes links in Pods' namespaces, never those of the process or of the node."""

    def __init__(self, node_netns: str = "") -> None:
        self._node = node_netns or None
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="kernel")

    def close(self) -> None:
        """Wait for what is under way: half a change is worse than a late exit."""
        self._workers.shutdown(wait=True)

    async def find_place(self, result: CniResult) -> Place:
        """The network that a CNI result names.

        Raises Gone if it is not there or not the Pod's, Refused if that cannot be told now.
        """
        return await self._work(lambda: self._find_place(result))

    async def is_there(self, place: Place) -> bool:
        return await self._work(lambda: _is_there(place))

    async def read(self, wiring: Wiring) -> Pair:
        """What stands of a connection where the wiring says. What cannot be reached does not stand."""
        return await self._work(lambda: self._read_pair(wiring))

    async def apply(self, operation: Operation) -> Pair:
        """Perform one operation; the ends it made. Raises NameTaken, Refused or Gone."""
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
        await self._work(
            lambda: self._remove(stray.place, stray.interface, stray.connection, group=True)
        )

    async def read_node(self) -> reading.Node:
        """Facts of the node's own network."""
        return await self._work(lambda: reading.read_node(self._node))

    async def _work(self, action: Callable[[], T]) -> T:
        future = asyncio.get_running_loop().run_in_executor(self._workers, action)
        return await future

    def _find_place(self, result: CniResult) -> Place:
        place = Place(uid=result.uid, netns=result.netns, cookie=0)
        with self._opened(place) as (_, socket):
            try:
                held = reading.held_addresses(socket) if result.ips else set()
            except OSError as exc:
                raise Refused(f"{result.netns}: {exc.strerror or exc}") from exc
            for address in result.ips:
                if not _is_held(address, held):
                    raise Gone(f"{result.netns} does not hold {address} of its CNI result")
            return Place(uid=result.uid, netns=result.netns, cookie=socket.cookie)

    def _read_pair(self, wiring: Wiring) -> Pair:
        ends: list[Found | None] = []
        for end, is_server in ((wiring.client, False), (wiring.server, True)):
            try:
                with self._opened(end.place) as (_, socket):
                    ends.append(reading.read_end(socket, end, (wiring.tag, is_server)))
            except Gone:
                ends.append(None)
            except OSError as exc:
                raise Refused(f"{end.interface}: {exc.strerror or exc}") from exc
        return Pair(client=ends[0], server=ends[1])

    def _apply(self, operation: Operation) -> Pair:
        try:
            match operation:
                case Create():
                    return self._create(operation.wiring)
                case Adjust():
                    with self._opened(operation.end.place) as (fd, socket):
                        writing.adjust(operation, fd, socket)
                case Remove():
                    for end in operation.ends:
                        self._remove(end.place, end.interface, operation.connection)
        except links.LinkError as exc:
            raise Refused(exc.strerror or str(exc)) from exc
        except OSError as exc:
            raise Refused(f"{exc.strerror or exc} ({exc.filename or 'no file'})") from exc
        return Pair()

    def _create(self, wiring: Wiring) -> Pair:
        with (
            self._opened(wiring.client.place) as (client_fd, client),
            self._opened(wiring.server.place) as (server_fd, server),
        ):
            return writing.create(wiring, (client_fd, server_fd), (client, server))

    def _remove(
        self, place: Place, interface: str, connection: str, *, group: bool = False
    ) -> None:
        """`group`: only with our group, too."""
        try:
            with self._opened(place) as (_, socket):
                standing = socket.find_link(interface)
                if standing is None or not _is_of(standing.get_attr("IFLA_IFALIAS"), connection):
                    return
                if group and standing.get_attr("IFLA_GROUP") != writing.GROUP:
                    return
                socket.request([links.link(links.DELLINK, index=standing["index"])])
        except Gone:
            return
        except OSError as exc:
            if exc.errno != errno.ENODEV:  # the peer's end was faster
                raise Refused(f"{interface}: {exc.strerror or exc}") from exc

    def _clear(self, wiring: Wiring) -> None:
        for end in (wiring.client, wiring.server):
            try:
                with self._opened(end.place) as (_, socket):
                    writing.clear(socket, end, wiring.tag)
            except Gone:
                continue
            except OSError as exc:
                raise Refused(f"{end.interface}: {exc.strerror or exc}") from exc

    def _find_strays(self, place: Place) -> list[Stray]:
        with self._opened(place) as (_, socket):
            try:
                return reading.strays(socket, place, writing.GROUP)
            except OSError as exc:
                raise Refused(f"{place.netns}: {exc.strerror or exc}") from exc

    def _forbidden(self) -> list[str]:
        """The node's namespace, if it is not our own. Raises Refused if it cannot be told apart."""
        if self._node is None:
            return []
        try:
            netns.identity(self._node)
        except OSError as exc:
            raise Refused(f"network namespace of the node: {self._node}: {exc.strerror}") from exc
        return [self._node]

    @contextlib.contextmanager
    def _opened(self, place: Place) -> Iterator[tuple[int, links.Netlink]]:
        """Descriptor and netlink socket of a Pod's namespace. Raises Gone; Refused if it cannot be told."""
        try:
            fd = netns.open_fd(place.netns)
        except OSError as exc:
            raise _unreachable(place, exc) from exc
        except ValueError as exc:  # no path at all
            raise Gone(f"{place.netns!r}: {exc}") from exc
        try:
            forbidden = self._forbidden()
            try:
                netns.guard(fd, *forbidden)
                socket = links.Netlink(fd)
            except netns.WrongNamespace as exc:
                raise Gone(f"{place.netns}: {exc}") from exc
            except OSError as exc:
                raise _unreachable(place, exc) from exc
            with socket:
                if place.cookie not in {0, socket.cookie}:
                    raise Gone(f"{place.netns} is another network namespace by now")
                yield fd, socket
        finally:
            os.close(fd)


def _unreachable(place: Place, error: OSError) -> Gone | Refused:
    """No such file, or one that names no namespace: gone. Anything else (too many open files) tells nothing."""
    text = f"{place.netns}: {error.strerror}"
    return Gone(text) if error.errno in _NOT_THERE else Refused(text)


def _is_there(place: Place) -> bool:
    try:
        return netns.cookie(place.netns) == place.cookie
    except OSError as exc:
        return exc.errno not in _NOT_THERE
    except ValueError:
        return False


def _is_held(address: str, held: set[str]) -> bool:
    try:
        return reading.canonical(address.partition("/")[0]) in held
    except ValueError:
        return False


def _is_of(alias: str | None, connection: str) -> bool:
    found = parse_alias(alias)
    return found is not None and found.tag == connection
