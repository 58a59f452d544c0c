"""Network namespaces: made, entered, told apart, removed.

A thread that entered a namespace may be unable to return (in a user namespace it always is), so an entry costs
a fresh thread that dies with its work: some 60 µs, on a busy machine ten times that. Where a worker thread may
return, it visits the namespace itself. What was opened there stays usable anywhere: a socket belongs for ever to the
namespace it was opened in.
"""

import contextlib
import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Target = str | os.PathLike[str] | int  # a file naming a namespace, or a descriptor of one

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
_SO_NETNS_COOKIE = 71
OWN = "/proc/thread-self/ns/net"  # of the calling thread
_PROCESS = "/proc/self/ns/net"  # the main thread's: where the process lives

_libc = ctypes.CDLL(None, use_errno=True)


class Identity(NamedTuple):
    """Which namespace it is, as far as the file system knows. Reused after its end: see `cookie`."""

    device: int
    inode: int


class WrongNamespace(RuntimeError):
    """An action meant for a Pod's namespace would have hit the one of the process or of its node."""


def create(path: str | os.PathLike[str]) -> None:
    """A new namespace, kept alive by a bind mount on the file `path`. Raises FileExistsError.

    Loopback is left down, as the kernel makes it.
    """
    place = os.fspath(path)
    os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        _in_thread(lambda: _unshare_onto(place))
    except BaseException:
        Path(place).unlink()
        raise


def delete(path: str | os.PathLike[str]) -> None:
    """Let go of the namespace bound to `path`; it ends with its last process and descriptor.

    A path that is not there is no error.
    """
    place = os.fspath(path)
    if _libc.umount2(os.fsencode(place), _MNT_DETACH) != 0:
        code = ctypes.get_errno()
        # A plain file that a crash left between create's two steps: EINVAL, or EPERM for who may mount nothing
        # and so mounted nothing there.
        if code not in {errno.ENOENT, errno.EINVAL, errno.EPERM}:
            raise OSError(code, f"unmount: {os.strerror(code)}", place)
    Path(place).unlink(missing_ok=True)


def in_netns(target: Target, action: Callable[[], T]) -> T:
    """What `action` returns, or raises, in a throw-away thread inside the namespace."""
    fd = open_fd(target)
    try:
        return _in_thread(lambda: _entered(fd, target, action))
    finally:
        os.close(fd)


def visit(target: Target, action: Callable[[], T]) -> T:
    """What `action` returns, or raises, inside the namespace; it must leave the thread as it was, so start nothing.

    A worker thread goes there and comes back if it may; never the main one, whose namespace is the process's.
    """
    if threading.current_thread() is threading.main_thread():
        return in_netns(target, action)
    home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # It changes nothing, but tells whether we could return.
        if _libc.setns(home, _CLONE_NEWNET) != 0:
            return in_netns(target, action)
        fd = target if isinstance(target, int) else open_fd(target)
        try:
            _check(_libc.setns(fd, _CLONE_NEWNET), "setns", str(target))
            return action()
        finally:
            if fd != target:
                os.close(fd)
            if _libc.setns(home, _CLONE_NEWNET) != 0:
                os.abort()  # out of memory: a lost thread would take this network for the process's
    finally:
        os.close(home)


def in_new_netns(action: Callable[[], T]) -> T:
    """What `action` returns, in a throw-away thread inside a new namespace without a name.

    The namespace lives as long as what was opened in it.
    """

    def enter() -> T:
        _check(_libc.unshare(_CLONE_NEWNET), "unshare", "a new network namespace")
        return action()

    return _in_thread(enter)


def open_fd(target: Target) -> int:
    """A descriptor of the namespace, close-on-exec, the caller's to close."""
    if isinstance(target, int):
        return os.dup(target)
    return os.open(target, os.O_RDONLY | os.O_CLOEXEC)


def open_socket(target: Target | None, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that lives in the namespace (None: where the process lives)."""

    def make() -> socket.socket:
        return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)

    return make() if target is None else visit(target, make)


def cookie(target: Target) -> int:
    """A number that no other namespace of this boot has or will have."""
    with open_socket(target, socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        return cookie_of(probe)


def cookie_of(opened: socket.socket) -> int:
    """The cookie of the namespace that a socket lives in."""
    raw = opened.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int(struct.unpack("=Q", raw)[0])


def identity(target: Target) -> Identity:
    """Device and inode: enough to tell namespaces that live at the same time apart."""
    found = os.fstat(target) if isinstance(target, int) else os.stat(target)  # noqa: PTH116
    return Identity(found.st_dev, found.st_ino)


def own() -> Identity:
    """The namespace the process lives in."""
    return identity(_PROCESS)


def guard(target: Target, *forbidden: Target) -> Identity:
    """The identity of `target`. Raises WrongNamespace if it is the process's own or a forbidden one."""
    found = identity(target)
    if found == own():
        raise WrongNamespace(f"{target} is the network namespace of this process, not of a Pod")
    for other in forbidden:
        if found == identity(other):
            raise WrongNamespace(f"{target} is the network namespace {other}, not of a Pod")
    return found


def write_sysctls(
    target: Target, values: Mapping[str, str], *, where_known: Mapping[str, str] | None = None
) -> None:
    """Write `{"ipv4/conf/eth0/rp_filter": "2"}` below /proc/sys/net of the namespace.

    Those of `where_known` are passed over where the kernel has no such setting. Raises WrongNamespace rather
    than touch the namespace the process lives in.
    """
    home = own()

    def write() -> None:
        if identity(OWN) == home:
            raise WrongNamespace("sysctl writes are for Pods' network namespaces only")
        for key, value in values.items():
            Path("/proc/sys/net", key).write_text(value)
        for key, value in (where_known or {}).items():
            with contextlib.suppress(FileNotFoundError):
                Path("/proc/sys/net", key).write_text(value)

    visit(target, write)


def _unshare_onto(place: str) -> None:
    _check(_libc.unshare(_CLONE_NEWNET), "unshare", place)
    _check(
        _libc.mount(OWN.encode(), os.fsencode(place), b"none", ctypes.c_ulong(_MS_BIND), None),
        "bind mount",
        place,
    )


def _entered(fd: int, target: Target, action: Callable[[], T]) -> T:
    # where the process lives already, an ordinary user may not enter
    if identity(fd) != identity(OWN):
        _check(_libc.setns(fd, _CLONE_NEWNET), "setns", str(target))
    return action()


def _in_thread(action: Callable[[], T]) -> T:
    outcome: list[tuple[Any, BaseException | None]] = []

    def body() -> None:
        try:
            outcome.append((action(), None))
        except BaseException as exc:  # noqa: BLE001 the caller's thread raises it
            outcome.append((None, exc))

    thread = threading.Thread(target=body, name="netns", daemon=True)
    try:
        thread.start()
    except RuntimeError as exc:
        raise OSError(errno.EAGAIN, f"no thread for the namespace: {exc}") from exc
    thread.join()
    result, error = outcome.pop()
    if error is not None:
        try:
            raise error
        finally:
            del error  # a frame that holds its own exception is a cycle: descriptors would linger
    return result  # type: ignore[no-any-return]


def _check(result: int, what: str, name: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}", name)
