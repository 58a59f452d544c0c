"""Two plumbers, two nodes, one bus: connections between them."""

import asyncio
import contextlib
import ipaddress
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.codec import Tombstone
from schemas.grant import TUNNEL_PORT, Connection
from schemas.state import EndStatus, NodeFacts, Status
from schemas.subjects import ConnectionKey, NodeKey, StatusKey
from services._node import encoding, links, netns, nft, nft_tunnels
from services._runtime.bus import Bus
from services.plumber.adapters import peers
from services.plumber.service import Plumber
from services.plumber.settings import Settings
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, there, with_client
from tests.plumber.nodes import ADDRESSES, Nodes, remote
from tests.plumber.test_adapters import answers
from tests.plumber.world import World

Pods = Callable[..., Pod]


class Cluster:
    """Two nodes with a plumber each, as long as one wants."""

    def __init__(self, world: World, directory: Path, pods: Pods) -> None:
        self.world = world
        self.directory = directory
        self.nodes = Nodes(directory)
        self.client, self.server = pods("client"), pods("server")
        self.client.attach(directory / "results-node1")
        self.server.attach(directory / "results-node2")

    @asynccontextmanager
    async def plumber(self, node: str) -> AsyncIterator[Plumber]:
        bus = await Bus.connect(self.world.nats.url, name=f"plumber-{node}")
        settings = Settings(
            node=node,
            node_netns=self.nodes.paths[node],
            cni_results=str(self.directory / f"results-{node}"),
            runtime_dir=str(self.directory / f"run-{node}"),
        )
        plumber = Plumber(bus, settings, sweep_seconds=0.5)
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(plumber.run())
                yield plumber
                task.cancel()
        finally:
            await bus.close()

    @asynccontextmanager
    async def plumbers(self) -> AsyncIterator[None]:
        async with self.plumber("node1"), self.plumber("node2"):
            yield

    async def grant(self, grant: Connection) -> None:
        for node in ("node1", "node2"):
            await self.world.grant(msgspec.structs.replace(grant, node=node))

    async def release(self, grant: Connection) -> None:
        for node in ("node1", "node2"):
            key = ConnectionKey(node, "default", "client", "nsm0")
            released = Tombstone(released=grant.client.pod.uid, revision=grant.revision)
            await self.world.bus.bury(key, released)

    def status(self, node: str) -> Status | None:
        found = self.world.state.items.get(status_key(node))
        return found if isinstance(found, Status) else None

    async def until(self, node: str, state: str, reason: str = "", *, revision: int = 0) -> Status:
        def holds() -> Status | None:
            status = self.status(node)
            if status is None or status.revision < revision:
                return None
            end = local(status, node)
            return status if (end.state, end.reason) == (state, reason) else None

        found: Status = await self.world.until(holds)
        return found

    def is_guarded(self, node: str) -> bool:
        with nft.Nft(self.nodes.paths[node]) as socket:
            return nft_tunnels.stands(socket)

    def peers(self, node: str) -> set[bytes]:
        words = nft.text(1, nft_tunnels.TABLE) + nft.text(2, "peers4")
        with nft.Nft(self.nodes.paths[node]) as socket:
            found = socket.dump(nft.Message(nft.GET_ELEMENTS, nft.INET, words))
        return {
            nft.attributes(nft.attributes(element)[1])[1]
            for _, each in found
            for _, element in nft.items(each.get(3, b""))
        }


def status_key(node: str) -> StatusKey:
    return StatusKey(node, "default", "client", "nsm0")


def local(status: Status, node: str) -> EndStatus:
    return there(status.client if node == "node1" else status.server)


@pytest.fixture
def cluster(world: World, pods: Pods, tmp_path: Path) -> Cluster:
    return Cluster(world, tmp_path, pods)


async def test_each_node_says_ready_of_its_own_end_once_the_other_answers(cluster: Cluster) -> None:
    async with cluster.plumbers():
        await cluster.grant(remote())
        one = await cluster.until("node1", "ready")
        other = await cluster.until("node2", "ready")

        assert one.server is None
        assert other.client is None
        assert there(one.client).addresses == (V4[0],)
        assert there(other.server).interface == "nse-1"
        assert answers(cluster.client, cluster.server, V4[:2])


