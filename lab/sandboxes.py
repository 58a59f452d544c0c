"""A Pod's sandbox: network namespace, address, CNI result file; and the processes started in it.

What a container runtime and a CNI plugin do on a node. Blocking; the kubelet calls from threads.
"""

import os
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import msgspec

from lab import entering
from lab.layout import Layout
from lab.network import CLUSTER_DOMAIN, DNS_ADDRESS, Network, Node
from lab.pods import Sandbox
from lab.processes import popen
from services._node import cni, netns

CNI_NETWORK = "lab"

_NAMES = threading.Lock()  # who bears a name is looked at and changed in threads

Json = dict[str, Any]


class NoAddress(Exception):
    """Every address of the node's Pod network is in use."""


class Addresses:
    """A node's Pod addresses, next-fit: a freed one rests while others are free, for caches' sake."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._used: set[int] = set()
        self._next = 2  # .1 is the gateway

    def take(self) -> IPv4Address:
        for step in range(253):
            offset = 2 + (self._next - 2 + step) % 253
            if offset not in self._used:
                self._used.add(offset)
                self._next = offset + 1
                return self._node.pod_cidr[offset]
        raise NoAddress(f"all 253 addresses of {self._node.pod_cidr} are in use; delete Pods")

    def free(self, address: str) -> None:
        self._used.discard(int(IPv4Address(address)) - int(self._node.pod_cidr[0]))


class Sandboxes:
    """Makes and removes the sandboxes of one node."""

    def __init__(self, layout: Layout, network: Network, node: Node) -> None:
        self._layout = layout
        self._network = network
        self._node = node
        self._addresses = Addresses(node)

    def create(self, pod: Json, *, now: str) -> Sandbox:
        """The network of a Pod, announced by its CNI result. What it raises leaves nothing behind."""
        node, host_ip = self._node, str(self._node.address)
        identity = secrets.token_hex(32)
        sandbox = Sandbox(
            id=identity,
            netns=str(self._network.path(node)),
            ip=host_ip,
            host_ip=host_ip,
            started_at=now,
        )
        with ExitStack() as undo:
            if not pod["spec"].get("hostNetwork"):
                address = self._addresses.take()
                undo.callback(self._addresses.free, str(address))
                path, port = self._layout.netns / f"pod-{identity[:12]}", _port(identity)
                self._network.add_pod(path, node, address, port=port)
                undo.callback(self._network.remove_pod, path, node, port=port)
                sandbox = msgspec.structs.replace(sandbox, netns=str(path), ip=str(address))
            undo.callback(self._remove_pod_dir, pod)
            self._write_pod_dir(pod, sandbox)
            if sandbox.ip != host_ip:
                cni.write(self._layout.cni_results(node.name), _result(pod, sandbox))
            undo.pop_all()
        return sandbox

    def remove(self, pod: Json, sandbox: Sandbox) -> None:
        """In a CNI's order: processes, result file, interface, namespace."""
        # Last one first; one that fails keeps none of the others from being done.
        with ExitStack() as steps:
            steps.callback(self._remove_pod_dir, pod)
            if sandbox.ip == sandbox.host_ip:
                return
            steps.callback(self._remove_network, sandbox)
            results = self._layout.cni_results(self._node.name)
            steps.callback(cni.remove, results, _result(pod, sandbox))
            steps.callback(kill_everything_in, Path(sandbox.netns))

    def _remove_network(self, sandbox: Sandbox) -> None:
        self._network.remove_pod(Path(sandbox.netns), self._node, port=_port(sandbox.id))
        self._addresses.free(sandbox.ip)

    def start(
        self,
        pod: Json,
        sandbox: Sandbox,
        *,
        command: Sequence[str],
        env: Mapping[str, str],
        log: Path,
        directory: str,
    ) -> "subprocess.Popen[bytes]":
        """A container: a plain process in the Pod's network. Raises OSError or ValueError when it cannot start."""
        resolv_conf = self._pod_dir(pod) / "resolv.conf"

        def enter_and_start() -> "subprocess.Popen[bytes]":
            warning = entering.become(hostname=pod["metadata"]["name"], resolv_conf=resolv_conf)
            if warning:
                with log.open("a") as output:
                    output.write(f"nsm lab: {warning}\n")
            return popen(command, log=log, env=env, directory=directory)

        log.parent.mkdir(parents=True, exist_ok=True)
        return netns.in_netns(sandbox.netns, enter_and_start)

    def _pod_dir(self, pod: Json) -> Path:
        return self._layout.pod_dir(pod["metadata"]["uid"])

    def _pod_link(self, pod: Json) -> Path:
        return self._layout.pod_link(pod["metadata"]["namespace"], pod["metadata"]["name"])

    def _write_pod_dir(self, pod: Json, sandbox: Sandbox) -> None:
        directory = self._pod_dir(pod)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "resolv.conf").write_text(_resolv_conf(pod))
        _point(directory / "netns", sandbox.netns)
        link = self._pod_link(pod)
        link.parent.mkdir(parents=True, exist_ok=True)
        with _NAMES:
            _point(link, os.path.relpath(directory, link.parent))

    def _remove_pod_dir(self, pod: Json) -> None:
        directory, link = self._pod_dir(pod), self._pod_link(pod)
        with _NAMES:
            # A Pod that was created anew may bear the name already.
            if link.is_symlink() and link.readlink().name == directory.name:
                link.unlink()
        shutil.rmtree(directory, ignore_errors=True)


