"""The lab's nats-servers: one, or three or five that replicate each other's streams, as a cluster runs them.

Each chooses its port at the first start and keeps it over restarts, as an address would be kept. One server is
`nats` and lies in nats/; of several each is `nats/NUMBER` and lies in nats/NUMBER/.
"""

import asyncio
import time
from pathlib import Path

from lab import nats, natsconfig
from lab.layout import LabProblem, Layout
from lab.supervisor import Spec, Supervisor

SERVER_COUNTS = (1, 3, 5)
READY_SECONDS = 30.0
_LOOK_SECONDS = 0.005


class Servers:
    """Of one lab. `ports` are known once `start` returned."""

    def __init__(self, layout: Layout, supervisor: Supervisor, *, count: int, tls: bool) -> None:
        self.ports: list[int] = []
        self.ca = ""  # the file of whom clients trust; empty without TLS
        self._has_tls = tls
        self._tls: natsconfig.Tls | None = None
        self._layout = layout
        self._supervisor = supervisor
        self._names = ["nats"] if count == 1 else [f"nats/{n}" for n in range(1, count + 1)]
        self._token = ""
        self._accounts = ""
        self._peers = natsconfig.Peers.make(nats.free_ports(count)) if count > 1 else None

    async def start(self, tasks: asyncio.TaskGroup, *, token: str, accounts: str) -> None:
        """Start all and wait until each has JetStream. Raises LabProblem when one does not come up."""
        self._token, self._accounts = token, accounts
        if self._has_tls:
            self._tls = await asyncio.to_thread(natsconfig.Tls.make, self._layout.nats)
            self.ca = str(self._tls.ca)
        for index, name in enumerate(self._names):
            config = self._write(index, port=-1)
            self._supervisor.add(Spec(name=name, command=tuple(nats.command(config))), tasks)
        for index, name in enumerate(self._names):
            self.ports.append(await self._port(name))
            self._write(index, port=self.ports[index])

    @property
    def url(self) -> str:
        """Of all, comma separated; with the token if there is one."""
        who = f"{self._token}@" if self._token else ""
        return ",".join(f"nats://{who}127.0.0.1:{port}" for port in self.ports)

    def _directory(self, name: str) -> Path:
        return self._layout.nats / name.partition("/")[2]

    def _write(self, index: int, *, port: int) -> Path:
        name = self._names[index]
        return natsconfig.write_config(
            self._directory(name),
            port=port,
            name="nsm" if self._peers is None else name.replace("/", "-"),
            token=self._token,
            accounts=self._accounts,
            cluster="" if self._peers is None else self._peers.block(index, tls=self._tls),
            tls=self._tls,
        )

    async def _port(self, name: str) -> int:
        deadline = time.monotonic() + READY_SECONDS
        port: int | None = None
        while port is None or not await asyncio.to_thread(nats.is_ready, port):
            if time.monotonic() > deadline:
                raise LabProblem(f"nats-server is not ready; see {self._layout.log(name)}")
            await asyncio.sleep(_LOOK_SECONDS)
            port = nats.read_port(self._directory(name))
        return port
