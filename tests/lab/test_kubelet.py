"""Where Pods may go, and what becomes of one whose worker fails."""

import asyncio
from typing import Any

from lab import cluster, kubelet
from lab.api.kinds import PODS
from lab.api.store import Store
from lab.layout import Layout
from lab.network import Network, Node
from lab.pods import Sandbox


def test_the_scheduler_honours_cordon_and_node_selector():
    node: dict[str, Any] = cluster._node(Node(number=1))
    pod: dict[str, Any] = {"metadata": {"name": "p"}, "spec": {}}
    wanting = pod | {"spec": {"nodeSelector": {"disk": "ssd"}}}
    assert kubelet.takes(node, pod)
    assert not kubelet.takes(node, wanting)
    assert not kubelet.takes(node | {"spec": {"unschedulable": True}}, pod)
    node["metadata"]["labels"]["disk"] = "ssd"
    assert kubelet.takes(node, wanting)


class Sandboxes:
    """Counts instead of making: what is asked of it is the point."""

    def __init__(self) -> None:
        self.made = self.removed = self.tries = 0

    def create(self, _pod, *, now):
        self.made += 1
        return Sandbox(id="s", netns="/n", ip="10.244.1.2", host_ip="172.18.0.11", started_at=now)

    def remove(self, _pod, _sandbox):
        self.removed += 1

    def start(self, *_args, **_options):
        self.tries += 1
        raise RuntimeError("nobody thought of this")


async def test_a_failed_worker_has_no_sandbox_and_is_tried_again_with_back_off(
    tmp_path, monkeypatch
):
    pauses: list[int] = []

    def no_pause(failures):
        pauses.append(failures)
        return 0

    monkeypatch.setattr(kubelet, "backoff_seconds", no_pause)
    store, layout = Store(), Layout(tmp_path)
    nodes = cluster.Cluster(store)
    keeper = kubelet.Kubelet(nodes, Network(layout, (Node(number=1),)), layout)
    sandboxes = Sandboxes()
    monkeypatch.setattr(keeper, "_sandboxes", {"node1": sandboxes})
    container = {"name": "main", "image": "none", "command": ["true"]}
    spec = {"containers": [container], "nodeName": "node1"}
    store.create(PODS, {"metadata": {"name": "p", "namespace": "default"}, "spec": spec})
    async with asyncio.TaskGroup() as tasks, asyncio.timeout(30):
        running = tasks.create_task(keeper.run())
        while len(pauses) < 3:
            await asyncio.sleep(0.001)
        assert sandboxes.made == sandboxes.removed == sandboxes.tries
        store.delete(PODS, "default", "p")
        while store.find(PODS, "default", "p"):
            await asyncio.sleep(0.001)
        running.cancel()
    assert pauses[:3] == [0, 1, 2]
    assert sandboxes.made == sandboxes.removed
