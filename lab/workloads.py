"""Our services as the cluster sees them: a ServiceAccount, a Pod and a projected token each, kept by a kubelet.

Their processes are the supervisor's and live outside of every node; their Pods are mirrors of these, as a
kubelet makes them of static Pods: the object is created anew when somebody deletes it, and the old token ends.
A token is made anew at 80 % of its life, and at once when its account or Pod is another one.
"""

import asyncio
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from lab import pods
from lab.api import kinds
from lab.api.errors import ApiError
from lab.api.identity import Issuer
from lab.cluster import SYSTEM_NAMESPACE, Cluster
from lab.layout import Layout
from lab.network import Node
from lab.pods import ContainerState, Sandbox
from lab.supervisor import ProcessStatus

AUDIENCE = "nats.nsm"
_FRESH = 0.8  # of a token's life: then a kubelet takes the next one
_CONTAINER = "service"

Json = dict[str, Any]

log = structlog.get_logger()


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who gets a token: a process of ours on a node, or a person."""

    name: str  # plumber/node1, watcher, ipam/2, admin
    account: str
    node: Node | None = None

    @property
    def pod(self) -> str:
        return self.name.replace("/", "-") if self.node else ""


class Workloads:
    """Objects and tokens of all that may speak on the bus. `run` for ever."""

    def __init__(
        self, cluster: Cluster, issuer: Issuer, layout: Layout, *, token_seconds: float
    ) -> None:
        self._cluster = cluster
        self._issuer = issuer
        self._layout = layout
        self._token_seconds = token_seconds
        self._kept: dict[str, _Kept] = {}
        self._changed = asyncio.Event()
        self._processes: dict[str, ProcessStatus] = {}

    def add(self, holder: Holder) -> Path:
        """Where its token is from now on. Raises ApiError when it cannot have one."""
        self._layout.tokens.mkdir(mode=0o700, exist_ok=True)
        kept = _Kept(holder, self._layout.token(holder.name))
        self._kept[holder.name] = kept
        self._ensure_pod(holder)
        self._renew(kept)
        return kept.path

    def tell(self, process: ProcessStatus) -> None:
        """What a process does now, as its Pod's status says it."""
        self._processes[process.name] = process
        kept = self._kept.get(process.name)
        pod = self._pod(kept.holder) if kept else None
        if kept is None or pod is None or kept.holder.node is None:
            return
        state = ContainerState(
            phase="running" if process.running else "terminated",
            reason="" if process.running else "Error",
            message=process.last_exit,
            restarts=process.restarts,
            started_at=_now() if process.running else "",
            finished_at="" if process.running else _now(),
        )
        host = str(kept.holder.node.address)
        sandbox = Sandbox(id=holder_id(pod), netns="", ip=host, host_ip=host, started_at=_now())
        self._cluster.change_status(
            "pods",
            pod,
            lambda newest: pods.status_of(
                newest, sandbox=sandbox, states={_CONTAINER: state}, now=_now()
            ),
        )

    async def run(self) -> None:
        for kind in ("serviceaccounts", "pods"):
            self._cluster.watch(kind, self._on_change)
        while True:
            for kept in self._kept.values():
                self._keep(kept)
            due = min((kept.due for kept in self._kept.values()), default=None)
            pause = None if due is None else max(0.0, due - time.monotonic())
            try:
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()

    def _on_change(self, _event: str, obj: Json) -> None:
        if obj["metadata"].get("namespace") == SYSTEM_NAMESPACE:
            self._changed.set()

    def _keep(self, kept: "_Kept") -> None:
        try:
            self._ensure_pod(kept.holder)
            if time.monotonic() >= kept.due or self._bound(kept.holder) != kept.bound:
                self._renew(kept)
        except ApiError as exc:
            kept.bound = ()
            kept.due = time.monotonic() + self._token_seconds  # looked at again with every change
            log.warning("no token", process=kept.holder.name, reason=str(exc))

    def _renew(self, kept: "_Kept") -> None:
        holder = kept.holder
        issued = self._issuer.issue(
            SYSTEM_NAMESPACE,
            holder.account,
            audiences=(AUDIENCE,),
            seconds=self._token_seconds,
            pod=holder.pod,
        )
        _write(kept.path, issued.token)
        kept.bound = self._bound(holder)
        life = issued.expires - self._cluster.store.now()
        kept.due = time.monotonic() + _FRESH * life.total_seconds()

    def _bound(self, holder: Holder) -> tuple[str, ...]:
        """The UIDs a token of this holder names."""
        account = self._cluster.store.find(kinds.SERVICE_ACCOUNTS, SYSTEM_NAMESPACE, holder.account)
        return tuple(obj["metadata"]["uid"] for obj in (account, self._pod(holder)) if obj)

    def _pod(self, holder: Holder) -> Json | None:
        if not holder.pod:
            return None
        return self._cluster.store.find(kinds.PODS, SYSTEM_NAMESPACE, holder.pod)

    def _ensure_pod(self, holder: Holder) -> None:
        if holder.node is None or self._pod(holder) is not None:
            return
        service = holder.name.partition("/")[0]
        metadata = {
            "name": holder.pod,
            "namespace": SYSTEM_NAMESPACE,
            "labels": {"app.kubernetes.io/name": f"nsm-{service}"},
            "annotations": {pods.MIRROR: "lab"},
        }
        command = ["python", "-m", f"services.{service}"]
        spec = {
            "nodeName": holder.node.name,
            "hostNetwork": True,
            "serviceAccountName": holder.account,
            "containers": [{"name": _CONTAINER, "image": "nsm", "command": command}],
        }
        self._cluster.store.create(kinds.PODS, {"metadata": metadata, "spec": spec})
        if holder.name in self._processes:
            self.tell(self._processes[holder.name])


class _Kept:
    """A holder's token file, when it is due, and whose UIDs it names."""

    def __init__(self, holder: Holder, path: Path) -> None:
        self.holder = holder
        self.path = path
        self.due = 0.0
        self.bound: tuple[str, ...] = ()


def holder_id(pod: Json) -> str:
    return f"lab-{pod['metadata']['uid']}"


def _write(path: Path, token: str) -> None:
    """At once and for the owner alone, so that whoever reads finds a whole token."""
    fresh = path.with_name(f".{path.name}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(token)
    fresh.replace(path)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
