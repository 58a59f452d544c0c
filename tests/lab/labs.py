"""A real lab for tests, used as a person would: through the `nsm` command, in a directory of its own."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from lab.layout import State

ROOT = Path(__file__).parent.parent.parent
NOBODY = 65534


class Lab:
    """A lab directory and the command line for it, as `uid` with a Python of its choice."""

    def __init__(self, *, python: str = sys.executable, uid: int | None = None) -> None:
        # Short: pytest's own directories are private to one user and long.
        self.directory = Path(tempfile.mkdtemp(prefix="nsm-test-"))
        self._python = python
        self._as_user: dict[str, Any] = {}
        self.env = {**os.environ, "NSM_LAB_DIR": str(self.directory), "COLUMNS": "200"}
        if uid is not None:
            os.chown(self.directory, uid, uid)
            self._as_user = {"user": uid, "group": uid, "extra_groups": []}
        if python != sys.executable:
            self.env |= user_environment()

    def popen(self, *words: str, **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [self._python, "-m", "cli.main", *words],
            env=self.env,
            cwd="/",
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **self._as_user, **options},
        )

    def run(self, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        with self.popen(*words, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(stdin, timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def nsm(self, *words: str) -> str:
        """What a command that must succeed prints."""
        done = self.run(*words)
        assert done.returncode == 0, f"nsm {' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self, *words: str) -> str:
        return self.nsm("lab", "up", "--detach", *words)

    def items(self, *words: str) -> list[dict[str, Any]]:
        listed = json.loads(self.nsm("lab", "get", *words, "-o", "json"))
        assert (listed["apiVersion"], listed["kind"]) == ("v1", "List")
        return list(listed["items"])

    def pod(self, name: str) -> dict[str, Any]:
        """Straight from the API: what is asked often should not cost a process."""
        url = f"{self.state.api_url}/api/v1/namespaces/default/pods/{name}"
        with urllib.request.urlopen(url, timeout=10) as response:
            return dict(json.load(response))

    def pod_log(self, name: str, container: str = "main") -> str:
        path = self.directory / "logs" / "pods" / f"default_{name}_{container}.log"
        return path.read_text() if path.exists() else ""

    def apply(self, *objects: dict[str, Any]) -> None:
        path = self.directory / "objects.json"
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
        self.nsm("lab", "apply", "-f", str(path))

    def exec(self, pod: str, *command: str) -> str:
        return self.nsm("lab", "exec", pod, "--", *command)

    @property
    def state(self) -> State:
        return msgspec.json.decode((self.directory / "lab.json").read_bytes(), type=State)

    def namespaces(self) -> set[int]:
        """Inodes of the lab's network namespaces: seen through the daemon, whose mounts are private."""
        place = Path(f"/proc/{self.state.daemon_pid}/root{self.directory}/netns")
        return {path.stat().st_ino for path in place.iterdir()}

    def remove(self) -> None:
        self.run("lab", "down")
        shutil.rmtree(self.directory, ignore_errors=True)


def a_pod(name: str, *, command: Sequence[str] = (), **spec: Any) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": "none"}
    if command:
        container["command"] = list(command)
    metadata: dict[str, Any] = {"name": name}
    for key in ("labels", "annotations"):
        if key in spec:
            metadata[key] = spec.pop(key)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": [container], **spec},
    }


def until(what: str, holds: Callable[[], Any], *, seconds: float = 30) -> None:
    """Ask the outside world until it is so."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


def processes_with(link: str) -> Iterator[tuple[int, int]]:
    """(pid, inode) of /proc/PID/ns/`link` of every process we may look at."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                yield int(entry.name), (entry / "ns" / link).stat().st_ino
            except OSError:
                continue


def user_environment() -> dict[str, str]:
    """What lets another Python than ours run this tree."""
    site = Path(msgspec.__file__).parent.parent
    return {
        "PYTHONPATH": f"{ROOT}:{site}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": "/tmp",
    }


def user_python() -> str | None:
    """A Python with which an ordinary user can run this tree, or None."""
    own = f"python3.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{own}", f"/usr/local/bin/{own}"):
        try:
            done = subprocess.run(
                [python, "-c", "import cli.main, lab.daemon"],
                env={**os.environ, **user_environment()},
                cwd="/",
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                capture_output=True,
                check=False,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return None
