"""The bus as it is shipped: real nats-servers with the configuration that k8s/ holds, with the accounts and the
certificates that the Job makes. Only what a Pod has of its own is put in its place: paths, ports, names of others."""

import http.client
import itertools
import os
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from lab.nats import command
from services._runtime import certificates
from services.auth import keyring
from tests.manifests import bus, manifests
from tests.manifests.bus import SYSTEM
from tools import install_certificates
from tools.install_certificates import Stored

_READY_SECONDS = 60.0


class ShippedServers:
    """As many as the overlay has. `directory/NAME/etc` is what a server's Pod has mounted at /etc/nats."""

    def __init__(self, directory: Path, overlay: Path) -> None:
        self.directory = directory
        objects = {manifests.name_of(each): each for each in manifests.rendered(overlay)}
        workload = objects[f"StatefulSet/{SYSTEM}/nats"]
        self._conf = bus.shipped(overlay)
        container = workload["spec"]["template"]["spec"]["containers"][0]
        probes = (container["startupProbe"], container["readinessProbe"])
        self._probes = [each["httpGet"]["path"] for each in probes]
        self.names = [f"nats-{number}" for number in range(workload["spec"]["replicas"])]
        watcher = objects[f"Deployment/{SYSTEM}/watcher"]["spec"]["template"]["spec"]
        given = {each["name"]: each.get("value") for each in watcher["containers"][0]["env"]}
        self.replicas = int(given.get("NSM_NATS_REPLICAS") or 1)
        wanted = list(itertools.product(self.names, (4222, 6222, 8222)))
        self.ports = dict(zip(wanted, bus.free_ports(len(wanted)), strict=True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        directory.mkdir(parents=True, exist_ok=True)
        keyring.make(directory / "keys.json")
        self.keys = keyring.read(directory / "keys.json")
        self.tls_ca = str(directory / "ca.crt")  # what clients have mounted
        self.installed = datetime.now(UTC) - timedelta(days=7)
        self.stored = install_certificates.planned(
            Stored(), install_certificates.names(SYSTEM), now=self.installed
        )

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.processes):
            self.end(name, signal.SIGTERM)

    @property
    def url(self) -> str:
        return ",".join(f"nats://127.0.0.1:{self.ports[name, 4222]}" for name in self.names)

    def start(self) -> None:
        self.tell_clients()
        for name in self.names:
            self.launch(name)
        for name in self.names:
            self.wait_until_ready(name)

    def launch(self, name: str) -> None:
        etc = self.mount(name)
        with (self.directory / name / "log").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command(etc / "nats.conf"),
                env={"POD_NAME": name},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def end(self, name: str, how: signal.Signals) -> None:
        process = self.processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def reload(self, name: str) -> None:
        os.kill(self.processes[name].pid, signal.SIGHUP)

    def tell_clients(self) -> None:
        Path(self.tls_ca).write_bytes(self._bundle())

    def mount(self, name: str) -> Path:
        """The files of a server's Pod, as they would be now."""
        etc = self.directory / name / "etc"
        etc.mkdir(parents=True, exist_ok=True)
        assert self.stored.leaf is not None
        texts = {file: self._placed(text, name) for file, text in self._conf.items()}
        texts["accounts.conf"] = keyring.server_configuration(self.keys)
        for file, text in texts.items():
            (etc / file).write_text(text)
        (etc / "tls.crt").write_bytes(self.stored.leaf.certificate)
        (etc / "tls.key").write_bytes(self.stored.leaf.key)
        (etc / "ca.crt").write_bytes(self._bundle())
        return etc

    def wait_until_ready(self, name: str) -> None:
        """As the kubelet asks."""
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and self.processes[name].poll() is None:
            if self.healthy(name):
                return
            time.sleep(0.02)
        raise AssertionError(f"{name} is not ready: see {self.directory / name / 'log'}")

    def healthy(self, name: str) -> bool:
        """Whether it has started and is ready."""
        return all(self._answers(name, path) for path in self._probes)

    def _answers(self, name: str, path: str) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[name, 8222], timeout=2)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def _bundle(self) -> bytes:
        pems: list[Any] = [each.certificate for each in self.stored.authorities]
        return certificates.bundle(*pems, now=datetime.now(UTC))

    def _placed(self, text: str, name: str) -> str:
        folder = self.directory / name
        return bus.placed(
            text, name, etc=folder / "etc", data=folder / "data", ports=lambda *at: self.ports[at]
        )
