from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from services._node import netns
from tests.node.sandboxes import Pod, ensure_namespaces_allowed
from tests.plumber.world import World


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Callable[..., Pod]]:
    """Makes Pods' sandboxes; ends them all."""
    ensure_namespaces_allowed(tmp_path)
    made: list[Pod] = []

    def make(name: str, ip: str = "") -> Pod:
        pod = Pod(tmp_path, name, ip or f"10.244.1.{len(made) + 2}")
        made.append(pod)
        return pod

    yield make
    for path in tmp_path.glob("netns-*"):
        netns.delete(path)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with World.made(tmp_path) as found:
        yield found


@pytest.fixture
def pair(pods: Callable[..., Pod], world: World) -> tuple[Pod, Pod]:
    """A client and a server with networks that the CNI told of."""
    both = pods("client"), pods("server")
    for pod in both:
        pod.attach(world.results)
    return both
