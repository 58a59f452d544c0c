"""`nsm lab down`: nothing of the lab is left when it returns."""

import os
import signal

from cli import labs
from cli.problems import Problem
from lab.layout import LabProblem, Layout, State

_ORDERLY_SECONDS = 5.0
_FORCED_SECONDS = 10.0


def down() -> None:
    """End the lab of this directory: processes, network namespaces, ports."""
    here = labs.layout()
    try:
        state = here.read_state()
    except LabProblem as exc:
        raise Problem(str(exc)) from exc
    end(here, state)
    print(f"the lab in {here.root} is down; its logs stay in {here.logs}")


def end(here: Layout, state: State) -> None:
    """TERM to the daemon, then KILL to init. The lock proves that the pids are still theirs."""
    _send(state.launcher_pid, signal.SIGTERM)
    if here.wait_unlocked(_ORDERLY_SECONDS):
        return
    _send(state.init_pid, signal.SIGKILL)
    if not here.wait_unlocked(_FORCED_SECONDS):
        raise Problem(f"the lab in {here.root} does not end: kill -9 {state.launcher_pid}")


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError as exc:
        raise Problem(f"the lab's process {pid} belongs to another user") from exc
