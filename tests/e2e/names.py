"""DNS as tests see it: endpoints that serve a zone, questions asked in Pods, and what reached whom."""

import json
import re
from datetime import time
from typing import Any

from tests.e2e.cluster import Cluster, endpoint, endpoint_pod

NAMESERVER = "10.96.0.10"

# Looked at in the Pod itself; the names of its nftables tables, in every family.
TABLES = """
from services._node.nft import GET_TABLE, Message, Nft
with Nft() as socket:
    found = [attributes[1].rstrip(b"\\0").decode() for _, attributes in socket.dump(Message(GET_TABLE, 0))]
print(" ".join(sorted(found)))
"""
# What a sidecar does: the Pod's queries go to a port of its own.
FOREIGN = """
from services._node import nft_rules as rules
from services._node.nft import Nft
with Nft() as socket:
    socket.transact([
        rules.table("sidecar"),
        rules.base_chain("sidecar", "output", kind="nat", hook=rules.LOCAL_OUT, priority=-100),
        rules.rule("sidecar", "output", [
            *rules.meta_is(rules.L4PROTO, bytes([17])), *rules.port_is(53), *rules.redirect(15053)]),
    ])
"""
FOREIGN_GONE = """
from services._node import nft_rules as rules
from services._node.nft import Nft
with Nft() as socket:
    socket.transact([rules.delete_table("sidecar")])
"""
# A client that keeps its socket: asks for each name on its input, one query and 5 s of patience each.
STUB = """
import socket, struct, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.connect(("10.96.0.10", 53))
sock.settimeout(5)
for number, line in enumerate(sys.stdin, 1):
    labels = b"".join(bytes([len(l)]) + l.encode() for l in line.strip().split("."))
    began = time.monotonic()
    sock.send(struct.pack("!6H", number, 256, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!2H", 1, 1))
    try:
        reply = sock.recv(4096)
        while reply[:2] != struct.pack("!H", number):
            reply = sock.recv(4096)
        said = f"rcode {reply[3] & 15}"
    except (TimeoutError, ConnectionError) as exc:
        said = type(exc).__name__
    print(f"{said} {time.monotonic() - began:.3f}", flush=True)
"""


def dns_endpoint(
    name: str,
    namespace: str,
    prefix: str,
    *records: str,
    zone: str = "corp.example",
    delay: int = 0,
    **dns: Any,
) -> list[dict[str, Any]]:
    """An endpoint of the service of its name whose Pod serves a zone; the domains are the zone's."""
    command = ["nsm", "dns-server", "--zone", zone, "--log", "--delay", str(delay)]
    for record in records:
        command += ["--record", record]
    container = {"name": "c", "image": "none", "command": command}
    spec = {"domains": [zone]} | dns
    return [
        endpoint(name, namespace, name, prefix, dns=spec),
        endpoint_pod(f"{name}-1", namespace, name, containers=[container]),
    ]


def ask(
    cluster: Cluster, pod: str, namespace: str, name: str, *words: str, **how: Any
) -> dict[str, Any]:
    """What `nsm dig` says; the status is empty when nobody answered."""
    process = cluster.start("dig", pod, name, "-n", namespace, "-o", "json", *words)
    output, _ = process.communicate(timeout=how.get("timeout", 30))
    assert process.returncode in (0, 9), output
    return dict(json.loads(output))


def data(answer: dict[str, Any]) -> list[str]:
    return [record["data"] for record in answer["answers"]]


def resolves(cluster: Cluster, pod: str, namespace: str, name: str, address: str) -> None:
    """Wait until the name has that address in the Pod."""
    cluster.until(
        f"{name} is {address} in {pod}",
        lambda: data(ask(cluster, pod, namespace, name, "--timeout", "1s")) == [address],
    )


def seen(cluster: Cluster, pod: str, namespace: str, name: str) -> list[float]:
    """When the DNS server of an endpoint Pod saw queries for the name, as seconds of the day."""
    return _times(cluster.nsm("lab", "logs", f"pod/{pod}", "-n", namespace), name)


def seen_by_cluster(cluster: Cluster, pod_ip: str, name: str) -> list[float]:
    """When the cluster's DNS server saw queries of that Pod's own address for the name."""
    log = cluster.nsm("lab", "logs", "clusterdns")
    own = [line for line in log.splitlines() if f" from {pod_ip} " in line]
    return _times("\n".join(own), name)


def in_pod(cluster: Cluster, pod: str, namespace: str, code: str) -> str:
    """What Python prints in the Pod's network."""
    return cluster.nsm("lab", "exec", pod, "-n", namespace, "--", "python", "-c", code)


def tables(cluster: Cluster, pod: str, namespace: str) -> list[str]:
    return in_pod(cluster, pod, namespace, TABLES).split()


def listeners(cluster: Cluster, pod: str, namespace: str) -> list[str]:
    """Ports of the Pod that somebody listens on, as the kernel's tables say."""
    words = ["lab", "exec", pod, "-n", namespace, "--", "sh", "-c"]
    found = []
    for table, state in (("udp", "07"), ("udp6", "07"), ("tcp", "0A"), ("tcp6", "0A")):
        for line in cluster.nsm(*words, f"cat /proc/self/net/{table}").splitlines()[1:]:
            fields = line.split()
            if fields[3] == state:
                found.append(f"{table} {int(fields[1].rsplit(':', 1)[1], 16)}")
    return found


def serving(cluster: Cluster, namespace: str, *pods: str) -> None:
    """Wait until the DNS servers of these Pods can be asked: before, their kernel refuses for them."""

    def serve() -> bool:
        return all("udp 53" in listeners(cluster, each, namespace) for each in pods)

    cluster.until(f"{', '.join(pods)} serve DNS", serve)


def address_of(cluster: Cluster, pod: str, namespace: str) -> str:
    (found,) = [p for p in cluster.items("pods", namespace) if p["metadata"]["name"] == pod]
    return str(found["status"]["podIP"])


def _times(log: str, name: str) -> list[float]:
    found = []
    for line in log.splitlines():
        match = re.match(rf"(\d\d:\d\d:\d\d\.\d+) \w+ {re.escape(name)}\. ", line)
        if match:
            at = time.fromisoformat(match[1])
            found.append(at.hour * 3600 + at.minute * 60 + at.second + at.microsecond / 1e6)
    return found
