"""The NATS configuration that k8s/ holds, and what has to be replaced in it to run it outside of a Pod."""

import contextlib
import random
import re
import socket
from collections.abc import Callable
from pathlib import Path

from tests.manifests import manifests

SYSTEM = "nsm-system"
BASE, PRODUCTION = manifests.K8S, manifests.K8S / "overlays/production"


def shipped(overlay: Path) -> dict[str, str]:
    """Files by name, as a server's Pod has them mounted."""
    for each in manifests.rendered(overlay):
        if manifests.name_of(each) == f"ConfigMap/{SYSTEM}/nsm-nats":
            files: dict[str, str] = each["data"]
            return files
    raise AssertionError(f"no ConfigMap nsm-nats in {overlay}")


def placed(
    text: str, server: str, *, etc: Path, data: Path, ports: Callable[[str, int], int]
) -> str:
    """A file of it on loopback. `ports`: of a server (`nats-0`) the port that stands for 4222, 6222 or 8222."""
    text = text.replace("/etc/nats/", f"{etc}/").replace('"/data"', f'"{data}"')
    text = re.sub(r"0\.0\.0\.0:(\d+)", lambda m: f"127.0.0.1:{ports(server, int(m[1]))}", text)
    return re.sub(
        r"(nats-\d)\.nats-pods\.nsm-system\.svc:(\d+)",
        lambda m: f"127.0.0.1:{ports(m[1], int(m[2]))}",
        text,
    )


def free_ports(count: int) -> list[int]:
    """Below those that the kernel gives to clients: a restarted server must find its own free."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found
