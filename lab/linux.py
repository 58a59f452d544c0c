"""The few Linux calls that Python 3.11 has no function for. Errors are OSError with what was tried."""

import ctypes
import os
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 1 << 19
MS_NOSUID_NODEV_NOEXEC = 2 | 4 | 8

_PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces of `flags` for new ones (this thread; a new user namespace needs the only one)."""
    _check(_libc.unshare(flags), f"unshare({flags:#x})")


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespace that `fd` names (this thread)."""
    _check(_libc.setns(fd, flags), f"setns({flags:#x})")


def mount(source: str, target: str | Path, kind: str = "", flags: int = 0) -> None:
    _check(
        _libc.mount(
            source.encode(), os.fsencode(target), kind.encode() or None, ctypes.c_ulong(flags), None
        ),
        f"mount {source or 'none'} on {target}",
    )


def bind(source: str | Path, target: str | Path) -> None:
    """Show the file `source` at the place of the file `target`."""
    mount(os.fspath(source), target, flags=MS_BIND)


def keep_mounts_inside() -> None:
    """Nothing mounted from here on is seen outside this mount namespace.

    What is unmounted outside goes here too: a lab must not keep a disk of the machine busy.
    """
    mount("none", "/", flags=MS_REC | MS_SLAVE)


def die_with_parent(number: int) -> None:
    """Get signal `number` when the thread that forked us ends."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def set_hostname(name: str) -> None:
    raw = name.encode()[:64]
    _check(_libc.sethostname(raw, len(raw)), f"sethostname({name})")


def map_to_root(uid: int, gid: int) -> None:
    """In a user namespace just made: the caller is root there, and only itself is known."""
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"0 {uid} 1")
    (own / "gid_map").write_text(f"0 {gid} 1")
