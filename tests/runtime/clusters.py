"""Three nats-servers that replicate each other's streams."""

import subprocess
from pathlib import Path

from lab import nats
from lab.nats import NatsServer

_CLUSTER = """
cluster {{ name: test, listen: "127.0.0.1:{port}", routes: [{routes}] }}
"""


class Cluster:
    """Servers 0, 1 and 2, running; whoever made it stops it."""

    def __init__(self, directory: Path) -> None:
        self._folders = [directory / f"n{number}" for number in range(3)]
        self._ports = _free_ports(directory, 6)
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        for number in range(3):
            self.start(number)

    @property
    def urls(self) -> list[str]:
        return [f"nats://127.0.0.1:{port}" for port in self._ports[:3]]

    def start(self, number: int) -> None:
        config = nats.write_config(
            self._folders[number], port=self._ports[number], name=f"n{number}"
        )
        routes = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in self._ports[3:])
        with config.open("a") as file:
            file.write(_CLUSTER.format(port=self._ports[3 + number], routes=routes))
        with (self._folders[number] / "log").open("ab") as log:
            self.processes[number] = subprocess.Popen(
                nats.command(config), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, number: int) -> None:
        process = self.processes.pop(number)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for number in list(self.processes):
            self.kill(number)


def _free_ports(directory: Path, count: int) -> list[int]:
    servers = [NatsServer(directory / f"port{number}") for number in range(count)]
    for server in servers:
        server.start()
    ports = [server.port for server in servers]
    for server in servers:
        server.stop()
    return ports
