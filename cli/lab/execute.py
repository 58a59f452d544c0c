"""`nsm lab exec`: a command of this machine in a Pod's network, with the Pod's resolv.conf and host name."""

import os
import shutil
import signal
import sys
from typing import Annotated, NoReturn

import typer

from cli import labs, pods
from cli.problems import Problem
from lab import entering, linux

NOT_FOUND = 127
NOT_EXECUTABLE = 126


def execute(
    pod: Annotated[
        str, typer.Argument(metavar=pods.METAVAR, help="Where to run it.", show_default=False)
    ],
    command: Annotated[
        list[str], typer.Argument(help="-- and what to run there.", show_default=False)
    ],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="The Pod's namespace.")
    ] = "default",
) -> None:
    """Run a command in a Pod's network. Its exit code is ours."""
    words = command[1:] if command[:1] == ["--"] else command
    if not words:
        raise Problem("no command to run; write: nsm lab exec POD -- CMD…", exit_code=2)
    sys.exit(run(labs.Inside(*pods.place_of(pod, namespace)), words))


def run(inside: labs.Inside, words: list[str]) -> int:
    """The exit code of `words` in the Pod; signals are passed on, a terminal is shared."""
    sys.stdout.flush()
    sys.stderr.flush()
    inside.enter(processes=True)
    try:
        child = os.fork()
    except OSError as exc:  # the pid namespace we entered ended
        raise Problem(f"the lab in {inside.layout.root} ends: {exc}") from exc
    if child == 0:
        _become_command(inside, words)
    return labs.wait_passing_signals(child)


def _become_command(inside: labs.Inside, words: list[str]) -> NoReturn:
    code = NOT_EXECUTABLE
    try:
        linux.die_with_parent(signal.SIGKILL)
        warning = entering.become(hostname=inside.pod, resolv_conf=inside.resolv_conf)
        if warning:
            print(f"nsm: {warning}", file=sys.stderr)
        os.environ["HOSTNAME"] = inside.pod
        os.environ["PATH"] = entering.search_path()
        # Python ignores these, and what is ignored stays so in the command.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(words[0], words)  # noqa: S606 that is what exec is for
    except (OSError, ValueError) as exc:
        # A folder of PATH that this user may not search makes of "not found" a permission denied.
        if isinstance(exc, FileNotFoundError) or not _exists(words[0]):
            print(f"nsm: command {words[0]!r} not found", file=sys.stderr)
            code = NOT_FOUND
        else:
            print(f"nsm: command {words[0]!r}: {exc}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _exists(command: str) -> bool:
    return "/" in command or shutil.which(command, mode=os.F_OK) is not None
