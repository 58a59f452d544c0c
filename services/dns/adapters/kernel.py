"""The kernel of this node, seen through sockets opened in Pods' network namespaces.

A capture and its listeners pin the namespace they live in: whoever made them closes them when the Pod ends.
All work on captures runs in one worker thread, one after the other: none is closed while it is refreshed.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import msgspec

from services._node import iptables, links, netns
from services._node.cni import CniResult
from services.dns.adapters.capture import MARK, PORT, Capture, clear_leftover
from services.dns.adapters.errors import Conflict, Gone, Refused

CLUSTER = "cluster"

T = TypeVar("T")

_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EINVAL})


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A Pod's network: the file that names the namespace, and which one it is."""

    uid: str
    netns: str
    cookie: int
    interface: str = "eth0"  # of the CNI


class Kernel:
    """Finds Pods' networks and captures their port 53, never that of the process or of the node."""

    def __init__(self, node_netns: str = "", *, captured: Collection[int] = (PORT,)) -> None:
        self._node = node_netns or None
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
        return await self._work(lambda: _is_there(place))

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
        try:
            fd = netns.open_fd(result.netns)
        except OSError as exc:
            raise _unreachable(result.netns, exc) from exc
        except ValueError as exc:  # no path at all
            raise Gone(f"{result.netns!r}: {exc}") from exc
        try:
            netns.guard(fd, *([self._node] if self._node else []))
            with links.Netlink(fd) as netlink:
                _check_addresses(netlink, result)
                cookie = netlink.cookie
            if cookie not in self._captured:
                with contextlib.suppress(OSError):  # the next start tries again
                    clear_leftover(fd, self._ports)
            return Place(
                uid=result.uid, netns=result.netns, cookie=cookie, interface=result.interface
            )
        except netns.WrongNamespace as exc:
            raise Gone(f"{result.netns}: {exc}") from exc
        except OSError as exc:
            raise _unreachable(result.netns, exc) from exc
        finally:
            os.close(fd)

    def _capture(self, place: Place, port: int, families: Collection[int]) -> Capture:
        try:
            self._check_iptables(place)
            capture = Capture(place.netns, port, families=families, captured=self._ports)
        except OSError as exc:
            raise _unreachable(place.netns, exc) from exc
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
            raise _unreachable(place.netns, exc) from exc

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


def _check_addresses(netlink: links.Netlink, result: CniResult) -> None:
    """Raises Gone unless the network holds what the CNI gave to it."""
    if not result.ips:
        return
    found = netlink.dump(links.address(links.GETADDR, index=0))
    held = {each.get_attr(name) for each in found for name in ("IFA_LOCAL", "IFA_ADDRESS")}
    for address in result.ips:
        try:
            text = str(ipaddress.ip_address(address.partition("/")[0]))
        except ValueError as exc:
            raise Gone(f"{result.netns}: {address!r} of its CNI result is no address") from exc
        if text not in held:
            raise Gone(f"{result.netns} does not hold {address} of its CNI result")


def _unreachable(name: str, error: OSError) -> Gone | Refused:
    """No such file, or one that names no namespace: gone. Anything else (too many open files) tells nothing."""
    text = f"{name}: {error.strerror or error}"
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        text += "; raise the limit of open files of this process"
    return Gone(text) if error.errno in _NOT_THERE else Refused(text)


def _is_there(place: Place) -> bool:
    try:
        return netns.cookie(place.netns) == place.cookie
    except OSError as exc:
        return exc.errno not in _NOT_THERE
    except ValueError:
        return False
