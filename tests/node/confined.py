"""A service's process as a container runtime confines it: some capabilities, no new ones, nothing writable but little.

`python -m tests.node.confined DIRECTORY CAPABILITIES MODULE`: the file system and /proc/sys are read-only but for
DIRECTORY and the settings of networks bound to DIRECTORY/sysctls, as a manifest mounts them; then MODULE runs.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services._node import cni, netns
from tests.manifests.manifests import pod_of, workload_of
from tests.node.sandboxes import Pod

ROOT = Path(__file__).parent.parent.parent
SYSCTLS = "sysctls"

_NEW_MOUNTS = 0x20000
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_LOCKED = 2 | 4 | 8 | 1024 | 2048  # flags that a user namespace may not take away
_DROP_FROM_BOUNDING, _NO_NEW_PRIVILEGES = 24, 38
# As linux/capability.h numbers them.
NUMBERS = {
    "NET_BIND_SERVICE": 10,
    "NET_BROADCAST": 11,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_PTRACE": 19,
    "SYS_ADMIN": 21,
}

_libc = netns._libc


def capabilities_of(service: str) -> list[str]:
    """What its manifest gives it."""
    (container,) = pod_of(workload_of(service))["containers"]
    added: list[str] = container["securityContext"]["capabilities"]["add"]
    return added


@contextmanager
def told_by_its_process(pod: Pod, results: Path) -> Iterator[Pod]:
    """A Pod whose network has no name but that of its process, as docker's shim tells of it."""
    enter: Any = lambda: subprocess.Popen(["sleep", "600"])  # noqa: E731
    process = netns.in_netns(pod.netns, enter)
    try:
        cni.write(results, msgspec.structs.replace(pod.result, netns=f"/proc/{process.pid}/ns/net"))
        yield pod
    finally:
        process.kill()
        process.wait()


@contextmanager
def running(
    module: str, directory: Path, capabilities: Collection[str], settings: Mapping[str, str]
) -> Iterator[Path]:
    """The service until the end of the block; the file that it logs to. Pods' networks must stand before."""
    ours = ("NSM_", "PLUMBER_", "DNS_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    (directory / SYSCTLS).mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.node.confined", str(directory)]
    log = directory / f"{module}.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [*command, ",".join(capabilities), module],
            cwd=ROOT,
            env={**environment, **settings, "NSM_LOG_FORMAT": "json"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            yield log
        except BaseException:
            sys.stdout.write(log.read_text()[-4000:])
            raise
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                pytest.fail(f"{module} does not end when told to: {log.read_text()[-2000:]}")


def main() -> None:
    directory, capabilities, module = sys.argv[1:]
    _confine(Path(directory), [name for name in capabilities.split(",") if name])
    os.execv(sys.executable, [sys.executable, "-m", module])


def _confine(directory: Path, capabilities: Collection[str]) -> None:
    _check(_libc.unshare(_NEW_MOUNTS))
    _mount("none", "/", _RECURSIVE | _PRIVATE)
    _mount(str(directory), str(directory), _BIND | _RECURSIVE)  # stays writable
    _mount("/proc/sys/net", str(directory / SYSCTLS), _BIND)
    _mount("/proc/sys", "/proc/sys", _BIND)
    for place in ("/proc/sys", "/"):
        _mount("none", place, _REMOUNT | _BIND | _READ_ONLY | (os.statvfs(place).f_flag & _LOCKED))
    kept = {NUMBERS[name] for name in capabilities}
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in set(range(last + 1)) - kept:
        _check(_libc.prctl(_DROP_FROM_BOUNDING, number, 0, 0, 0))
    _check(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))


def _mount(source: str, target: str, flags: int) -> None:
    where = (os.fsencode(source), os.fsencode(target))
    _check(_libc.mount(*where, None, ctypes.c_ulong(flags), None), target)


def _check(result: int, name: str = "") -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)


if __name__ == "__main__":
    main()
