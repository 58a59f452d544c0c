"""The two sides of every story: the lab's API server, and a real one that NSM_TEST_KUBECONFIG names.

A story works in a namespace of its own and on a node of its own making, which no kubelet runs: what kubelets
and schedulers would say it says itself. The definitions of the repository are applied and stay; take a cluster
that nobody needs. NSM_TEST_RBAC=1: the API server asks for rights, so the watcher gets those that are shipped.
"""

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import yaml

from services._runtime.bus import Bus
from services._runtime.errors import Conflict, Unavailable
from services._runtime.health import Health
from services.watcher.adapters import Denied, Kube, Missing
from services.watcher.adapters.kube import MERGE, STRATEGIC
from services.watcher.service import Watcher
from services.watcher.settings import Settings
from tests.runtime.helpers import running
from tests.watcher.conftest import Nats

REAL = os.environ.get("NSM_TEST_KUBECONFIG", "")
RBAC = bool(os.environ.get("NSM_TEST_RBAC"))
APPLY = "application/apply-patch+yaml"
BASE = Path(__file__).parents[2] / "k8s" / "base"
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
GROUP = "/apis/networkservicemesh.io/v1"

Json = dict[str, Any]


class Side:
    """An API server and a namespace on it."""

    def __init__(self, kube: Kube, kubeconfig: Path, *, real: bool) -> None:
        self.kube = kube
        self.kubeconfig = kubeconfig
        self.watchers = kubeconfig  # of the watcher, with fewer rights perhaps
        self.real = real
        self.namespace = f"nsm-test-{secrets.token_hex(4)}"
        self.node = self.namespace
        self._given: list[str] = []  # paths of rights, outside of the namespace, too

    # ---- requests

    async def ask(
        self, method: str, path: str, body: Any = None, media: str = "", **q: str
    ) -> Json:
        answer = await self.kube._whole(
            method, path, query=q, body=body, content_type=media or "application/json"
        )
        told: Json = msgspec.json.decode(answer)
        return told

    async def apply(self, path: str, body: Json, **query: str) -> Json:
        query = {"fieldManager": "nsm-test", "force": "true"} | query
        return await self.ask("PATCH", f"{path}/{body['metadata']['name']}", body, APPLY, **query)

    def path(self, plural: str, name: str = "") -> str:
        root = GROUP if plural.startswith("networkservice") else "/api/v1"
        return f"{root}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    # ---- objects

    async def begin(self) -> None:
        await self.define()
        metadata: Json = {"metadata": {"name": self.namespace}}
        await self.ask(
            "POST", "/api/v1/namespaces", {"kind": "Namespace", "apiVersion": "v1"} | metadata
        )
        node: Json = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": self.node}}
        node["spec"] = {"podCIDR": "10.231.7.0/24", "podCIDRs": ["10.231.7.0/24"]}
        await self.ask("POST", "/api/v1/nodes", node)
        status = {
            "addresses": [{"type": "InternalIP", "address": "192.0.2.77"}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        path = f"/api/v1/nodes/{self.node}/status"
        await self.ask("PATCH", path, {"status": status}, STRATEGIC)
        if self.real and RBAC:
            await self._give_rights()

    async def end(self) -> None:
        plurals = ("pods", "networkservices", "networkserviceendpoints")
        places = [self.path(plural) for plural in plurals]
        places += [f"/api/v1/nodes/{self.node}", f"/api/v1/namespaces/{self.namespace}"]
        for path in self._given + places:
            try:
                await self.ask("DELETE", path, gracePeriodSeconds="0")
            except (Missing, Conflict):
                pass

    async def define(self) -> None:
        """The shipped definitions, established."""
        for file in sorted((BASE / "crds").glob("*.yaml")):
            definition = yaml.safe_load(file.read_text())
            await self.apply(DEFINITIONS, definition)
            await self.until(lambda d=definition: self._established(d))  # type: ignore[misc]

    async def _established(self, definition: Json) -> bool:
        found = await self.ask("GET", f"{DEFINITIONS}/{definition['metadata']['name']}")
        conditions = found.get("status", {}).get("conditions") or []
        if not any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
            return False
        try:
            await self.ask("GET", f"{GROUP}/{definition['spec']['names']['plural']}")
        except (Missing, Unavailable):  # a new storage is made ready: 404, then 429
            return False
        return True

    async def _give_rights(self) -> None:
        """What k8s/base gives the watcher, under names of this story, and a kubeconfig with its token."""
        places = {
            "ServiceAccount": "/api/v1/namespaces/{}/serviceaccounts",
            "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
            "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            "Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/roles",
            "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/{}/rolebindings",
        }
        account = f"{self.namespace}-watcher"
        text = (BASE / "watcher.yaml").read_text().replace("nsm-system", self.namespace)
        text = text.replace("name: nsm-watcher", f"name: {account}")
        for each in yaml.safe_load_all(text):
            if each["kind"] in places:
                namespace = each["metadata"].get("namespace", "")
                path = places[each["kind"]].format(namespace)
                self._given.append(f"{path}/{each['metadata']['name']}")
                await self.apply(path, each)
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{account}/token"
        token = (await self.ask("POST", path, {"spec": {"expirationSeconds": 3600}}))["status"]
        config = yaml.safe_load(self.kubeconfig.read_text())
        chosen = next(c for c in config["contexts"] if c["name"] == config["current-context"])
        user = next(u for u in config["users"] if u["name"] == chosen["context"]["user"])
        user["user"] = {"token": token["token"]}
        self.watchers = self.kubeconfig.with_name(f"{self.namespace}.kubeconfig")
        self.watchers.write_text(yaml.safe_dump(config))

    async def pod(self, name: str, *, asks: str = "", **metadata: Any) -> Json:
        """A Pod on the node; in a new namespace its ServiceAccount may take a moment."""
        if asks:
            metadata["annotations"] = {"networkservicemesh.io": asks}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name} | metadata,
            "spec": {"nodeName": self.node, "containers": [{"name": "c", "image": "none"}]},
        }
        made: list[Json] = []

        async def create() -> bool:
            try:
                made.append(await self.ask("POST", self.path("pods"), body))
            except (Denied, Conflict):
                return False
            return True

        await self.until(create)
        return made[0]

    async def runs(self, name: str, ip: str) -> None:
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }
        await self.ask("PATCH", self.path("pods", name) + "/status", {"status": status}, STRATEGIC)

    async def remove(self, plural: str, name: str) -> None:
        await self.ask("DELETE", self.path(plural, name), gracePeriodSeconds="0")

    async def annotate(self, name: str, text: str | None) -> None:
        patch = {"metadata": {"annotations": {"networkservicemesh.io": text}}}
        await self.ask("PATCH", self.path("pods", name), patch, MERGE)

    async def events(self, name: str) -> dict[str, str]:
        """What was said of a Pod: reason and message."""
        told = await self.ask("GET", self.path("events"))
        about = [each for each in told["items"] if each["involvedObject"]["name"] == name]
        return {each["reason"]: each["message"] for each in about}

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """A real server tells nobody when it has got around to something: it is asked."""
        async with asyncio.timeout(20):
            while not await holds():
                await asyncio.sleep(0.05)


@asynccontextmanager
async def a_watcher(side: Side, nats: Nats) -> AsyncIterator[Watcher]:
    """A whole watcher whose system namespace is the story's."""
    bus = await Bus.connect(nats.url, name="watcher-test")
    try:
        async with Kube(str(side.watchers)) as kube:
            watcher = Watcher(
                bus=bus,
                kube=kube,
                settings=Settings(system_namespace=side.namespace),
                holder="test",
                health=Health(bus.metrics.registry),
            )
            async with running(watcher.run()):
                yield watcher
    finally:
        await bus.close()