def _point(link: Path, target: str) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)


def _port(identity: str) -> str:
    return f"veth{identity[:10]}"


def _result(pod: Json, sandbox: Sandbox) -> cni.CniResult:
    metadata = pod["metadata"]
    return cni.CniResult(
        uid=metadata["uid"],
        namespace=metadata["namespace"],
        name=metadata["name"],
        container_id=sandbox.id,
        netns=sandbox.netns,
        network=CNI_NETWORK,
        ips=(f"{sandbox.ip}/24",),
    )


def _resolv_conf(pod: Json) -> str:
    """As a kubelet writes it: ClusterFirst, the machine's own (Default), or what dnsConfig says (None)."""
    config = pod["spec"].get("dnsConfig") or {}
    namespace = pod["metadata"]["namespace"]
    servers = [DNS_ADDRESS]
    searches = [f"{namespace}.svc.{CLUSTER_DOMAIN}", f"svc.{CLUSTER_DOMAIN}", CLUSTER_DOMAIN]
    options = ["ndots:5"]
    if pod["spec"].get("dnsPolicy") in ("None", "Default"):
        servers, searches, options = [], [], []
    servers += config.get("nameservers") or []
    searches += config.get("searches") or []
    options += [
        f"{o['name']}:{o['value']}" if o.get("value") else o["name"]
        for o in config.get("options") or []
    ]
    lines = [f"nameserver {server}" for server in servers]
    if pod["spec"].get("dnsPolicy") == "Default":
        lines = [*_own_resolv_conf(), *lines]
    if searches:
        lines.append(f"search {' '.join(searches)}")
    if options:
        lines.append(f"options {' '.join(options)}")
    return "\n".join(lines) + "\n"


def _own_resolv_conf() -> list[str]:
    try:
        return entering.RESOLV_CONF.read_text().splitlines()
    except OSError:
        return []


def kill_everything_in(path: Path) -> None:
    """KILL what still runs in a namespace: what a container left behind, what `nsm lab exec` started."""
    wanted = netns.identity(path)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if netns.identity(entry / "ns" / "net") == wanted:
                os.kill(_pid_here(entry), signal.SIGKILL)
        except OSError:
            continue  # ended meanwhile, or not ours to look at


def _pid_here(entry: Path) -> int:
    """The pid in our namespace: where /proc could not be mounted anew, the entry's name is another one's."""
    for line in (entry / "status").read_text().splitlines():
        if line.startswith("NSpid:"):
            return int(line.split()[-1])
    raise ProcessLookupError(entry)
