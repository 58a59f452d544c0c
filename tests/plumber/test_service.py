import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from schemas.state import NodeFacts
from schemas.subjects import AliveKey, NodeKey, SeenKey
from services._node import cni, netns
from services._runtime.streams import STATE
from tests.node.sandboxes import Pod
from tests.plumber.grants import NODE, V4, V6, a_grant, a_pod, with_client, with_server
from tests.plumber.test_adapters import answers
from tests.plumber.world import STATUS, World

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])

Pods = Callable[..., Pod]


# --- wiring


@FAMILIES
async def test_a_grant_becomes_a_connection_that_carries_the_first_packet(
    world: World, pair: tuple[Pod, Pod], family: tuple[str, str, str]
) -> None:
    client, server = pair
    grant = a_grant(family)
    async with world.plumber():
        await world.grant(grant)
        status = await world.client_is("ready")

    assert answers(client, server, family[:2])
    assert status.client is not None
    assert status.client.applied == grant
    assert status.client.addresses == (family[0],)
    assert status.client.ifindex == client.index("nsm0")
    assert status.server is not None
    assert (status.server.state, status.server.uid) == ("ready", server.uid)


async def test_a_grant_waits_for_the_networks_of_its_pods(world: World, pods: Pods) -> None:
    client, server = pods("client"), pods("server")
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("pending", "PodNetworkNotFound")

        client.attach(world.results)
        await world.client_is("pending", "PeerNotReady")

        server.attach(world.results)
        await world.client_is("ready")

    assert answers(client, server, V4[:2])


async def test_a_newer_grant_changes_the_link_in_place(world: World, pair: tuple[Pod, Pod]) -> None:
    client, server = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
        index = client.index("nsm0")

        await world.grant(with_client(a_grant(), addresses=("172.16.1.9/32",)))
        status = await world.client_is("ready", revision=2)

    assert client.index("nsm0") == index
    assert answers(client, server, ("172.16.1.9", V4[1]))
    assert status.client is not None
    assert status.client.addresses == ("172.16.1.9/32",)


async def test_another_server_replaces_the_link(
    world: World, pair: tuple[Pod, Pod], pods: Pods
) -> None:
    client, server = pair
    other = pods("other")
    other.attach(world.results)
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")

        await world.grant(with_server(a_grant(), pod=a_pod("other")))
        await world.client_is("ready", revision=2)

    assert server.interfaces() == set()
    assert answers(client, other, V4[:2])


async def test_a_mechanism_that_nobody_here_knows_is_refused(
    world: World, pair: tuple[Pod, Pod]
) -> None:
    grant = with_server(a_grant(mechanism="smoke"), pod=a_pod("server", node="node2"))
    async with world.plumber():
        await world.grant(grant)
        status = await world.client_is("failed", "RemoteNotSupported")

        assert status.server is None
        await world.release(grant)
        await world.buried("uid-client", grant.revision)


async def test_a_foreign_interface_is_named_and_left_and_its_end_heals(
    world: World, pair: tuple[Pod, Pod]
) -> None:
    client, server = pair
    client.add_link("nsm0")
    index = client.index("nsm0")
    async with world.plumber():
        await world.grant(a_grant())
        status = await world.client_is("failed", "InterfaceNameTaken")
        assert status.client is not None
        assert status.client.message.startswith("Pod default/")

        assert client.index("nsm0") == index
        assert server.interfaces() == set()
        assert status.client is not None
        assert status.client.applied is None
        client.delete_link("nsm0")
        await world.client_is("ready")


# --- removal


async def test_a_released_grant_is_removed_and_confirmed(
    world: World, pair: tuple[Pod, Pod]
) -> None:
    client, server = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")

        await world.release(a_grant())
        await world.buried("uid-client")

        assert client.interfaces() == server.interfaces() == set()
        assert not list(Path(world.settings.runtime_dir, "connections").iterdir())


async def test_a_grant_released_while_nobody_listened_is_confirmed_afterwards(
    world: World, pair: tuple[Pod, Pod]
) -> None:
    client, _ = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
    await world.release(a_grant())

    async with world.plumber():
        await world.buried("uid-client")

    assert client.interfaces() == set()


async def test_a_release_is_confirmed_even_if_nothing_was_ever_said_of_it(world: World) -> None:
    await world.release(a_grant())

    async with world.plumber():
        await world.buried("uid-client")


