"""`nsm` without its start-up: a process that has imported everything forks a child for each command.

A command's own start costs more than most commands do, and a story has a hundred of them. What is run is the same
`cli.main.main`, in a process of its own, with its own arguments, environment and exit code.
"""

import contextlib
import importlib
import json
import os
import pkgutil
import select
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent


class Quick:
    """Runs one command at a time."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.quick"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(
        self, words: Sequence[str], environment: Mapping[str, str], *, timeout: float
    ) -> tuple[int, str]:
        """Exit code and output. Raises TimeoutError; then the command was killed."""
        with self._turn, tempfile.NamedTemporaryFile() as output:
            request = {"words": words, "environment": dict(environment), "output": output.name}
            assert self._server.stdin is not None
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()
            pid = self._line(None)
            try:
                code = self._line(timeout)
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._line(None)
                raise
            return code, output.read().decode(errors="replace")

    def close(self) -> None:
        self._server.communicate()

    def _line(self, timeout: float | None) -> int:
        assert self._server.stdout is not None
        if not select.select([self._server.stdout], [], [], timeout)[0]:
            raise TimeoutError
        # One number at a time is written, and only when it is waited for: nothing stays in a buffer.
        return int(self._server.stdout.readline())


def main() -> None:
    for module in _commands():
        importlib.import_module(module)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _run(request)
        os.write(1, b"%d\n" % pid)
        _, status = os.waitpid(pid, 0)
        os.write(1, b"%d\n" % os.waitstatus_to_exitcode(status))


def _commands() -> list[str]:
    cli = importlib.import_module("cli")
    return [each.name for each in pkgutil.walk_packages(cli.__path__, "cli.")]


def _run(request: Any) -> None:
    code: Any = 70
    try:
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for given, taken in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(given, taken)
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.argv = ["nsm", *request["words"]]
        importlib.import_module("cli.main").main()
        code = 0
    except SystemExit as exc:
        code = exc.code
    except BaseException:  # noqa: BLE001 nothing may return into the server's code
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
