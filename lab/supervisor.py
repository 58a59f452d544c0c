"""nats-server and the services as ordinary processes: started again one second after they die, as a kubelet would.

A process can be held: then its death lasts until it is released. Nothing is stopped in order at the end of
the lab; the end of its pid namespace does that.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import msgspec
import structlog

from lab import entering
from lab.layout import Layout
from lab.processes import Child, popen

RESTART_SECONDS = 1.0

log = structlog.get_logger()


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """How to start a process. `env` is added to the lab's own."""

    name: str  # watcher, plumber/node1, …
    command: tuple[str, ...]
    env: dict[str, str] = {}


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What `nsm lab ps` shows. `pid` is the one inside the lab."""

    name: str
    pid: int | None
    running: bool
    held: bool
    restarts: int
    last_exit: str = ""
    stopped: bool = False  # runs, by its pid, and does nothing until it gets CONT
    node_stopped: bool = False  # it comes back with its node


class Supervisor:
    """Keeps processes running, and tells of their starts and ends. The verbs answer at once."""

    def __init__(
        self, layout: Layout, tell: Callable[[ProcessStatus], None] = lambda _: None
    ) -> None:
        self._layout = layout
        self._tell = tell
        self._kept: dict[str, _Kept] = {}

    @property
    def names(self) -> list[str]:
        return list(self._kept)

    def add(self, spec: Spec, tasks: asyncio.TaskGroup) -> None:
        """Start a process and keep it running as long as the task group lives."""
        kept = _Kept(spec, self._layout.log(spec.name), self._tell)
        self._kept[spec.name] = kept
        tasks.create_task(kept.run(), name=spec.name)

    def kill(self, name: str, number: int, *, hold: bool) -> None:
        """Send a signal; with `hold` the process stays away once it ended. Raises KeyError."""
        kept = self._kept[name]
        if hold:
            kept.released.clear()
        kept.signal(number)

    def release(self, name: str) -> None:
        """End a hold. Raises KeyError."""
        self._kept[name].released.set()

    def statuses(self) -> list[ProcessStatus]:
        return [kept.status() for kept in self._kept.values()]


class _Kept:
    def __init__(self, spec: Spec, log_path: Path, tell: Callable[[ProcessStatus], None]) -> None:
        self._tell = tell
        self.released = asyncio.Event()
        self.released.set()
        self._spec = spec
        self._log_path = log_path
        self._child: Child | None = None
        self._starts = 0
        self._last_exit = ""

    async def run(self) -> None:
        while True:
            await self.released.wait()
            self._starts += 1
            try:
                self._child = Child(
                    popen(
                        self._spec.command,
                        log=self._log_path,
                        env={**base_environment(), **self._spec.env},
                    )
                )
            except OSError as exc:
                self._last_exit = str(exc)
                log.warning("process not started", process=self._spec.name, reason=str(exc))
            else:
                self._tell(self.status())
                code = await self._child.wait()
                self._last_exit = describe_exit(code)
                self._tell(self.status())
                log.warning("process ended", process=self._spec.name, how=self._last_exit)
            await asyncio.sleep(RESTART_SECONDS)

    def signal(self, number: int) -> None:
        if self._child is not None and self._child.running:
            self._child.send(number)

    def status(self) -> ProcessStatus:
        running = self._child is not None and self._child.running
        return ProcessStatus(
            name=self._spec.name,
            pid=self._child.pid if running and self._child is not None else None,
            running=running,
            held=not self.released.is_set(),
            restarts=max(self._starts - 1, 0),
            last_exit=self._last_exit,
            stopped=self._child is not None and self._child.stopped,
        )


def describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:  # most real-time signals have no name
        return f"killed by signal {-code}"


def base_environment() -> dict[str, str]:
    """Ours without what configures another service or lab; log settings are the caller's to choose.

    Our Python is found by its name, also where the machine itself has none.
    """
    dropped = ("NSM_", "WATCHER_", "PLUMBER_", "IPAM_", "DNS_", "AUTH_", "KUBERNETES_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(dropped) or name.startswith("NSM_LOG_")
    } | {"PYTHONUNBUFFERED": "1", "PATH": entering.search_path()}


def service_spec(name: str, *, nats_url: str, env: dict[str, str]) -> Spec:
    """A service of ours as a process of this Python: watcher, ipam/2, plumber/node1 …

    The streams have as many replicas as there are servers.
    """
    service = name.partition("/")[0]
    common = {
        "NSM_NATS_URL": nats_url,
        "NSM_NATS_REPLICAS": str(nats_url.count(",") + 1),
        "NSM_HOLDER": name.replace("/", "-"),
        "NSM_HEALTH_ADDRESS": "127.0.0.1:0",
    }
    return Spec(name=name, command=(sys.executable, "-m", f"services.{service}"), env=common | env)


def is_installed(service: str) -> bool:
    """Whether this tree has the service, and can start it."""
    try:
        parts = [find_spec(f"services.{service}.{part}") for part in ("__main__", "service")]
    except ModuleNotFoundError:
        return False
    return all(part is not None and part.origin is not None for part in parts)