async def test_an_end_alone_waits_for_the_other_and_is_ready_soon_after_it(
    cluster: Cluster,
) -> None:
    async with cluster.plumber("node1"):
        await cluster.grant(remote())
        status = await cluster.until("node1", "pending", "PeerNotReady")
        assert "node2" in there(status.client).message

        async with cluster.plumber("node2"):
            await cluster.until("node2", "ready")
            await cluster.until("node1", "ready")


async def test_an_end_that_nobody_ever_answers_is_a_failure_until_somebody_does(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "_MOST_UNHEARD", 5)
    async with cluster.plumbers():
        cluster.nodes.set_cable(up=False)
        await cluster.grant(remote())
        await cluster.until("node1", "pending", "PeerNotReady")
        status = await cluster.until("node1", "failed", "PeerNotReady")
        assert f"whether UDP {TUNNEL_PORT} is open" in there(status.client).message

        cluster.nodes.set_cable(up=True)
        await cluster.until("node1", "ready")
        await cluster.until("node2", "ready")


async def test_a_dead_peer_is_told_and_its_return_is_told(cluster: Cluster) -> None:
    async with cluster.plumbers():
        await cluster.grant(remote())
        await cluster.until("node1", "ready")
        await cluster.until("node2", "ready")

        cluster.nodes.set_cable(up=False)
        status = await cluster.until("node1", "failed", "PeerSilent")
        await cluster.until("node2", "failed", "PeerSilent")
        assert there(there(status.client).applied) == remote()  # it stands, and is said to
        assert cluster.client.interfaces() == {"nsm0"}

        cluster.nodes.set_cable(up=True)
        await cluster.until("node1", "ready")
        await cluster.until("node2", "ready")


async def test_a_peer_without_its_plumber_is_no_dead_peer(cluster: Cluster) -> None:
    async with cluster.plumber("node1"):
        async with cluster.plumber("node2"):
            await cluster.grant(remote())
            await cluster.until("node1", "ready")
            await cluster.until("node2", "ready")
        cluster.world.told.clear()

        await asyncio.sleep(2)

        states = [
            there(said.client).state
            for key, said in cluster.world.told
            if key == status_key("node1") and isinstance(said, Status)
        ]
        assert set(states) <= {"ready"}
        assert answers(cluster.client, cluster.server, V4[:2])


async def test_a_renamed_tunnel_comes_back_though_another_name_holds_its_number(
    cluster: Cluster,
) -> None:
    async with cluster.plumbers():
        await cluster.grant(remote())
        for name in ("mine", "mine-too"):
            status = await cluster.until("node1", "ready")
            before = there(status.client).repaired
            index = cluster.client.index("nsm0")
            with links.Netlink(cluster.client.netns) as inside:
                inside.request([links.link(links.NEWLINK, index=index, up=False)])
                rename = [("IFLA_IFNAME", name)]
                inside.request([links.link(links.NEWLINK, index=index, attrs=rename)])

            def told(before: str = before) -> bool:
                status = cluster.status("node1")
                return status is not None and there(status.client).repaired not in {before, ""}

            await cluster.world.until(told)
            await cluster.until("node1", "ready")
            assert cluster.client.interfaces() == {"nsm0"}
            assert answers(cluster.client, cluster.server, V4[:2])


async def test_a_restart_adopts_the_tunnel_and_its_guard_and_says_nothing_new(
    cluster: Cluster,
) -> None:
    async with cluster.plumber("node2"):
        async with cluster.plumber("node1"):
            await cluster.grant(remote())
            await cluster.until("node1", "ready")
            await cluster.until("node2", "ready")
        index = cluster.client.index("nsm0")
        assert cluster.is_guarded("node1")
        cluster.world.told.clear()

        async with cluster.plumber("node1") as plumber:
            await plumber.adopted.wait()
            assert cluster.client.index("nsm0") == index
            assert cluster.is_guarded("node1")
            assert answers(cluster.client, cluster.server, V4[:2])

        states = {
            there(said.client).state
            for key, said in cluster.world.told
            if key == status_key("node1") and isinstance(said, Status)
        }
        assert states <= {"ready"}


