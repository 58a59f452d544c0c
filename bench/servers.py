"""Real nats-servers on loopback with file storage: one, or three that replicate each other."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab import nats, natsconfig

_JOINED = """
cluster {{ name: bench, listen: "127.0.0.1:{port}", routes: [{routes}] }}
"""
_READY_SECONDS = 20.0


@contextmanager
def servers(directory: Path, count: int) -> Iterator[str]:
    """The address to connect to, all servers in it; they end with the block."""
    with ExitStack() as stack:
        if count == 1:
            yield stack.enter_context(nats.NatsServer(directory)).url
            return
        clients, routes = _free_ports(count), _free_ports(count)
        for number in range(count):
            folder = directory / f"n{number}"
            config = natsconfig.write_config(folder, port=clients[number], name=f"n{number}")
            others = ", ".join(f'"nats-route://127.0.0.1:{port}"' for port in routes)
            with config.open("a") as file:
                file.write(_JOINED.format(port=routes[number], routes=others))
            stack.enter_context(_process(config, folder / "log"))
        for port in clients:
            _wait_until_ready(port)
        yield ",".join(f"nats://127.0.0.1:{port}" for port in clients)


@contextmanager
def _process(config: Path, log: Path) -> Iterator[None]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            nats.command(config), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not nats.is_ready(port):
        if time.monotonic() > deadline:
            raise nats.NatsFailed(f"no nats-server on port {port} after {_READY_SECONDS:.0f} s")
        time.sleep(0.01)