async def test_absence_removes_nothing_until_it_is_confirmed(
    world: World, pair: tuple[Pod, Pod]
) -> None:
    client, server = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
        index = client.index("nsm0")
    world.nats.kill()
    world.nats.wipe()
    world.nats.start()
    await world.lead(complete=False)

    async with world.plumber() as plumber:
        await plumber.adopted.wait()
        status = await world.client_is("ready")

        assert status.client is not None
        assert status.client.applied == a_grant()
        assert client.index("nsm0") == index
        assert answers(client, server, V4[:2])

        await world.lead(complete=True)
        await world.buried("uid-client")

    assert client.interfaces() == set()


@pytest.mark.parametrize("client_is_here", [True, False], ids=["both ends here", "server only"])
async def test_a_status_that_outlived_its_grant_is_buried(
    world: World, client_is_here: bool
) -> None:
    grant = a_grant()
    if not client_is_here:
        grant = with_client(a_grant(mechanism="vxlan"), pod=a_pod("client", node="node2"))
    uid = "uid-client" if client_is_here else ""
    async with world.plumber():
        await world.grant(grant)  # no network of these Pods: nothing will stand
        await world.until(world.status)
    await world.bus.bury(grant.key)  # says nothing of whose it was, as absence would

    async with world.plumber():
        await world.buried(uid, grant.revision)


# --- networks come and go


async def test_the_end_of_the_server_is_told_and_its_new_sandbox_is_wired(
    world: World, pair: tuple[Pod, Pod]
) -> None:
    client, server = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")

        server.detach(world.results)
        server.end()
        status = await world.client_is("pending", "EndpointPodGone")
        assert status.client is not None
        assert status.client.applied is None
        assert client.interfaces() == set()

        server.start()
        server.attach(world.results)
        await world.client_is("ready")

    assert answers(client, server, V4[:2])


async def test_the_end_of_the_client_buries_the_status(world: World, pair: tuple[Pod, Pod]) -> None:
    client, server = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")

        client.detach(world.results)
        await world.buried("uid-client")
        assert server.interfaces() == set()

        client.end()
        client.start()
        client.attach(world.results)
        await world.client_is("ready")

    assert answers(client, server, V4[:2])


async def test_a_new_sandbox_of_the_same_pod_is_wired_anew(
    world: World, pair: tuple[Pod, Pod]
) -> None:
    client, server = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
        index = server.index("nse-1")
        old = client.netns
        before = client.result

        client.start()
        client.attach(world.results)
        await world.until(lambda: "nsm0" in client.interfaces())
        cni.remove(world.results, before)
        netns.delete(old)
        await world.client_is("ready")

    assert server.index("nse-1") != index
    assert answers(client, server, V4[:2])


async def test_another_pod_of_the_same_name_gets_nothing_of_the_old_one(
    world: World, pair: tuple[Pod, Pod], pods: Pods
) -> None:
    old, server = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
        heir = pods("heir")
        heir.attach(world.results)

        await world.grant(with_client(a_grant(), pod=a_pod("client", uid=heir.uid)))
        await world.buried("uid-client")
        status = await world.client_is("ready", revision=2)

    assert old.interfaces() == set()
    assert status.client is not None
    assert status.client.uid == heir.uid
    assert answers(heir, server, V4[:2])


async def test_nothing_of_a_dead_pod_is_kept_open(world: World, pair: tuple[Pod, Pod]) -> None:
    client, _ = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
        inode = netns.identity(client.netns).inode

        def held() -> list[str]:
            links = (
                path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()
            )
            return [str(link) for link in links if str(link) == f"net:[{inode}]"]

        await world.until(lambda: not held())
        client.detach(world.results)
        client.end()
        await world.buried("uid-client")

    assert not held()


# --- repair and restart


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_deleted_link_comes_back(world: World, pair: tuple[Pod, Pod], side: str) -> None:
    client, server = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")

        if side == "client":
            client.delete_link("nsm0")
        else:
            server.delete_link("nse-1")
        await world.until(lambda: client.interfaces() and server.interfaces())
        await world.until(lambda: world.status() and _index(world) == client.index("nsm0"))

    assert answers(client, server, V4[:2])


@FAMILIES
async def test_a_downed_link_comes_up_again_with_all_it_carried(
    world: World, pair: tuple[Pod, Pod], family: tuple[str, str, str]
) -> None:
    client, server = pair
    async with world.plumber():
        await world.grant(a_grant(family))
        await world.client_is("ready")
        index = client.index("nsm0")

        client.set_down("nsm0")
        await world.until(lambda: client.is_up("nsm0"))
        await world.until(lambda: family[0].partition("/")[0] in client.addresses())
        await world.until(lambda: client.has_route(family[2]))

    assert client.index("nsm0") == index
    assert answers(client, server, family[:2])


