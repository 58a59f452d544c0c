"""What goes wrong costs one connection, leaves nothing behind, and heals by itself."""

import asyncio
import shutil
import socket
from collections.abc import Callable

import msgspec
import pytest

from schemas.codec import Tombstone
from schemas.subjects import StatusKey
from services._node import cni, encoding, links, netns
from services.plumber.adapters import writing
from services.plumber.adapters.reading import GROUP
from services.plumber.model import Wiring, render_alias
from tests.node.sandboxes import Pod
from tests.plumber.grants import NODE, V4, a_grant, a_pod, with_client, with_server
from tests.plumber.test_adapters import answers
from tests.plumber.world import STATUS, World

Pods = Callable[..., Pod]
Pair = tuple[Pod, Pod]

SECOND = StatusKey(NODE, "default", "second", "nsm0")


def state_of(world: World, key: StatusKey) -> tuple[str, str]:
    status = world.status(key)
    return (status.client.state, status.client.reason) if status and status.client else ("", "")


def tombstones(world: World) -> list[tuple[str, int]]:
    return [
        (said.released, said.revision)
        for key, said in world.told
        if key == STATUS and isinstance(said, Tombstone)
    ]


async def interrupt_a_creation(world: World, client: Pod, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plumber that ends between the links and their alias: all but the last step, no way back."""

    def end(*_: object) -> None:
        raise RuntimeError("ended here")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "_alias", end)
        patch.setattr(encoding, "delete_link", end)
        async with world.plumber():
            await world.grant(a_grant())
            await world.client_is("failed", "InternalError")
    assert client.interfaces() == {"nsm0"}


# --- nonsense


async def test_a_senseless_result_file_costs_nobody_anything(world: World, pair: Pair) -> None:
    client, server = pair
    bad = msgspec.structs.replace(client.result, uid="uid-bad", container_id="bad", netns="a\0b")
    cni.write(world.results, bad)
    (world.results / "cni-nested-eth0").write_text('{"x":' + "[" * 100_000)
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")

        (world.results / "cni-later-eth0").write_text('{"result":' * 100_000)
        await world.grant(msgspec.structs.replace(a_grant(), revision=2))
        await world.client_is("ready", revision=2)

    assert answers(client, server, V4[:2])


async def test_a_mistake_in_one_connection_is_told_and_the_others_go_on(
    world: World, pair: Pair, pods: Pods
) -> None:
    pods("second").attach(world.results)
    async with world.plumber():
        await world.grant(with_client(a_grant(), mac="no MAC at all"))
        status = await world.client_is("failed", "InternalError")
        assert status.client is not None
        assert "ValueError" in status.client.message
        assert status.client.applied is None

        await world.grant(
            with_client(a_grant(client="second", number=2), addresses=("172.16.1.3/32",))
        )
        await world.until(lambda: state_of(world, SECOND) == ("ready", ""))

        await world.grant(msgspec.structs.replace(a_grant(), revision=3))
        await world.client_is("ready", revision=3)


async def test_what_nobody_can_look_at_counts_as_standing(
    world: World, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")

        def silent(*_: object, **__: object) -> None:
            raise links.LinkError(110, "no answer")

        with monkeypatch.context() as patch:
            patch.setattr(links.Netlink, "look_up", silent)
            await world.grant(msgspec.structs.replace(a_grant(), revision=2))
            status = await world.client_is("failed", "KernelError", revision=2)

        assert status.client is not None
        assert status.client.applied == a_grant()
        await world.client_is("ready", revision=2)


# --- interrupted creations


async def test_a_release_after_an_interrupted_creation_leaves_nothing(
    world: World, pair: Pair, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = pair
    await interrupt_a_creation(world, client, monkeypatch)
    await world.release(a_grant())
    second = pods("second")
    second.attach(world.results)

    async with world.plumber():
        await world.buried("uid-client")
        assert client.interfaces() == server.interfaces() == set()

        await world.grant(a_grant(client="second", number=2))  # the same addresses
        await world.until(lambda: state_of(world, SECOND) == ("ready", ""))

    assert answers(second, server, V4[:2])


async def test_an_interrupted_creation_is_completed_after_a_restart(
    world: World, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = pair
    await interrupt_a_creation(world, client, monkeypatch)

    async with world.plumber():
        await world.client_is("ready")

    assert answers(client, server, V4[:2])


async def test_an_interrupted_creation_goes_when_its_peer_is_gone(
    world: World, pair: Pair, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = pair
    await interrupt_a_creation(world, client, monkeypatch)
    other = with_server(a_grant(), pod=a_pod("nowhere"))
    await world.grant(other)

    async with world.plumber():
        await world.client_is("pending", "PeerNotReady", revision=2)

    assert client.interfaces() == server.interfaces() == set()


# --- a lost runtime directory


async def make_and_forget(world: World) -> None:
    """A connection that stands, and of which no file tells any more."""
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
    shutil.rmtree(world.settings.runtime_dir)


async def test_links_that_nobody_knows_go_once_everything_granted_is_known(
    world: World, pair: Pair
) -> None:
    client, server = pair
    await make_and_forget(world)
    client.add_link("foreign0")
    half_ours(client, "half0", group=GROUP)
    half_ours(client, "half1", alias=render_alias("0" * 16, 1, is_server=False))
    world.nats.kill()
    world.nats.wipe()
    world.nats.start()
    await world.lead(complete=False)

    async with world.plumber() as plumber:
        await plumber.adopted.wait()
        assert "nsm0" in client.interfaces()

        await world.lead(complete=True)
        await world.until(lambda: "nsm0" not in client.interfaces())

    assert server.interfaces() == set()
    assert client.interfaces() >= {"foreign0", "half0", "half1"}


def half_ours(pod: Pod, name: str, *, group: int = 0, alias: str = "") -> None:
    """A foreign link with one of our two marks."""
    pod.add_link(name)
    attrs = [("IFLA_GROUP", group)] if group else [("IFLA_IFALIAS", alias)]
    index = pod.index(name)
    with links.Netlink(pod.netns) as netlink:
        netlink.request([links.link(links.NEWLINK, index=index, attrs=attrs)])


async def test_links_without_a_file_are_adopted_by_their_grant(world: World, pair: Pair) -> None:
    client, server = pair
    await make_and_forget(world)
    index = client.index("nsm0")

    async with world.plumber():
        await world.grant(msgspec.structs.replace(a_grant(), revision=2))
        await world.client_is("ready", revision=2)
        await asyncio.sleep(0.4)  # more than a sweep

    assert client.index("nsm0") == index
    assert answers(client, server, V4[:2])


async def test_a_release_is_not_confirmed_while_links_without_a_file_stand(
    world: World, pair: Pair
) -> None:
    client, server = pair
    await make_and_forget(world)
    await world.release(a_grant())

    async with world.plumber():
        await world.buried("uid-client")
        assert client.interfaces() == server.interfaces() == set()


# --- connections in each other's way


async def test_a_renamed_interface_does_not_wait_for_the_sweep(world: World, pair: Pair) -> None:
    client, server = pair
    before = a_grant()
    after = with_server(with_client(a_grant(), interface="other0"), interface="nse-2")
    key = StatusKey(NODE, "default", "client", "other0")
    async with world.plumber(sweep_seconds=3600):
        await world.grant(before)
        await world.client_is("ready")

        await world.grant(after)  # the same routes: not before the old link went
        await world.until(lambda: state_of(world, key) == ("failed", "RouteTaken"))
        await asyncio.sleep(1)  # let it become slow: the release has to wake it
        await world.release(before)
        async with asyncio.timeout(0.5):
            await world.until(lambda: state_of(world, key) == ("ready", ""))

    assert client.interfaces() == {"other0"}
    assert answers(client, server, V4[:2])


async def test_what_failed_is_tried_again_before_the_sweep(world: World, pair: Pair) -> None:
    client, _ = pair
    client.add_link("nsm0")
    async with world.plumber(sweep_seconds=3600):
        await world.grant(a_grant())
        await world.client_is("failed", "InterfaceNameTaken")

        client.delete_link("nsm0")
        async with asyncio.timeout(3):
            await world.client_is("ready")


async def test_a_change_that_does_not_show_is_not_called_ready(
    world: World, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = with_client(a_grant(), addresses=("172.16.1.9/32",))
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")

        with monkeypatch.context() as patch:
            patch.setattr(writing, "adjust", lambda *_: None)
            await world.grant(changed)
            status = await world.client_is("failed", "KernelError", revision=2)
            assert status.client is not None
            assert status.client.applied == a_grant()

        await world.client_is("ready", revision=2)


# --- the word that frees addresses


async def test_a_pod_that_was_never_wired_is_buried_when_another_takes_its_name(
    world: World, pods: Pods
) -> None:
    server = pods("server")
    server.attach(world.results)
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("pending", "PodNetworkNotFound")

        await world.grant(with_client(a_grant(), pod=a_pod("client", uid="uid-heir")))
        await world.buried("uid-client", 1)
        status = await world.client_is("pending", "PodNetworkNotFound", revision=2)
        await asyncio.sleep(0.4)  # more than a sweep

    assert status.client is not None
    assert status.client.uid == "uid-heir"
    assert tombstones(world) == [("uid-client", 1)]


async def test_it_is_buried_also_if_the_change_came_while_nobody_listened(
    world: World, pods: Pods
) -> None:
    async with world.plumber():
        await world.grant(a_grant())
        await world.until(world.status)
    await world.grant(with_client(a_grant(), pod=a_pod("client", uid="uid-heir")))

    async with world.plumber():
        await world.buried("uid-client", 1)
        await world.client_is("pending", "PodNetworkNotFound", revision=2)


async def test_the_end_of_a_grant_names_its_newest_revision(world: World, pair: Pair) -> None:
    client, server = pair
    async with world.plumber():
        await world.grant(a_grant())
        await world.client_is("ready")
        server.detach(world.results)
        await world.grant(msgspec.structs.replace(a_grant(), revision=5))
        await world.client_is("pending", "EndpointPodGone", revision=5)

        await world.bus.bury(a_grant().key)  # says nothing of whose it was
        await world.buried("uid-client", 5)

    assert client.interfaces() == set()


async def test_what_came_and_went_while_its_former_was_removed_is_confirmed(
    world: World, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Pod is deleted, made anew under its name, and deleted again before the first one's link is gone."""
    heir = with_client(a_grant(), pod=a_pod("client", uid="uid-heir"))
    removing, may_go_on = asyncio.Event(), asyncio.Event()
    async with world.plumber(sweep_seconds=60) as plumber:
        clear = plumber._kernel.clear

        async def clear_late(wiring: Wiring) -> None:
            removing.set()
            await may_go_on.wait()
            await clear(wiring)

        await world.grant(a_grant())
        await world.client_is("ready")
        monkeypatch.setattr(plumber._kernel, "clear", clear_late)
        await world.release(a_grant())
        await removing.wait()

        await world.grant(heir)
        await world.release(heir)
        gone = Tombstone(released="uid-heir", revision=heir.revision)
        await world.until(lambda: plumber._past.released.get(heir.key) == gone)
        may_go_on.set()

        await world.buried("uid-heir", heir.revision)


# --- networks without IPv6


@pytest.mark.parametrize("off", ["by the MTU", "in the namespace"])
async def test_an_ipv4_connection_needs_no_ipv6(world: World, pair: Pair, off: str) -> None:
    client, server = pair
    if off == "in the namespace":
        for pod in pair:
            netns.write_sysctls(pod.netns, {"ipv6/conf/all/disable_ipv6": "1"})
            netns.write_sysctls(pod.netns, {"ipv6/conf/default/disable_ipv6": "1"})
    async with world.plumber():
        await world.grant(a_grant(mtu=1400 if off == "in the namespace" else 1200))
        await world.client_is("ready")

        client.set_down("nsm0")
        await world.until(lambda: client.is_up("nsm0"))
        await world.until(lambda: client.has_route(V4[2]))

    assert answers(client, server, V4[:2])
    assert not any(links.family_of(a) == socket.AF_INET6 for a in client.addresses() - {"::1"})
