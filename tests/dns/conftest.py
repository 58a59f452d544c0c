from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from services._node import netns
from tests.dns.networks import Cluster
from tests.dns.world import World
from tests.node.sandboxes import Pod, ensure_namespaces_allowed


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """The namespace of the cluster's DNS; every namespace of the test ends with it."""
    ensure_namespaces_allowed(tmp_path)
    yield Cluster(tmp_path)
    for path in tmp_path.glob("netns-*"):
        netns.delete(path)


@pytest.fixture
def pods(tmp_path: Path, cluster: Cluster) -> Callable[[str], Pod]:
    """Makes Pods with an eth0."""
    made: list[Pod] = []

    def make(name: str) -> Pod:
        pod = Pod(tmp_path, name, f"10.244.1.{len(made) + 2}")
        cluster.attach(pod)
        made.append(pod)
        return pod

    return make


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World.made(tmp_path) as found:
        yield found