def _index(world: World) -> int:
    status = world.status()
    return status.client.ifindex if status and status.client else 0


async def test_a_wiped_bus_costs_no_packet_and_everything_is_said_again(
    world: World, pair: tuple[Pod, Pod]
) -> None:
    client, server = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
        index = client.index("nsm0")
        facts = await world.until(lambda: world.state.items.get(NodeKey(NODE)))
        world.nats.kill()
        world.nats.wipe()
        world.nats.start()
        world.told.clear()
        async with traffic(client, server) as lost:
            await world.lead(complete=False)
            await world.until(
                lambda: (
                    (now := world.state.items.get(NodeKey(NODE)))
                    and now.complete
                    and now.incarnation != facts.incarnation
                )
            )

            stored = await world.bus.read(STATUS)
        assert lost() == 0

    assert stored is not None
    assert stored[0].client.applied == a_grant()
    assert client.index("nsm0") == index


@asynccontextmanager
async def traffic(client: Pod, server: Pod) -> AsyncIterator[Callable[[], int]]:
    """A packet each 2 ms, echoed; in the end, how many were lost."""
    loop = asyncio.get_running_loop()
    sent: set[int] = set()
    own, peer = (address.partition("/")[0] for address in V4[:2])
    with client.udp(own) as here, server.udp(peer, 6000) as there:
        here.setblocking(False)
        there.setblocking(False)

        def echo() -> None:
            data, sender = there.recvfrom(64)
            there.sendto(data, sender)

        loop.add_reader(there, echo)
        loop.add_reader(here, lambda: sent.discard(int(here.recv(64))))

        async def send() -> None:
            for number in range(100_000):
                sent.add(number)
                here.sendto(str(number).encode(), (peer, 6000))
                await asyncio.sleep(0.002)

        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(send())
                await asyncio.sleep(0.05)
                yield lambda: len(sent)
                sending.cancel()
                await asyncio.sleep(0.05)
        finally:
            loop.remove_reader(here)
            loop.remove_reader(there)


async def test_a_killed_plumber_adopts_what_stands_without_a_lost_packet(
    world: World, pair: tuple[Pod, Pod], tmp_path: Path
) -> None:
    client, server = pair
    environment = {
        **os.environ,
        "NSM_NATS_URL": world.nats.url,
        "PLUMBER_NODE": NODE,
        "PLUMBER_CNI_RESULTS": world.settings.cni_results,
        "PLUMBER_RUNTIME_DIR": world.settings.runtime_dir,
    }

    async def start() -> asyncio.subprocess.Process:
        with (tmp_path / "plumber.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "services.plumber", env=environment, stdout=log, stderr=log
            )

    first = await start()
    try:
        await world.grant(a_grant())
        await world.client_is("ready")
        index = client.index("nsm0")
        async with traffic(client, server) as lost:
            first.send_signal(signal.SIGKILL)
            await first.wait()
            world.told.clear()
            second = await start()
            try:
                await world.grant(msgspec.structs.replace(a_grant(), revision=2))
                await world.client_is("ready", revision=2)
            finally:
                second.terminate()
                await second.wait()
        assert lost() == 0
    finally:
        if first.returncode is None:
            first.kill()
            await first.wait()

    assert client.index("nsm0") == index


# --- the node


async def test_the_node_says_what_it_is_and_that_it_told_everything(
    world: World, pair: tuple[Pod, Pod]
) -> None:
    await world.grant(a_grant())
    async with world.plumber():
        facts: NodeFacts = await world.until(
            lambda: (found := world.state.items.get(NodeKey(NODE))) and found.complete and found
        )
        assert world.status() is not None  # said before `complete`
        alive = await world.until_read(AliveKey(NODE))

    assert "veth" in facts.mechanisms
    assert facts.incarnation == world.bus.incarnations[STATE]
    assert SeenKey(NODE) in world.state.items
    assert alive.node == NODE


async def test_nothing_is_said_twice(world: World, pair: tuple[Pod, Pod]) -> None:
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
        _, first = await world.bus.read(STATUS) or (None, 0)
        client, _ = pair
        client.attach(world.results)  # a hint to look again, and nothing new
        await world.grant(msgspec.structs.replace(a_grant(), revision=2))
        await world.client_is("ready", revision=2)

        told = [message for key, message in world.told if key == STATUS]

    assert first > 0
    assert len(told) == len({status.revision for status in told})
