"""Three nats-servers that replicate each other's streams."""

import asyncio
import shutil
import subprocess
from pathlib import Path

import aiohttp

from lab import nats, natsconfig


class Cluster:
    """Servers 0, 1 and 2, running; whoever made it stops it."""

    def __init__(self, directory: Path) -> None:
        self._folders = [directory / f"n{number}" for number in range(3)]
        ports = nats.free_ports(9)
        self._ports, self._monitors = ports[:3], ports[3:6]
        self._peers = natsconfig.Peers.make(ports[6:])
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        for number in range(3):
            self.start(number)

    @property
    def urls(self) -> list[str]:
        return [f"nats://127.0.0.1:{port}" for port in self._ports]

    def start(self, number: int) -> None:
        config = natsconfig.write_config(
            self._folders[number],
            port=self._ports[number],
            name=f"n{number}",
            cluster=f"http: 127.0.0.1:{self._monitors[number]}\n{self._peers.block(number)}",
        )
        with (self._folders[number] / "log").open("ab") as log:
            self.processes[number] = subprocess.Popen(
                nats.command(config), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    async def healthy(self, number: int) -> None:
        """Wait until the server has all that it should hold, as Kubernetes does before it touches the next."""
        url = f"http://127.0.0.1:{self._monitors[number]}/healthz"
        async with asyncio.timeout(90), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    def kill(self, number: int) -> None:
        process = self.processes.pop(number)
        process.kill()
        process.wait()

    def wipe(self, number: int) -> None:
        """Remove every stream from its disk. Only while it is down."""
        shutil.rmtree(self._folders[number] / "store")

    def stop(self) -> None:
        for number in list(self.processes):
            self.kill(number)
