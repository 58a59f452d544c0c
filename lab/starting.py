"""Starting a lab from outside: a process of its own, watched through a pipe until it is ready or says why not."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from lab.layout import Config, LabProblem, Layout, State


class StartFailed(LabProblem):
    """The lab did not start. `code` is the exit code that fits."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class Started:
    """A lab whose launcher is our child."""

    def __init__(self, layout: Layout, launcher: "subprocess.Popen[bytes]") -> None:
        self.layout = layout
        self.launcher = launcher

    @property
    def state(self) -> State:
        return self.layout.read_state()


def start(config: Config, *, attached: bool) -> Started:
    """Start a lab and wait until it is ready. Raises LabProblem."""
    layout = Layout(Path(config.directory))
    layout.prepare()
    layout.logs.mkdir(exist_ok=True)
    reading, writing = os.pipe()
    try:
        with (layout.logs / "lab.log").open("ab") as log:
            launcher = subprocess.Popen(
                [
                    *(sys.executable, "-m", "lab"),
                    msgspec.json.encode(config).decode(),
                    str(writing),
                    "attached" if attached else "detached",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Not the caller's directory: whatever is called `lab` there would be run instead of us.
                cwd=Path(__file__).parent.parent,
                pass_fds=[writing],
                start_new_session=True,
            )
    finally:
        os.close(writing)
    try:
        _await_ready(reading, layout)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            launcher.kill()
        launcher.wait()
        raise
    return Started(layout, launcher)


def _await_ready(fd: int, layout: Layout) -> None:
    for line in _lines(fd):
        said = msgspec.json.decode(line)
        if "error" in said:
            raise StartFailed(said["error"], said.get("code", 1))
        if said.get("ready"):
            return
    raise StartFailed(f"the lab ended while it started; see {layout.logs / 'lab.log'}", 1)


def _lines(fd: int) -> Iterator[bytes]:
    with os.fdopen(fd, "rb") as file:
        yield from file
