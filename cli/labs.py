"""The lab a command is about, and the way into it from outside: its state, its Pods' networks."""

import os
import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from cli.problems import Problem
from lab import control, linux
from lab.layout import LabProblem, Layout, State, default_directory

_BROKEN_PIPE = 128 + signal.SIGPIPE
_PASSED_ON = (
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGINT,
    signal.SIGQUIT,
)


def layout() -> Layout:
    return Layout(default_directory())


def running() -> tuple[Layout, State]:
    """The lab that runs here. Raises Problem."""
    here = layout()
    try:
        return here, here.read_state()
    except LabProblem as exc:
        raise Problem(str(exc)) from exc


def is_bus_of_lab(server: str) -> bool:
    """Whether this NATS server is that of the lab that runs here."""
    try:
        return running()[1].nats_url == server
    except Problem:
        return False


def ask(method: str, path: str, **query: str) -> object:
    """A verb of the lab's control socket. Raises Problem."""
    try:
        return control.call(layout(), method, path, **query)
    except LabProblem as exc:
        raise Problem(str(exc)) from exc


def processes() -> list[Any]:
    """The lab's processes, as its supervisor has them. Raises Problem."""
    found: Any = ask("GET", "/processes")
    return list(found)


def duration_seconds(text: str) -> float:
    """`30`, `30s`, `500ms`, `1m30s` in seconds. Raises Problem."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise Problem(f"duration {text!r}: write it as 30s, 500ms or 1m30s", exit_code=2)
    return sum(float(number) * units[unit] for number, unit in parts)


class Inside:
    """A Pod of a running lab, seen from inside its namespaces."""

    def __init__(self, namespace: str, pod: str) -> None:
        self.layout, self.state = running()
        self.pod = pod
        self.namespace = namespace
        link = self.layout.pod_link(namespace, pod)
        try:
            # The Pod that bears the name now: another one may while we look.
            self._directory = self.layout.pod_dir(link.readlink().name)
        except (OSError, ValueError) as exc:
            raise Problem(
                f"pod {namespace}/{pod} has no network in the lab; "
                f"see: nsm lab get pods -n {namespace}"
            ) from exc

    def enter(self, *, processes: bool = False) -> None:
        """Join the lab's namespaces, then the Pod's network; only in a process with one thread.

        With `processes` the *children* of this process live in the lab and die with it. Raises Problem.
        """
        try:
            self._enter(processes=processes)
        except OSError as exc:
            raise Problem(
                f"pod {self.namespace}/{self.pod}: its namespaces cannot be entered: {exc}; "
                f"is it there still? see: nsm lab get pods -n {self.namespace}"
            ) from exc

    def _enter(self, *, processes: bool) -> None:
        kinds = ["user", "mnt", *(["pid"] if processes else [])]
        base = Path("/proc") / str(self.state.daemon_pid) / "ns"
        here = Path.cwd()
        descriptors = []
        for kind in kinds:
            fd = os.open(base / kind, os.O_RDONLY | os.O_CLOEXEC)
            own = os.stat(f"/proc/self/ns/{kind}")  # noqa: PTH116
            if os.fstat(fd).st_ino == own.st_ino:
                os.close(fd)  # ours already: an ordinary root lab shares the user namespace
            else:
                descriptors.append(fd)
        for fd in descriptors:
            linux.setns(fd)
            os.close(fd)
        fd = os.open(self._directory / "netns", os.O_RDONLY | os.O_CLOEXEC)
        linux.setns(fd, linux.CLONE_NEWNET)
        os.close(fd)
        try:
            os.chdir(here)  # a change of mounts leads to the root directory
        except OSError:
            os.chdir("/")

    @property
    def resolv_conf(self) -> Path:
        return self._directory / "resolv.conf"


def in_child(action: Callable[[], int]) -> int:
    """The exit code of `action` in a forked child: namespaces are entered there, not here."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        linux.die_with_parent(signal.SIGKILL)
        _run_and_exit(action)
    return wait_passing_signals(child)


def wait_passing_signals(child: int) -> int:
    """The exit code of a child that takes our place: what is sent to us is meant for it."""

    def pass_on(number: int, _frame: FrameType | None) -> None:
        # A terminal sends Ctrl-C to both of us.
        if number in (signal.SIGINT, signal.SIGQUIT) and sys.stdin.isatty():
            return
        try:
            os.kill(child, number)
        except ProcessLookupError:
            pass

    for number in _PASSED_ON:
        signal.signal(number, pass_on)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _run_and_exit(action: Callable[[], int]) -> NoReturn:
    code = 70
    try:
        code = action()
    except Problem as problem:
        print(f"nsm: {problem}", file=sys.stderr)
        code = problem.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = _BROKEN_PIPE
    except BaseException:  # noqa: BLE001 nothing may return into the parent's code
        traceback.print_exc()
    finally:
        os._exit(_flushed(code))


def _flushed(code: int) -> int:
    """The exit code after what was printed is out, or could not get out."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            code = _BROKEN_PIPE
        except (OSError, ValueError):
            code = code or 1  # a full disk, a closed file
    return code
