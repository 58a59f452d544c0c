"""Deployments and StatefulSets that roll, and the kubelet of the story's node that runs their Pods.

On a real cluster whose controllers run (NSM_TEST_CONTROLLERS=1) the objects are real ones; elsewhere the story plays
the controllers, as they behave by default: a Deployment adds one and then takes one, a StatefulSet replaces one Pod
after the other under its name, the highest first.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from services._runtime.errors import Conflict
from services.watcher.adapters import Missing
from services.watcher.adapters.kube import MERGE
from tests.cluster.sides import Json, Side
from tests.runtime.helpers import running

CONTROLLERS = bool(os.environ.get("NSM_TEST_CONTROLLERS"))
_LOOK_SECONDS = 0.05


class Workload:
    """A set of Pods with one template. `may_end` is asked before a Pod that is being deleted ends."""

    def __init__(
        self,
        side: Side,
        kind: str,
        name: str,
        *,
        replicas: int,
        asks: str = "",
        may_end: Callable[[Json], bool] = lambda _: True,
    ) -> None:
        self._side = side
        self._kind = kind
        self._name = name
        self._replicas = replicas
        self._annotations = {"networkservicemesh.io": asks} if asks else {}
        self._may_end = may_end
        self._revision = 1
        self._address = 1

    @asynccontextmanager
    async def deployed(self) -> AsyncIterator["Workload"]:
        """It is there, and its Pods run, for the length of a block."""
        is_real = self._side.real and CONTROLLERS
        if is_real:
            await self._side.ask("POST", self._path, self._body())
        try:
            async with running(self._keep(self._run_pods), *([] if is_real else [self._play()])):
                await self._side.until(self._settled)
                yield self
        finally:
            if is_real:
                await self._side.ask("DELETE", f"{self._path}/{self._name}")

    async def roll(self) -> None:
        """Another template; returns when all Pods are of it, and none of the old ones is there."""
        self._revision += 1
        if self._side.real and CONTROLLERS:
            patch = {"spec": {"template": self._template()}}
            await self._side.ask("PATCH", f"{self._path}/{self._name}", patch, MERGE)
        await self._side.until(self._settled)

    async def pods(self) -> list[Json]:
        told = await self._side.ask("GET", self._side.path("pods"))
        return [
            p for p in told["items"] if p["metadata"].get("labels", {}).get("app") == self._name
        ]

    async def _settled(self) -> bool:
        found = await self.pods()
        return len(found) == self._replicas and all(
            _ready(pod) and not _leaving(pod) and self._is_new(pod) for pod in found
        )

    def _is_new(self, pod: Json) -> bool:
        return bool(pod["metadata"]["labels"]["revision"] == str(self._revision))

    # ---- the kubelet and the scheduler

    async def _run_pods(self) -> None:
        for pod in await self.pods():
            name = pod["metadata"]["name"]
            if _leaving(pod):
                if self._may_end(pod):
                    await self._side.remove("pods", name)
            elif not pod["spec"].get("nodeName"):
                target = {"apiVersion": "v1", "kind": "Node", "name": self._side.node}
                binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}}
                path = self._side.path("pods", name) + "/binding"
                await self._side.ask("POST", path, binding | {"target": target})
            elif not _ready(pod):
                self._address += 1
                await self._side.runs(name, f"10.231.7.{self._address}")

    async def _keep(self, act: Callable[[], Any]) -> None:
        while True:
            with suppress(Missing, Conflict):  # somebody else was faster
                await act()
            await asyncio.sleep(_LOOK_SECONDS)

    # ---- the controllers, played

    async def _play(self) -> None:
        await self._keep(self._deploy if self._kind == "Deployment" else self._number)

    async def _deploy(self) -> None:
        standing = [pod for pod in await self.pods() if not _leaving(pod)]
        new = [pod for pod in standing if self._is_new(pod)]
        if len(new) < self._replicas and len(standing) <= self._replicas:
            await self._create(f"{self._name}-{secrets.token_hex(3)}")
        elif len(standing) > self._replicas and all(map(_ready, new)):
            old = next(pod for pod in standing if not self._is_new(pod))
            await self._side.ask("DELETE", self._side.path("pods", old["metadata"]["name"]))

    async def _number(self) -> None:
        found = {pod["metadata"]["name"]: pod for pod in await self.pods()}
        names = [f"{self._name}-{number}" for number in range(self._replicas)]
        if missing := [name for name in names if name not in found]:
            await self._create(missing[0])
        elif all(_ready(pod) and not _leaving(pod) for pod in found.values()):
            old = [name for name in names if not self._is_new(found[name])]
            if old:
                await self._side.ask("DELETE", self._side.path("pods", old[-1]))

    async def _create(self, name: str) -> None:
        template = self._template()
        head = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
        metadata = template["metadata"] | {"name": name}
        await self._side.ask("POST", self._side.path("pods"), head | {"metadata": metadata})

    # ---- the objects

    @property
    def _path(self) -> str:
        return f"/apis/apps/v1/namespaces/{self._side.namespace}/{self._kind.lower()}s"

    def _template(self) -> Json:
        labels = {"app": self._name, "revision": str(self._revision)}
        metadata = {"labels": labels, "annotations": self._annotations}
        # A scheduler that is nobody: where a real one runs, and kubelets, these Pods are the story's all the same.
        spec = {"schedulerName": "story", "containers": [{"name": "c", "image": "none"}]}
        return {"metadata": metadata, "spec": spec}

    def _body(self) -> Json:
        spec: Json = {"replicas": self._replicas, "template": self._template()}
        spec["selector"] = {"matchLabels": {"app": self._name}}
        if self._kind == "StatefulSet":
            spec["serviceName"] = self._name
        head = {"apiVersion": "apps/v1", "kind": self._kind, "metadata": {"name": self._name}}
        return head | {"spec": spec}


def _ready(pod: Json) -> bool:
    conditions = pod.get("status", {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _leaving(pod: Json) -> bool:
    return "deletionTimestamp" in pod["metadata"]
