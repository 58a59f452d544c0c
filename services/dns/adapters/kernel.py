"""The kernel of this node, seen through sockets opened in Pods' network namespaces.

A capture and its listeners pin the namespace they live in: whoever made them closes them when the Pod ends.
All work on captures runs in one worker thread, one after the other: none is closed while it is refreshed.
"""

import asyncio
import contextlib
import errno
import socket
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from services._node import iptables, netns, places
from services._node.cni import CniResult
from services._node.places import Place, unreachable
from services.dns.adapters.capture import MARK, PORT, Capture, clear_leftover
from services.dns.adapters.errors import Conflict, Gone, Refused

CLUSTER = "cluster"

T = TypeVar("T")


class Kernel:
    """Finds Pods' networks and captures their port 53, never that of the process or of the node."""

    def __init__(self, node_netns: str = "", *, captured: Collection[int] = (PORT,)) -> None:
        self._node = node_netns
        self._ports = tuple(captured)
        self._captured: set[int] = set()  # cookies; of the worker only
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="kernel")

    def close(self) -> None:
        """Wait for what is under way."""
        self._worker.shutdown(wait=True)

    async def find_place(self, result: CniResult) -> Place:
        """The network that a CNI result names. What a former process left in it is removed.

        Raises Gone if it is not there or not the Pod's, Refused if that cannot be told now.
        """
        return await self._work(lambda: self._find_place(result))

    async def is_there(self, place: Place) -> bool:
        return await self._work(lambda: places.is_there(place))

    async def capture(
        self,
        place: Place,
        port: int,
        *,
        families: Collection[int] = (socket.AF_INET, socket.AF_INET6),
    ) -> Capture:
        """Queries of the Pod go to the port from now on, those of `families`.

        Raises Conflict, Refused or Gone.
        """
        job = self._worker.submit(lambda: self._capture(place, port, families))
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            job.add_done_callback(_discard)  # nobody else knows of it
            raise

    async def check(self, place: Place, capture: Capture) -> None:
        """Raises Conflict if somebody else redirects the port by now; Refused if it cannot be told."""
        await self._work(lambda: self._check(place, capture))

    async def refresh(self, captures: Collection[Capture]) -> list[Capture]:
        """Keep them alive for the next seconds; those that are none any more."""
        return await self._work(lambda: [c for c in captures if not _refreshed(c)])

    async def stop(self, captures: Collection[Capture]) -> None:
        """Nothing new is captured by them; what was gets its answers."""
        await self._work(lambda: _stop(captures))

    async def release(self, capture: Capture) -> None:
        await self._work(lambda: self._release(capture))

    def open_socket(self, place: Place, family: int, kind: int, *, upstream: str) -> socket.socket:
        """A socket in the Pod: a listener, or one that asks over an interface and escapes our capture.

        `upstream` is empty, an interface, or `cluster`. Raises OSError; takes some 0.1 ms.
        """
        made = netns.open_socket(place.netns, family, kind | socket.SOCK_NONBLOCK)
        try:
            if netns.cookie_of(made) != place.cookie:
                raise OSError(errno.ENOENT, "another network namespace by now", place.netns)
            if upstream:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
                _bind(made, place, upstream)
        except BaseException:
            made.close()
            raise
        return made

    async def _work(self, action: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._worker, action)

    def _find_place(self, result: CniResult) -> Place:
        place = places.find(result, node_netns=self._node)
        if place.cookie not in self._captured:
            # the next start tries again
            with (
                contextlib.suppress(Gone, Refused, OSError),
                places.opened(place, node_netns=self._node) as (fd, _),
            ):
                clear_leftover(fd, self._ports)
        return place

    def _capture(self, place: Place, port: int, families: Collection[int]) -> Capture:
        try:
            self._check_iptables(place)
            capture = Capture(place.netns, port, families=families, captured=self._ports)
        except OSError as exc:
            raise unreachable(place.netns, exc) from exc
        if capture.cookie != place.cookie:
            capture.close()
            raise Gone(f"{place.netns} is another network namespace by now")
        self._captured.add(place.cookie)
        return capture

    def _check(self, place: Place, capture: Capture) -> None:
        capture.check()
        try:
            self._check_iptables(place)
        except OSError as exc:
            raise unreachable(place.netns, exc) from exc

    def _check_iptables(self, place: Place) -> None:
        for port in self._ports:
            if found := iptables.find_redirect(place.netns, port=port):
                raise Conflict(
                    f"{found} redirects port {port} already; remove it, or opt the Pod out of DNS capture"
                )

    def _release(self, capture: Capture) -> None:
        with contextlib.suppress(OSError):  # closed before
            self._captured.discard(capture.cookie)
        capture.close()


def _bind(made: socket.socket, place: Place, upstream: str) -> None:
    """Over that interface only: a service's route could cover the cluster's servers, or another's."""
    name = place.interface if upstream == CLUSTER else upstream
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
    except OSError as exc:
        if upstream != CLUSTER or exc.errno != errno.ENODEV:
            raise
        # A CNI that names its interface otherwise inside: by routing is better than not at all.


def _discard(job: "Future[Capture]") -> None:
    if not job.cancelled() and job.exception() is None:
        job.result().close()


def _stop(captures: Collection[Capture]) -> None:
    for capture in captures:
        with contextlib.suppress(Refused, OSError):  # it captures nothing any more, then
            capture.stop()


def _refreshed(capture: Capture) -> bool:
    try:
        capture.refresh()
    except (Refused, OSError):
        return False
    return True
