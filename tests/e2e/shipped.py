"""The bus of a lab, run with the configuration that k8s/overlays/production holds."""

import json
import time
import urllib.request
from pathlib import Path

from tests.e2e.cluster import Cluster
from tests.manifests import bus

_READY_SECONDS = 60.0


def give_shipped_configuration(lab: Cluster) -> None:
    """Of a lab with three servers and TLS. Streams, certificates and client ports stay the lab's."""
    urls = json.loads((lab.directory / "lab.json").read_text())["nats_url"].split(",")
    clients = [int(url.rsplit(":", 1)[1]) for url in urls]
    others = bus.free_ports(2 * len(clients))
    ports: dict[tuple[str, int], int] = {}
    for number, client in enumerate(clients):
        ports |= {(f"nats-{number}", 4222): client}
        ports |= {(f"nats-{number}", port): others.pop() for port in (6222, 8222)}
    nats = lab.directory / "nats"
    for number in range(len(clients)):
        _write(nats / str(number + 1), f"nats-{number}", nats, ports)
    for number in range(len(clients)):
        lab.nsm("lab", "kill", f"nats/{number + 1}")
    for number in range(len(clients)):
        _await_health(ports[f"nats-{number}", 8222])


def _write(folder: Path, server: str, etc: Path, ports: dict[tuple[str, int], int]) -> None:
    for name, text in bus.shipped(bus.PRODUCTION).items():
        placed = bus.placed(
            text, server, etc=etc, data=folder / "store", ports=lambda *at: ports[at]
        )
        # The name by which the lab's servers know each other in the streams that are there already.
        (folder / name).write_text(placed.replace("$POD_NAME", f"nats-{folder.name}"))


def _await_health(port: int) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                return
        except OSError:
            assert time.monotonic() < deadline, f"no health at port {port}"
            time.sleep(0.05)
