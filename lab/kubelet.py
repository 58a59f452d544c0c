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
from lab.pods import Json, backoff_seconds, is_mirror
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
            self._cluster.watch("nodes", self._on_node)
            await asyncio.Event().wait()

    async def stop_node(self, name: str) -> None:
        """As if its power were cut: processes and networks of its Pods are gone, their objects stay."""
        self._stopped.add(name)
        crashed = [w for w in self._workers.values() if w.node == name]
        for worker in crashed:
            worker.crash()
        for worker in crashed:
            await worker.over.wait()

    def is_stopped(self, node: str) -> bool:
        return node in self._stopped

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
        if is_mirror(pod):
            if pod["metadata"].get("deletionTimestamp"):
                self._cluster.confirm_deleted(pod)
            return
        if not node:
            self._schedule(pod)
        elif node not in self._nodes:
            # No kubelet will ever confirm: Kubernetes collects such Pods.
            if pod["metadata"].get("deletionTimestamp"):
                self._cluster.confirm_deleted(pod)
        elif node not in self._stopped:
            self._start(pod, self._nodes[node])

    def _on_node(self, _event: str, _node: Json) -> None:
        """It may take now what nothing took before."""
        for pod in self._cluster.objects("pods"):
            if not pod["spec"].get("nodeName"):
                self._schedule(pod)

    def _schedule(self, pod: Json) -> None:
        """The next node that runs and may take it; without one the Pod waits until there is one."""
        if pod["metadata"].get("deletionTimestamp"):
            return
        fitting = {n["metadata"]["name"] for n in self._cluster.objects("nodes") if takes(n, pod)}
        for _ in self._nodes:
            node = next(self._round_robin)
            if node in fitting and node not in self._stopped:
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
            for failures in itertools.count():
                try:
                    await worker.run()
                except Exception as exc:
                    # One Pod's trouble must not end the lab.
                    log.exception("pod failed", pod=worker.label, node=worker.node)
                    if worker.is_ending:
                        break
                    await worker.rest(backoff_seconds(failures), problem=repr(exc))
                else:
                    return
            worker.confirm()
        finally:
            self._workers.pop(uid, None)
            worker.over.set()


def takes(node: Json, pod: Json) -> bool:
    """Whether a Pod may be put on a node: not cordoned, and labelled as the Pod asks."""
    if (node.get("spec") or {}).get("unschedulable"):
        return False
    labels = node["metadata"].get("labels") or {}
    wanted = pod["spec"].get("nodeSelector") or {}
    return all(labels.get(name) == value for name, value in wanted.items())
