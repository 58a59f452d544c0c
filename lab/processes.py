"""Child processes on the event loop, without a thread each: a pidfd tells when one ended."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


class Child:
    """A started process, leader of its own group. Make it on the loop that will wait for it."""

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self._popen = popen
        self._ended = asyncio.Event()
        self._pidfd = os.pidfd_open(popen.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end)

    @property
    def pid(self) -> int:
        """In the lab's pid namespace."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        return not self._ended.is_set()

    @property
    def stopped(self) -> bool:
        """By SIGSTOP or the like; asked without taking the word from whoever waits for it."""
        if not self.running:
            return False
        asked = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self._popen.pid, asked) is not None
        except ChildProcessError:
            return False  # ended, and `_on_end` has not run yet

    async def wait(self) -> int:
        """The exit code; a signal's number negative."""
        await self._ended.wait()
        code = self._popen.returncode
        assert code is not None
        return code

    def send(self, number: int) -> None:
        """A signal to the whole group; nothing when it is gone."""
        if self.running:  # later the number may be another group's
            self._send(number)

    def _send(self, number: int) -> None:
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            pass

    def _on_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._popen.wait()
        # What the leader left of its group would keep ports and files open.
        self._send(signal.SIGKILL)
        self._ended.set()


def popen(
    command: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str],
    directory: str | None = None,
) -> "subprocess.Popen[bytes]":
    """Start `command` in a session of its own, output appended to `log`; from any thread."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env),
            cwd=directory,
            start_new_session=True,
        )
