"""The lab's main process: API server, DNS, kubelets and supervisor on one event loop, outside of every node.

It leaves no tidying to itself: when it ends, init ends, and the kernel takes everything else.
"""

import asyncio
import logging
import os
import shutil
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import structlog

from lab import blocking, control
from lab.api.guarding import guard
from lab.api.kubeconfig import write_kubeconfig
from lab.api.server import LabApi
from lab.api.store import Store
from lab.cluster import Cluster
from lab.clusterdns import ClusterDns, QueryLog
from lab.fleet import MAX_REPLICAS, Fleet
from lab.kubelet import Kubelet
from lab.layout import Config, LabProblem, Layout, State
from lab.network import MAX_NODES, Network, Node
from lab.peers import Peers
from lab.sandbox import Pids, Reporter
from lab.servers import SERVER_COUNTS
from lab.supervisor import Supervisor
from lab.workloads import Workloads
from services._node.nft import NftError

log = structlog.get_logger()


def main(config: Config, report: Reporter, pids: Pids, peers: Peers) -> int:
    """Run until TERM; the exit code."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
    )
    code = 0
    try:
        asyncio.run(_Lab(config, report, pids, peers).run())
    except* LabProblem as group:
        code = _tell(report, "; ".join(str(exc) for exc in _leaves(group)))
    except* Exception as group:
        log.exception("the lab failed")
        reasons = "; ".join(repr(exc) for exc in _leaves(group))
        code = _tell(report, f"the lab failed: {reasons}; see {config.directory}/logs/lab.log")
    return code


def _tell(report: Reporter, error: str) -> int:
    report.say(error=error, code=1)
    return 1


def _leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    found: list[BaseException] = []
    for exc in group.exceptions:
        found.extend(_leaves(exc) if isinstance(exc, BaseExceptionGroup) else [exc])
    return found


class _Lab:
    def __init__(self, config: Config, report: Reporter, pids: Pids, peers: Peers) -> None:
        self._config = config
        self._report = report
        self._pids = pids
        self._peers = peers
        self._power = asyncio.Lock()  # one change of a node at a time
        self._layout = Layout(Path(config.directory))
        self._nodes = tuple(Node(number=n) for n in range(1, config.nodes + 1))
        self._network = Network(self._layout, self._nodes)
        self._cluster = Cluster(Store())
        self._kubelet = Kubelet(self._cluster, self._network, self._layout)
        self._api = LabApi(self._cluster.store, middlewares=[guard(self._peers.is_trusted)])
        self._workloads = Workloads(
            self._cluster, self._api.issuer, self._layout, token_seconds=config.token_seconds
        )
        self._supervisor = Supervisor(self._layout, self._workloads.tell)
        self._fleet = Fleet(config, self._layout, self._network, self._supervisor, self._workloads)

    async def run(self) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        self._check()
        await asyncio.to_thread(self._wipe)
        async with asyncio.TaskGroup() as tasks:
            url = await self._start_api()
            wires = tasks.create_task(asyncio.to_thread(self._network.build))
            if self._config.services:
                await self._fleet.start_bus(tasks)
            await wires
            # Not before: what earlier labs left in the directory is wiped first.
            queries = QueryLog(self._layout.log("clusterdns"))
            dns = ClusterDns(self._cluster.service_addresses, queries)
            for node in self._nodes:
                await dns.serve(node.name, self._network.path(node))
            tasks.create_task(self._kubelet.run(), name="kubelet")
            tasks.create_task(self._workloads.run(), name="workloads")
            self._fleet.start_services(tasks)
            await control.serve(self._layout, self)
            self._announce(url)
            await stop.wait()
            log.info("the lab ends")
            # Nothing to put in order: what we started ends with us, and its state is wiped at the next start.
            os._exit(0)

    # ---- verbs of the control socket

    def processes(self) -> list[Any]:
        return [
            msgspec.structs.replace(
                each, node_stopped=self._kubelet.is_stopped(each.name.partition("/")[2])
            )
            for each in self._supervisor.statuses()
        ]

    def kill(self, name: str, number: int, *, hold: bool) -> None:
        self._supervisor.kill(self._process(name), number, hold=hold)

    def start(self, name: str) -> None:
        process = self._process(name)
        node = process.partition("/")[2]
        if self._kubelet.is_stopped(node):
            raise LabProblem(
                f"{process} runs on {node}, which is stopped; start it whole: nsm lab node start {node}"
            )
        self._supervisor.release(process)

    async def stop_node(self, name: str) -> None:
        """Power off: its services, its Pods and its cable; Kubernetes says NotReady."""
        node = self._node(name)
        async with self._power:
            for service in self._services_of(name):
                self._supervisor.kill(service, signal.SIGKILL, hold=True)
            await asyncio.to_thread(self._network.set_node_link, node, up=False)
            await self._kubelet.stop_node(name)
            self._cluster.set_node_ready(name, ready=False)

    async def start_node(self, name: str) -> None:
        node = self._node(name)
        async with self._power:
            await asyncio.to_thread(self._network.set_node_link, node, up=True)
            for service in self._services_of(name):
                self._supervisor.release(service)
            self._cluster.set_node_ready(name, ready=True)
            self._kubelet.start_node(name)

    async def block_node(self, name: str) -> None:
        """A firewall in the way of its tunnels."""
        await self._block(name, is_blocked=True)

    async def unblock_node(self, name: str) -> None:
        await self._block(name, is_blocked=False)

    async def _block(self, name: str, *, is_blocked: bool) -> None:
        path = self._network.path(self._node(name))
        try:
            await asyncio.to_thread(blocking.block, path, is_blocked=is_blocked)
        except NftError as exc:
            raise LabProblem(f"{name}: {exc}{blocking.remedy(exc)}") from exc

    def _services_of(self, node: str) -> list[str]:
        return [name for name in self._supervisor.names if name.endswith(f"/{node}")]

    def _process(self, name: str) -> str:
        """A process by its name, or by that of its log: nats-1 is nats/1."""
        for known in self._supervisor.names:
            if name in (known, known.replace("/", "-")):
                return known
        known = ", ".join(self._supervisor.names) or "none"
        raise LabProblem(f"no process {name!r} in this lab; there are: {known}")

    def _node(self, name: str) -> Node:
        for node in self._nodes:
            if node.name == name:
                return node
        raise LabProblem(f"no node {name!r}; there are: {', '.join(self._config.node_names)}")

    # ---- start

    def _check(self) -> None:
        if not 1 <= len(self._nodes) <= MAX_NODES:
            raise LabProblem(f"{len(self._nodes)} nodes: a lab has 1 to {MAX_NODES}")
        if self._config.nats not in SERVER_COUNTS:
            choice = ", ".join(map(str, SERVER_COUNTS))
            raise LabProblem(f"{self._config.nats} NATS servers: a lab has one of {choice}")
        if not 1 <= self._config.replicas <= MAX_REPLICAS:
            raise LabProblem(f"{self._config.replicas} replicas: a lab has 1 to {MAX_REPLICAS}")

    def _wipe(self) -> None:
        """A new cluster remembers nothing of the one before in this directory."""
        layout = self._layout
        layout.kubeconfig.unlink(missing_ok=True)
        layout.keys.unlink(missing_ok=True)
        for place in (
            layout.nats,
            layout.netns,
            layout.tokens,
            layout.root / "nodes",
            layout.root / "pods",
        ):
            shutil.rmtree(place, ignore_errors=True)
        for old in layout.logs.rglob("*.log"):
            if old.name != "lab.log":  # ours, open
                old.unlink()
        for name in self._config.node_names:
            layout.cni_results(name).mkdir(parents=True)
            layout.run_dir(name).mkdir(parents=True)

    async def _start_api(self) -> str:
        self._cluster.seed(self._nodes)
        url = await self._api.start("127.0.0.1", 0)
        write_kubeconfig(self._layout.kubeconfig, url, "")
        return url

    def _announce(self, api_url: str) -> None:
        self._layout.write_state(
            State(
                launcher_pid=self._pids.launcher,
                init_pid=self._pids.init,
                daemon_pid=self._pids.daemon,
                nodes=self._config.node_names,
                services=self._config.services,
                api_url=api_url,
                nats_url=self._fleet.nats_url,
                tls_ca=self._fleet.tls_ca,
                cli_token_file=self._fleet.cli_token_file,
                started=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        )
        log.info("the lab is ready", api=api_url)
        self._report.say(ready=True)
        self._report.close()
