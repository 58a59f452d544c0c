"""Scheduler and kubelets of all nodes: a Pod object becomes a network namespace with processes in it.

Level-triggered as everything else: one worker per Pod (by UID) compares what the object wants with what
runs. A Pod is bound by `nodeName`, else round robin; its sandbox stands, CNI result included, before its
first container starts; a deleted Pod's object goes last, after processes, result file and namespace.
"""

import asyncio
import itertools

import structlog

from lab.cluster import Cluster
from lab.layout import Layout
from lab.network import Network, Node
from lab.pods import Json
from lab.podworker import PodWorker
from lab.sandboxes import Sandboxes

log = structlog.get_logger()


class Kubelet:
    """`run` for ever. The verbs on nodes answer when the node is as asked."""

    def __init__(self, cluster: Cluster, network: Network, layout: Layout) -> None:
        self._cluster = cluster
        self._layout = layout
        self._nodes = {node.name: node for node in network.nodes}
        self._sandboxes = {node.name: Sandboxes(layout, network, node) for node in network.nodes}
        self._stopped: set[str] = set()
        self._round_robin = itertools.cycle(self._nodes)
        self._workers: dict[str, PodWorker] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._cluster.watch("pods", self._on_pod)
            await asyncio.Event().wait()

    async def stop_node(self, name: str) -> None:
        """As if its power were cut: processes and networks of its Pods are gone, their objects stay."""
        self._stopped.add(name)
        crashed = [w for w in self._workers.values() if w.node == name]
        for worker in crashed:
            worker.crash()
        for worker in crashed:
            await worker.over.wait()

    def start_node(self, name: str) -> None:
        """As after a boot: every Pod bound to the node gets a new sandbox under its old UID."""
        self._stopped.discard(name)
        for pod in self._cluster.objects("pods"):
            if pod["spec"].get("nodeName", name) == name:
                self._on_pod("MODIFIED", pod)

    def _on_pod(self, event: str, pod: Json) -> None:
        uid = pod["metadata"]["uid"]
        worker = self._workers.get(uid)
        if worker is not None:
            worker.update(pod, gone=event == "DELETED")
            return
        node = pod["spec"].get("nodeName")
        if event == "DELETED":
            return
        if not node:
            self._schedule(pod)
        elif node in self._nodes and node not in self._stopped:
            self._start(pod, self._nodes[node])

    def _schedule(self, pod: Json) -> None:
        """The next node that runs; without one the Pod waits until a node starts."""
        if pod["metadata"].get("deletionTimestamp"):
            return
        for _ in self._nodes:
            node = next(self._round_robin)
            if node not in self._stopped:
                self._cluster.bind(pod, node)
                return

    def _start(self, pod: Json, node: Node) -> None:
        uid = pod["metadata"]["uid"]
        if pod["metadata"].get("deletionTimestamp"):
            self._cluster.confirm_deleted(pod)
            return
        if (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            return
        worker = PodWorker(pod, node, self._sandboxes[node.name], self._cluster, self._layout)
        self._workers[uid] = worker
        assert self._tasks is not None
        self._tasks.create_task(self._work(uid, worker), name=f"pod {worker.label}")

    async def _work(self, uid: str, worker: "PodWorker") -> None:
        try:
            await worker.run()
        except Exception:
            # One Pod's trouble must not end the lab.
            log.exception("pod failed", pod=worker.label, node=worker.node)
            if worker.is_ending:
                self._cluster.confirm_deleted(worker.pod)
        finally:
            self._workers.pop(uid, None)
            worker.over.set()
