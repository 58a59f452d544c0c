"""`nsm lab wait`: until Pods are connected, ready or deleted; on a time-out it says what is missing."""

import asyncio
import enum
from typing import Annotated, Any

import msgspec
import typer

from cli import kube, labs
from cli.problems import Problem
from lab.api.client import Client, ClientError
from lab.api.kinds import NAMESPACES, PODS
from schemas.annotation import ANNOTATION, AnnotationError, parse

CONNECTED = f"{ANNOTATION}/connected"
STATUS = f"{ANNOTATION}/status"
_CUT_OFF_SECONDS = 0.2


class Goal(enum.StrEnum):
    """What can be waited for."""

    CONNECTED = "connected"
    READY = "ready"
    RUNNING = "running"
    DELETED = "deleted"


def wait(
    names: Annotated[
        list[str], typer.Argument(metavar="pod/NAME…", help="Pods.", show_default=False)
    ],
    goal: Annotated[
        Goal | None,
        typer.Option(
            "--for",
            help="Default: connected where the annotation asks for something, else ready.",
            show_default=False,
        ),
    ] = None,
    namespace: Annotated[str, typer.Option("--namespace", "-n")] = "default",
    timeout: Annotated[str, typer.Option("--timeout")] = "30s",
) -> None:
    """Wait for Pods. Exit code 1, with the reason, when the time is over."""
    seconds = labs.duration_seconds(timeout)
    pods = [_pod_name(name) for name in names]

    async def act(client: Client) -> list[str]:
        return await wait_for(client, namespace, pods, goal=goal, seconds=seconds)

    for line in kube.run(act):
        print(line)


async def wait_for(
    client: Client, namespace: str, pods: list[str], *, goal: Goal | None, seconds: float
) -> list[str]:
    """A line per Pod that reached its goal. Raises Problem for the first that did not in time."""
    reached = []
    try:
        async with asyncio.timeout(seconds):
            for pod in pods:
                watched = _Watched(client, namespace, pod, goal)
                reached.append(await watched.reached())
    except TimeoutError:
        raise Problem(f"{watched.missing()} (waited {seconds:g} s)") from None
    return reached


class _Watched:
    """One Pod on its way to a goal."""

    def __init__(self, client: Client, namespace: str, name: str, goal: Goal | None) -> None:
        self._client = client
        self._namespace = namespace
        self._name = name
        self._goal = goal
        self._pod: dict[str, Any] | None = None

    async def reached(self) -> str:
        if self._goal is Goal.DELETED:
            where = (self._client, PODS, self._namespace, self._name)
            await kube.until_gone(*where, uid=await kube.uid_of(*where))
            return f"pod/{self._name} is deleted"
        fields = f"metadata.name={self._name}"
        while True:
            try:
                watch = self._client.watch(PODS, namespace=self._namespace, fields=fields)
                async for event, pod in watch:
                    self._pod = None if event == "DELETED" else pod
                    if self._pod is None:
                        continue
                    if await self._there(self._pod):
                        return f"pod/{self._name} is {self._goal}"
                    if self._pod.get("status", {}).get("phase") == "Failed":
                        raise Problem(self.missing())  # no time will help
            except ClientError:
                await asyncio.sleep(_CUT_OFF_SECONDS)  # the server is restarting: look again

    async def _there(self, pod: dict[str, Any]) -> bool:
        if self._goal is None:
            asks = (await self._annotation(pod)).strip()
            self._goal = Goal.CONNECTED if asks else Goal.READY
        if pod["metadata"].get("deletionTimestamp"):
            return False
        match self._goal:
            case Goal.CONNECTED:
                return is_connected(pod, await self._annotation(pod))
            case Goal.READY:
                return condition(pod, "Ready").get("status") == "True"
            case _:
                return is_running(pod)

    async def _annotation(self, pod: dict[str, Any]) -> str:
        """The Pod's own annotation counts, also an empty one; else its namespace's."""
        own = pod["metadata"].get("annotations") or {}
        if ANNOTATION in own:
            return str(own[ANNOTATION])
        namespace = await self._client.find(NAMESPACES, "", self._namespace)
        inherited = (namespace or {}).get("metadata", {}).get("annotations") or {}
        return str(inherited.get(ANNOTATION, ""))

    def missing(self) -> str:
        """Why the Pod is not where it should be, as far as its object says."""
        label = f"pod {self._namespace}/{self._name}"
        if self._goal is Goal.DELETED:
            return f"{label} is still there; its grace period may be longer: nsm lab delete --now"
        if self._pod is None:
            return f"{label} does not exist; see: nsm lab get pods -n {self._namespace}"
        return f"{label} is not {self._goal}: {explain(self._pod, self._goal)}"


def condition(pod: dict[str, Any], kind: str) -> dict[str, Any]:
    """The condition of that type, or nothing."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return next((dict(c) for c in conditions if c["type"] == kind), {})


def is_connected(pod: dict[str, Any], annotation: str) -> bool:
    """The condition is True, and is about this annotation: right after an edit it speaks of the one before."""
    if condition(pod, CONNECTED).get("status") != "True":
        return False
    try:
        items = parse(annotation, namespace=pod["metadata"]["namespace"])
    except AnnotationError:
        return False
    return {item.interface for item in items} == _shown_ready(pod)


def _shown_ready(pod: dict[str, Any]) -> set[str]:
    """Interfaces that the status annotation shows as ready."""
    text = (pod["metadata"].get("annotations") or {}).get(STATUS) or "[]"
    try:
        return {item["interface"] for item in msgspec.json.decode(text) if item["state"] == "ready"}
    except (msgspec.DecodeError, KeyError, TypeError):
        return set()


def is_running(pod: dict[str, Any]) -> bool:
    """Every container runs, or the Pod did what it had to."""
    status = pod.get("status") or {}
    if status.get("phase") == "Succeeded":
        return True
    containers = status.get("containerStatuses") or []
    return bool(containers) and all("running" in c.get("state", {}) for c in containers)


def explain(pod: dict[str, Any], goal: Goal | None) -> str:
    """One line of reasons."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "it is being deleted"
    if goal is Goal.CONNECTED and is_running(pod):
        found = condition(pod, CONNECTED)
        if not found:
            return f"nobody set its condition {CONNECTED}; see: nsm status"
        if found["status"] == "True":
            ready = ", ".join(sorted(_shown_ready(pod))) or "none"
            return f"its annotation asks for other interfaces than are ready ({ready})"
        return _words(found, "no reason given")
    reasons = [
        f"container {container['name']}: {_words(container['state'][kind], kind)}"
        for container in status.get("containerStatuses") or []
        for kind in ("waiting", "terminated")
        if kind in container.get("state", {})
    ]
    node = pod["spec"].get("nodeName")
    if not node:
        reasons.append("it has no node")
    elif not status.get("containerStatuses"):
        reasons.append(f"no kubelet of a node {node!r} has taken it; see: nsm lab get nodes")
    return "; ".join(reasons) or _words(condition(pod, "Ready"), f"phase {status.get('phase')}")


def _words(said: dict[str, Any], default: str) -> str:
    return ": ".join(filter(None, (said.get("reason"), said.get("message")))) or default


def _pod_name(text: str) -> str:
    kind, slash, name = text.partition("/")
    if not slash:
        return text
    if kind not in ("pod", "pods", "po") or not name:
        raise Problem(f"{text!r}: only Pods can be waited for; write pod/NAME", exit_code=2)
    return name