async def test_the_guard_follows_the_grants(cluster: Cluster) -> None:
    async with cluster.plumbers():
        await cluster.grant(remote())
        await cluster.until("node1", "ready")
        assert cluster.peers("node1") == {packed("node2")}
        assert cluster.peers("node2") == {packed("node1")}

        await cluster.release(remote())

        await cluster.world.until(lambda: cluster.client.interfaces() == set())
        await cluster.world.until(lambda: cluster.server.interfaces() == set())
        await cluster.world.until(lambda: not cluster.is_guarded("node1"))
        await cluster.world.until(lambda: not cluster.is_guarded("node2"))


def packed(node: str) -> bytes:
    return ipaddress.ip_address(ADDRESSES[node][0]).packed


async def test_a_guard_that_somebody_flushed_comes_back(cluster: Cluster) -> None:
    async with cluster.plumbers():
        await cluster.grant(remote())
        await cluster.until("node1", "ready")
        with nft.Nft(cluster.nodes.paths["node1"]) as socket:
            nft_tunnels.admit(socket, (), port=TUNNEL_PORT)

        await cluster.world.until(lambda: cluster.is_guarded("node1"))


async def test_a_dead_pod_with_a_tunnel_is_let_go(cluster: Cluster) -> None:
    """Its network is not kept by the socket that asked for its peer: the VNI is free for another Pod."""
    async with cluster.plumbers():
        await cluster.grant(remote())
        await cluster.until("node1", "ready")
        await cluster.until("node2", "ready")

        cluster.client.end()
        cluster.client.detach(cluster.directory / "results-node1")

        await cluster.until("node2", "failed", "PeerSilent")
        with links.Netlink(cluster.nodes.paths["node1"]) as node:
            await cluster.world.until(lambda: vni_is_free(node, cluster))


def vni_is_free(node: links.Netlink, cluster: Cluster) -> bool:
    born = encoding.Identity("again", "02:00:00:00:00:09", 1400, 0)
    path = encoding.Path(77, ADDRESSES["node1"][0], ADDRESSES["node2"][0], TUNNEL_PORT)
    fd = netns.open_fd(cluster.nodes.paths["node1"])
    try:
        with contextlib.suppress(links.LinkError):
            node.request([encoding.vxlan(born, path, netns=fd)])
            return True
    finally:
        os.close(fd)
    return False


async def test_addresses_change_in_place_across_nodes(cluster: Cluster) -> None:
    async with cluster.plumbers():
        await cluster.grant(remote())
        await cluster.until("node1", "ready")
        await cluster.until("node2", "ready")
        index = cluster.client.index("nsm0")

        later = with_client(remote(), addresses=("172.16.1.9/32",))
        await cluster.grant(later)
        await cluster.until("node1", "ready", revision=2)
        await cluster.until("node2", "ready", revision=2)

        assert cluster.client.index("nsm0") == index
        assert answers(cluster.client, cluster.server, ("172.16.1.9", V4[1]))


async def test_a_connection_moves_between_one_node_and_two(cluster: Cluster, pods: Pods) -> None:
    near = pods("near")
    near.attach(cluster.directory / "results-node1")
    async with cluster.plumbers():
        await cluster.grant(remote())
        await cluster.until("node1", "ready")

        moved = msgspec.structs.replace(
            remote(),
            revision=2,
            mechanism="veth",
            vni=0,
            server=msgspec.structs.replace(
                remote().server,
                underlay="",
                pod=msgspec.structs.replace(
                    remote().server.pod, name="near", uid="uid-near", node="node1"
                ),
            ),
        )
        await cluster.world.grant(moved)
        await cluster.world.bus.bury(
            ConnectionKey("node2", "default", "client", "nsm0"),
            Tombstone(released="uid-client", revision=1),
        )

        await cluster.until("node1", "ready", revision=2)
        assert answers(cluster.client, near, V4[:2])
        await cluster.world.until(lambda: cluster.server.interfaces() == set())
        await cluster.grant(msgspec.structs.replace(remote(), revision=3))
        await cluster.until("node1", "ready", revision=3)
        assert answers(cluster.client, cluster.server, V4[:2])
        assert near.interfaces() == set()


async def test_a_node_says_which_mechanisms_it_has(cluster: Cluster) -> None:
    def facts() -> Any:
        found = cluster.world.state.items.get(NodeKey("node1"))
        return found if isinstance(found, NodeFacts) else None

    async with cluster.plumber("node1"):
        found = await cluster.world.until(facts)

    assert found.mechanisms == ("veth", "vxlan")
    assert (found.underlay_address, found.mtu) == ("172.18.0.11", 1500)
