"""A plumber with what its manifest gives it, and nothing more: it can do everything, and needs all of it."""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec
import pytest

from schemas.grant import Connection
from schemas.state import EndStatus, NodeFacts, Status
from schemas.subjects import NodeKey, StatusKey
from services._node import netns, nft, nft_tunnels
from services._runtime.bus import Bus
from services.plumber.service import Plumber
from services.plumber.settings import Settings
from tests.node import confined
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, V6, a_grant
from tests.plumber.nodes import Nodes, remote
from tests.plumber.world import World

CAPABILITIES = confined.capabilities_of("plumber")
LOCAL = StatusKey("node1", "default", "local", "nsm0")
REMOTE = StatusKey("node1", "default", "client", "nsm0")

_SECONDS = 60  # a process has to start

Start = Callable[..., AbstractContextManager[Path]]


@pytest.fixture
def nodes(tmp_path: Path, pods: Callable[..., Pod]) -> Nodes:
    return Nodes(tmp_path)


@pytest.fixture
def local(pods: Callable[..., Pod], world: World) -> Iterator[Pod]:
    pod, gateway = pods("local"), pods("gateway")
    gateway.attach(world.results)
    with confined.told_by_its_process(pod, world.results):
        yield pod


@pytest.fixture
def start(tmp_path: Path, world: World, nodes: Nodes) -> Start:
    def begin(capabilities: list[str], **more: str) -> AbstractContextManager[Path]:
        settings = {
            "PLUMBER_NODE": "node1",
            "PLUMBER_NODE_NETNS": nodes.paths["node1"],
            "PLUMBER_CNI_RESULTS": str(world.results),
            "PLUMBER_RUNTIME_DIR": str(tmp_path / "run"),
            "PLUMBER_SYSCTLS": str(tmp_path / confined.SYSCTLS),
            "NSM_NATS_URL": world.nats.url,
        }
        return confined.running("services.plumber", tmp_path, capabilities, settings | more)

    return begin


def a_local_grant() -> Connection:
    return a_grant(V4, V6, client="local", server="gateway", number=2)


def end(world: World, key: StatusKey) -> EndStatus | None:
    found = world.state.items.get(key)
    return found.client if isinstance(found, Status) else None


async def until(world: World, key: StatusKey, state: str) -> EndStatus:
    def holds() -> EndStatus | None:
        found = end(world, key)
        return found if found and found.state == state else None

    told: EndStatus = await world.until(holds, seconds=_SECONDS)
    return told


@pytest.fixture
def other(nodes: Nodes, pods: Callable[..., Pod], world: World, tmp_path: Path) -> Settings:
    """Of the plumber of the second node; a Pod runs on each."""
    pods("client").attach(world.results)
    pods("server").attach(tmp_path / "results-node2")
    return Settings(
        node="node2",
        node_netns=nodes.paths["node2"],
        cni_results=str(tmp_path / "results-node2"),
        runtime_dir=str(tmp_path / "run-node2"),
    )


async def test_the_manifests_capabilities_are_enough(
    world: World, nodes: Nodes, other: Settings, local: Pod, start: Start
) -> None:
    grant = remote(V4, V6)
    await world.grant(msgspec.structs.replace(grant, node="node2"))
    await world.grant(grant)
    await world.grant(a_local_grant())
    bus = await Bus.connect(world.nats.url, name="plumber-node2")
    try:
        with start(CAPABILITIES) as log:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(Plumber(bus, other).run())
                await until(world, LOCAL, "ready")
                await until(world, REMOTE, "ready")
                task.cancel()
            facts = await world.until(lambda: world.state.items.get(NodeKey("node1")))
            assert isinstance(facts, NodeFacts)
            assert facts.mechanisms == ("veth", "vxlan")
            with nft.Nft(nodes.paths["node1"]) as socket:
                assert nft_tunnels.stands(socket)

            local.delete_link("nsm0")

            await world.until(lambda: (found := end(world, LOCAL)) and found.repaired)
            assert "found by the sweep only" not in log.read_text()
    finally:
        await bus.close()


async def test_what_others_see_of_a_sysctl_is_not_what_the_pod_has(
    world: World, local: Pod, start: Start
) -> None:
    """The mount of the settings shows those of whoever opens them."""

    def accept_ra(interface: str) -> str:
        return Path("/proc/sys/net/ipv6/conf", interface, "accept_ra").read_text().strip()

    before = accept_ra("lo")
    await world.grant(a_local_grant())
    with start(CAPABILITIES):
        await until(world, LOCAL, "ready")

        assert netns.in_netns(local.netns, lambda: accept_ra("nsm0")) == "0"
        assert accept_ra("lo") == before
        assert not os.path.exists("/proc/sys/net/ipv6/conf/nsm0")  # noqa: PTH110


@pytest.mark.parametrize("missing", [c for c in CAPABILITIES if c != "NET_BROADCAST"])
async def test_each_capability_is_needed(
    missing: str, world: World, local: Pod, start: Start
) -> None:
    await world.grant(a_local_grant())
    with start([each for each in CAPABILITIES if each != missing]):
        told = await until(world, LOCAL, "failed")
    assert "ermitted" in told.message or "ermission denied" in told.message


async def test_without_net_broadcast_it_says_what_that_costs(
    world: World, local: Pod, start: Start
) -> None:
    await world.grant(a_local_grant())
    with start([each for each in CAPABILITIES if each != "NET_BROADCAST"]) as log:
        await until(world, LOCAL, "ready")
        assert "found by the sweep only" in log.read_text()


async def test_read_only_settings_of_networks_are_told(
    world: World, local: Pod, start: Start
) -> None:
    await world.grant(a_local_grant())
    with start(CAPABILITIES, PLUMBER_SYSCTLS="/proc/sys/net"):
        told = await until(world, LOCAL, "failed")
    assert "Read-only file system" in told.message
