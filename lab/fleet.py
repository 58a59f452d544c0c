"""nats-server, auth and our services: in which order they start, and what each is told.

With `auth` among them the bus is as in a cluster: accounts, and roles by ServiceAccount tokens. Without it one
token, in the server's address, is everybody's.
"""

import asyncio
import secrets
import time

import structlog

from lab import nats
from lab.cluster import SYSTEM_NAMESPACE, account_of
from lab.layout import Config, LabProblem, Layout
from lab.network import CLUSTER_DOMAIN, DNS_ADDRESS, Network, Node
from lab.servers import READY_SECONDS, Servers
from lab.supervisor import Spec, Supervisor, is_installed, service_spec
from lab.workloads import AUDIENCE, Holder, Workloads

MAX_REPLICAS = 3
_LOGIN_PAUSE_SECONDS = 0.05
_LOGIN_SECONDS = 0.3
_PER_NODE = ("plumber", "dns")
_PEOPLE = ("admin", "viewer")

log = structlog.get_logger()


class Fleet:
    """The processes of a lab that are ours."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        network: Network,
        supervisor: Supervisor,
        workloads: Workloads,
    ) -> None:
        self.nats_url = ""
        self.tls_ca = ""
        self.cli_token_file = ""
        self._config = config
        self._layout = layout
        self._network = network
        self._supervisor = supervisor
        self._workloads = workloads
        self._servers = Servers(layout, supervisor, count=config.nats, tls=config.tls)
        self._has_roles = "auth" in config.services and is_installed("auth")

    async def start_bus(self, tasks: asyncio.TaskGroup) -> None:
        """NATS, and who says whom it lets in. Raises LabProblem when it does not come up."""
        token = "" if self._has_roles else secrets.token_urlsafe(24)
        accounts = await asyncio.to_thread(self._accounts) if self._has_roles else ""
        await self._servers.start(tasks, token=token, accounts=accounts)
        self.nats_url, self.tls_ca = self._servers.url, self._servers.ca
        if self._has_roles:
            for name in self._names("auth"):
                spec = self._service(name, self._auth_env())
                self._supervisor.add(spec, tasks)
            for person in _PEOPLE:
                self._workloads.add(Holder(name=person, account=account_of(person)))
            self.cli_token_file = str(self._layout.token("admin"))
            for port in self._servers.ports:
                await self._until_let_in(port)

    def start_services(self, tasks: asyncio.TaskGroup) -> None:
        for service in self._config.services:
            if service in ("nats", "auth"):
                continue
            if not is_installed(service):
                log.warning("service not in this tree, not started", missing=service)
                continue
            if service in _PER_NODE:
                for node in self._network.nodes:
                    self._supervisor.add(self._spec(f"{service}/{node.name}", node), tasks)
            else:
                for name in self._names(service):
                    self._supervisor.add(self._spec(name, None), tasks)

    def _names(self, service: str) -> list[str]:
        """What its replicas are called."""
        count = self._config.replicas
        return [service] if count == 1 else [f"{service}/{n}" for n in range(1, count + 1)]

    def _spec(self, name: str, node: Node | None) -> Spec:
        service = name.partition("/")[0]
        env = self._env(service, node)
        if self._has_roles:
            holder = Holder(
                name=name, account=account_of(service), node=node or self._network.nodes[0]
            )
            env["NSM_TOKEN_FILE"] = str(self._workloads.add(holder))
        return self._service(name, env)

    def _service(self, name: str, env: dict[str, str]) -> Spec:
        trust = {"NSM_TLS_CA": self.tls_ca} if self.tls_ca else {}
        return service_spec(name, nats_url=self.nats_url, env=trust | env)

    def _env(self, service: str, node: Node | None) -> dict[str, str]:
        layout = self._layout
        if service == "watcher":
            return {
                "WATCHER_KUBECONFIG": str(layout.kubeconfig),
                "WATCHER_SYSTEM_NAMESPACE": SYSTEM_NAMESPACE,
            }
        if node is None:
            return {}
        prefix = service.upper()
        env = {
            f"{prefix}_NODE": node.name,
            f"{prefix}_NODE_NETNS": str(self._network.path(node)),
            f"{prefix}_CNI_RESULTS": str(layout.cni_results(node.name)),
        }
        if service == "plumber":
            env["PLUMBER_RUNTIME_DIR"] = str(layout.run_dir(node.name))
        if service == "dns":
            env |= {"DNS_CLUSTER_SERVERS": DNS_ADDRESS, "DNS_CLUSTER_DOMAIN": CLUSTER_DOMAIN}
        return env

    def _auth_env(self) -> dict[str, str]:
        return {
            "AUTH_KUBECONFIG": str(self._layout.kubeconfig),
            "AUTH_SYSTEM_NAMESPACE": SYSTEM_NAMESPACE,
            "AUTH_KEYS_FILE": str(self._layout.keys),
            "AUTH_AUDIENCE": AUDIENCE,
        }

    def _accounts(self) -> str:
        """New keys, and the server's part of them: what `python -m services.auth keys|config` does."""
        # Only where it is wanted: a tree without the service has a lab too.
        from services.auth import keyring  # noqa: PLC0415

        self._layout.keys.unlink(missing_ok=True)
        keyring.make(self._layout.keys)
        return keyring.server_configuration(keyring.read(self._layout.keys))

    async def _until_let_in(self, port: int) -> None:
        """Nobody could log in before auth answers: who tries too early only loses time."""
        token = self._layout.token("admin")
        deadline = time.monotonic() + READY_SECONDS
        while True:
            name = f"admin-{secrets.token_hex(4)}"
            secret = token.read_text()
            if await asyncio.to_thread(
                nats.lets_in,
                port,
                token=secret,
                name=name,
                ca=self.tls_ca,
                timeout_seconds=_LOGIN_SECONDS,
            ):
                return
            if time.monotonic() > deadline:
                raise LabProblem(
                    f"the bus lets nobody in; see the logs of auth and nats in {self._layout.logs}"
                )
            await asyncio.sleep(_LOGIN_PAUSE_SECONDS)
