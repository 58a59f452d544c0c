"""One Pod on its node, from its binding to its end: sandbox first, then containers, the object last.

A worker belongs to one UID. It is told what changed (`update`, `crash`) and says in the object's status
what runs; nothing it meets ends the lab.
"""

import asyncio
import signal
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import structlog

from lab import pods
from lab.cluster import Cluster
from lab.layout import Layout
from lab.network import Node
from lab.pods import ContainerState, Json, Sandbox
from lab.processes import Child
from lab.sandboxes import Sandboxes
from lab.supervisor import base_environment, describe_exit

_RETRY_SECONDS = 1.0

log = structlog.get_logger()


class PodWorker:
    """One Pod, from its binding to its end."""

    def __init__(
        self, pod: Json, node: Node, sandboxes: Sandboxes, cluster: Cluster, layout: Layout
    ) -> None:
        self.over = asyncio.Event()
        self.label = f"{pod['metadata']['namespace']}/{pod['metadata']['name']}"
        self.pod = pod
        self._node = node
        self._sandboxes = sandboxes
        self._cluster = cluster
        self._layout = layout
        self._sandbox: Sandbox | None = None
        self._states: dict[str, ContainerState] = {}
        self._children: dict[str, Child] = {}
        self._stop = asyncio.Event()  # deleted, or the node's power is cut
        self._crashed = False
        self._gone = False  # the object is
        self._hurried = asyncio.Event()  # the grace may have become shorter
        self._spawning = asyncio.Lock()

    @property
    def node(self) -> str:
        return self._node.name

    def update(self, pod: Json, *, gone: bool) -> None:
        """The object changed. Gates may have opened; a deletion may have begun."""
        self.pod = pod
        self._gone = self._gone or gone
        if gone or pod["metadata"].get("deletionTimestamp"):
            self._stop.set()
            self._hurried.set()
        elif self._sandbox is not None:
            self._tell()

    @property
    def is_ending(self) -> bool:
        return self._stop.is_set()

    def crash(self) -> None:
        self._crashed = True
        self._stop.set()
        self._hurried.set()

    async def rest(self, seconds: float, *, problem: str) -> None:
        """Say what failed and wait, unless the Pod is to end."""
        try:
            self._set_all(ContainerState(reason="PodFailed", message=problem))
        except Exception:
            log.exception("pod's status not written", pod=self.label)
        await _sleep_unless(self._stop, seconds)

    async def run(self) -> None:
        """Until its end. Whatever it raises, nothing runs any more, and it may be run again."""
        try:
            if await self._make_sandbox():
                await self._run_until_stopped()
        finally:
            await self._remove_sandbox()
        self._tell()
        await self._stop.wait()  # what completed stays until it is deleted
        self.confirm()

    def confirm(self) -> None:
        """Nothing of the Pod runs any more: its object may go, but not with the node's power."""
        if not self._crashed:
            self._cluster.confirm_deleted(self.pod)
            log.info("pod gone", pod=self.label, node=self.node)

    async def _make_sandbox(self) -> bool:
        """Whether the Pod has a network; False when it was deleted before."""
        while not self._stop.is_set():
            try:
                self._sandbox = await asyncio.to_thread(
                    self._sandboxes.create, self.pod, now=_now()
                )
            except Exception as exc:  # noqa: BLE001 a Pod's object can ask for anything
                log.warning("no sandbox", pod=self.label, node=self.node, reason=str(exc))
                problem = str(exc) or repr(exc)
                waiting = ContainerState(reason="CreatePodSandboxError", message=problem)
                self._set_all(waiting)
                await _sleep_unless(self._stop, _RETRY_SECONDS)
            else:
                self._states.clear()
                if pods.init_containers_of(self.pod):
                    self._tell()  # else the containers' start, which comes at once, tells it all
                return True
        return False

    async def _run_until_stopped(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            containers = tasks.create_task(self._run_containers())
            stopping = tasks.create_task(self._stop.wait())
            await asyncio.wait({containers, stopping}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            if not containers.done():
                await self._end_containers()
                containers.cancel()

    async def _remove_sandbox(self) -> None:
        if self._sandbox is None:
            return
        for child in self._children.values():  # only where something failed
            child.send(signal.SIGKILL)
        self._children.clear()
        sandbox, self._sandbox = self._sandbox, None
        await asyncio.to_thread(self._sandboxes.remove, self.pod, sandbox)

    async def _run_containers(self) -> None:
        """Init containers one after the other, then the others side by side, until all are done."""
        for container in pods.init_containers_of(self.pod):
            if await self._run_container(container, init=True) != 0:
                return
        async with asyncio.TaskGroup() as tasks:
            for container in pods.containers_of(self.pod):
                tasks.create_task(self._run_container(container, init=False))

    async def _run_container(self, container: Json, *, init: bool) -> int:
        """Until it ended for good; its exit code."""
        name = container["name"]
        policy = pods.restart_policy(self.pod)
        if init and policy == "Always":
            policy = "OnFailure"
        restarts = 0
        while True:
            code = await self._run_once(container, restarts)
            if self._stop.is_set():
                await asyncio.Event().wait()  # the end is on its way; nothing starts again
            if not pods.starts_again(policy, code):
                return code
            restarts += 1
            pause = pods.backoff_seconds(restarts - 1)
            reason = "CrashLoopBackOff" if code else "Restarting"
            message = f"{self._states[name].message}; starts again in {pause:.0f} s"
            self._set(name, ContainerState(reason=reason, message=message, restarts=restarts))
            await asyncio.sleep(pause)

    async def _run_once(self, container: Json, restarts: int) -> int:
        name = container["name"]
        command = pods.command_of(container)
        running = ContainerState(phase="running", reason="", restarts=restarts, started_at=_now())
        if not command:
            self._set(name, running)
            await asyncio.Event().wait()
        try:
            child = await self._spawn_unless_stopped(container, command)
        except (OSError, ValueError) as exc:  # ValueError: a NUL, or a = in a variable's name
            why = exc.strerror if isinstance(exc, OSError) else str(exc)
            problem = f"{getattr(exc, 'filename', None) or command[0]}: {why}"
            self._ended(running, 128, reason="StartError", message=problem, name=name)
            return 128
        self._set(name, running)
        code = await child.wait()
        self._children.pop(name, None)
        self._ended(running, code, reason="Error" if code else "Completed", message="", name=name)
        return code

    def _ended(
        self, was: ContainerState, code: int, *, reason: str, message: str, name: str
    ) -> None:
        ended = ContainerState(
            phase="terminated",
            reason=reason,
            message=message or describe_exit(code),
            exit_code=code if code >= 0 else 128 - code,
            restarts=was.restarts,
            started_at=was.started_at,
            finished_at=_now(),
        )
        self._set(name, ended)

    async def _spawn_unless_stopped(self, container: Json, command: list[str]) -> Child:
        """Whoever ends the Pod waits for the lock, and so sees every child."""
        async with self._spawning:
            if not self._stop.is_set():
                child = await self._spawn(container, command)
                self._children[container["name"]] = child
                return child
        await asyncio.Event().wait()  # the end is on its way and cancels us
        raise AssertionError

    async def _spawn(self, container: Json, command: list[str]) -> Child:
        assert self._sandbox is not None
        metadata = self.pod["metadata"]
        env = base_environment() | pods.environment_of(container, self.pod, self._sandbox)
        popen = await asyncio.to_thread(
            self._sandboxes.start,
            self.pod,
            self._sandbox,
            command=command,
            env=env,
            log=self._layout.pod_log(metadata["namespace"], metadata["name"], container["name"]),
            directory=container.get("workingDir") or "/",
        )
        return Child(popen)

    async def _end_containers(self) -> None:
        async with self._spawning:  # one that is being started is to be ended too
            children = list(self._children.values())
        if self._grace_seconds() > 0:
            for child in children:
                child.send(signal.SIGTERM)
            await self._grant_grace(children)
        for child in children:
            child.send(signal.SIGKILL)
        for child in children:
            await child.wait()

    async def _grant_grace(self, children: Sequence[Child]) -> None:
        """Until all ended, or the time is over that a later deletion may have made shorter."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            ends = tasks.create_task(_all_ended(children))
            while not ends.done():
                self._hurried.clear()
                left = began + self._grace_seconds() - time.monotonic()
                if left <= 0:
                    break
                hurry = tasks.create_task(self._hurried.wait())
                await asyncio.wait({ends, hurry}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                hurry.cancel()
            ends.cancel()

    def _grace_seconds(self) -> float:
        if self._crashed or self._gone:
            return 0.0
        metadata, spec = self.pod["metadata"], self.pod["spec"]
        grace = metadata.get("deletionGracePeriodSeconds")
        return float(spec.get("terminationGracePeriodSeconds", 30) if grace is None else grace)

    def _set_all(self, state: ContainerState) -> None:
        every = [*pods.init_containers_of(self.pod), *pods.containers_of(self.pod)]
        self._states = {container["name"]: state for container in every}
        self._tell()

    def _set(self, name: str, state: ContainerState) -> None:
        self._states[name] = state
        self._tell()

    def _tell(self) -> None:
        """Write what we know into the object, unless it says so already."""
        if not self._crashed:
            self._cluster.change_status("pods", self.pod, self._status)

    def _status(self, pod: Json) -> Json:
        states: Mapping[str, ContainerState] = self._states
        return pods.status_of(pod, sandbox=self._sandbox, states=states, now=_now())


async def _all_ended(children: Sequence[Child]) -> None:
    for child in children:
        await child.wait()


async def _sleep_unless(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
