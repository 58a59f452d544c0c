"""Everything of a lab lives below one process: when that dies, however it dies, the kernel ends the rest.

    launcher (outside)  ─▶  init (pid 1 of a new pid namespace, own mounts)  ─▶  daemon  ─▶  services, pods

The launcher unshares while it has one thread, forks init and waits. Init forks the daemon, reaps, and exits
with it; the death of init makes the kernel kill every process of the pid namespace, and with the last one
goes the mount namespace that alone held the network namespaces. The launcher's death kills init. All three
hold the lab's lock. The launcher lets go of it last, when it has seen the end of init and so of everything; if
the launcher itself was killed, the kernel may still be ending what was below init for a moment after the lock
is free. The network namespace stays the host's: the API server and NATS are reachable on the host's loopback,
rootless too.
"""

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from lab import linux
from lab.layout import Config, LabProblem, Layout
from lab.peers import Peers

REFUSED = 2  # exit code when this machine does not let us make namespaces

_SYSCTLS = (
    ("kernel/unprivileged_userns_clone", "0", "sudo sysctl -w kernel.unprivileged_userns_clone=1"),
    ("user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


class Reporter:
    """Lines of JSON to whoever started the lab: {"step": …}, {"ready": …} or {"error": …}."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def say(self, **fields: object) -> None:
        if self._fd < 0:
            return
        try:
            os.write(self._fd, json.dumps(fields).encode() + b"\n")
        except BrokenPipeError:
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Pids:
    """Host pids, told by each process to those it forks."""

    def __init__(self, launcher: int) -> None:
        self.launcher = launcher
        self.init = 0
        self.daemon = 0


# The lab's main process: its exit code.
Daemon = Callable[[Config, Reporter, Pids, Peers], int]


def closed_reason(root: Path = Path("/proc/sys")) -> str:
    """Why an ordinary user may not make namespaces here, and the remedy; from the settings known to close it."""
    for name, closed, remedy in _SYSCTLS:
        try:
            value = (root / name).read_text().strip()
        except OSError:
            continue
        if value == closed:
            return (
                f"{name.replace('/', '.')} is {closed}: user namespaces are closed on this machine; "
                f"open them with `{remedy}`, or run the lab as root"
            )
    return (
        "the kernel refuses user namespaces though no known setting closes them (a container's seccomp "
        "profile does that); run the lab as root, or the container with --security-opt seccomp=unconfined"
    )


def run(
    config: Config,
    *,
    report_fd: int,
    attached: bool,
    daemon: Daemon,
) -> int:
    """The launcher: make the lab's processes and wait for them. Must be called with a single thread.

    Attached, the lab also ends with whoever started it.
    """
    if attached:
        linux.die_with_parent(signal.SIGKILL)
    layout = Layout(Path(config.directory))
    report = Reporter(report_fd)
    if layout.take() is None:
        report.say(error=_running(layout), code=1)
        return 1
    layout.state.unlink(missing_ok=True)
    if layout.log("lab").exists():
        os.truncate(layout.log("lab"), 0)
    peers = Peers()
    try:
        _unshare()
    except LabProblem as exc:
        report.say(error=str(exc), code=REFUSED)
        return REFUSED
    pids = Pids(os.getpid())
    init = os.fork()
    if init == 0:
        _as_init(config, report, pids, lambda conf, say, who: daemon(conf, say, who, peers))
    report.close()
    code = _wait_for(init)
    layout.state.unlink(missing_ok=True)
    layout.control.unlink(missing_ok=True)
    return code


def _running(layout: Layout) -> str:
    try:
        pid = f" (pid {layout.read_state().daemon_pid})"
    except (LabProblem, OSError, ValueError):
        pid = ""
    return (
        f"a lab runs in {layout.root} already{pid}; end it with: nsm lab down, "
        "or set NSM_LAB_DIR to start another"
    )


def _unshare() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        if uid != 0:
            linux.unshare(linux.CLONE_NEWUSER)
            linux.map_to_root(uid, gid)
        linux.unshare(linux.CLONE_NEWPID)
    except OSError as exc:
        if uid != 0:
            raise LabProblem(f"{exc.strerror}; {closed_reason()}") from exc
        raise LabProblem(
            f"{exc.strerror}: root without CAP_SYS_ADMIN cannot make namespaces; in a container add "
            "--cap-add SYS_ADMIN --cap-add NET_ADMIN --security-opt seccomp=unconfined"
        ) from exc


def _as_init(
    config: Config, report: Reporter, pids: Pids, daemon: Callable[[Config, Reporter, Pids], int]
) -> NoReturn:
    code = 1
    try:
        linux.die_with_parent(signal.SIGKILL)
        # Through the outer /proc, while it is still mounted: our pid as the launcher's side sees it.
        pids.init = int(Path("/proc/self").readlink().name)
        linux.unshare(linux.CLONE_NEWNS)
        linux.keep_mounts_inside()
        child = os.fork()
        if child == 0:
            _as_daemon(config, report, pids, daemon)
        report.close()
        code = _wait_for(child)
    except BaseException as exc:  # noqa: BLE001 nothing may return into the launcher's code
        traceback.print_exc()
        report.say(error=f"the lab's init: {exc}", code=1)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _as_daemon(
    config: Config, report: Reporter, pids: Pids, daemon: Callable[[Config, Reporter, Pids], int]
) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        pids.daemon = int(Path("/proc/self").readlink().name)
        # A container may mask parts of /proc; /proc/self works through the outer one.
        with contextlib.suppress(OSError):
            linux.mount("proc", "/proc", "proc", linux.MS_NOSUID_NODEV_NOEXEC)
        code = daemon(config, report, pids)
    except BaseException as exc:  # noqa: BLE001 nothing may return into init's code
        traceback.print_exc()
        report.say(error=f"the lab: {exc}", code=1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait_for(child: int) -> int:
    """Reap until `child` ends; its exit code. TERM and INT are passed on to it as TERM."""

    def pass_on(_number: int, _frame: object) -> None:
        try:
            os.kill(child, signal.SIGTERM)
        except ProcessLookupError:
            pass

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, pass_on)
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
