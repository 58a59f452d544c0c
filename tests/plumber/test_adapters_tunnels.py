"""Connections between two nodes: real tunnels between real namespaces."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from schemas.grant import TUNNEL_PORT
from services._node import encoding, links, netns, nft, nft_tunnels
from services.plumber import core
from services.plumber.adapters import Answer, Kernel, NameTaken, Peers, Refused, peers
from services.plumber.adapters.reading import GROUP
from services.plumber.model import Create, Pair, Remove, Wiring
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, V6, there, with_client, with_server
from tests.plumber.nodes import ADDRESSES, Nodes, halves, remote
from tests.plumber.test_adapters import answers, pursue

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
UNDERLAYS = pytest.mark.parametrize("underlay", [4, 6], ids=["over v4", "over v6"])

Pods = Callable[..., Pod]
Kernels = dict[str, Kernel]


@pytest.fixture
def nodes(pods: Pods, tmp_path: Path) -> Nodes:  # pods: namespaces are allowed, and removed
    return Nodes(tmp_path)


@pytest.fixture
async def kernels(nodes: Nodes) -> AsyncIterator[Kernels]:
    made = {name: Kernel(path) for name, path in nodes.paths.items()}
    yield made
    for kernel in made.values():
        kernel.close()


class Asking:
    """Peers of one node, and what they told."""

    def __init__(self, kernels: Kernels, node: str = "node1") -> None:
        self.kernels = kernels
        kernel = kernels[node]
        self.told: asyncio.Queue[str] = asyncio.Queue()
        self.peers = Peers(
            kernel.open_asking, close=kernel.close_later, on_change=self.told.put_nowait
        )

    async def until_answered(self, wiring: Wiring, mac: str) -> None:
        """Answered while it is asked for, or told."""
        if await self.follow(wiring, mac) is not Answer.YES:
            assert await asyncio.wait_for(self.told.get(), 5) == wiring.tag

    async def follow(self, wiring: Wiring, mac: str, *, is_new: bool = True) -> Answer:
        return await self.peers.follow(wiring, mac, is_new=is_new)


@pytest.fixture
async def asking(kernels: Kernels) -> AsyncIterator[Asking]:
    made = Asking(kernels)
    yield made
    made.peers.close()


async def stand(kernels: Kernels, one: Wiring, other: Wiring) -> None:
    await kernels["node1"].apply(Create(wiring=one))
    await kernels["node2"].apply(Create(wiring=other))


async def soon(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.01)


@FAMILIES
@UNDERLAYS
@pytest.mark.parametrize("payload", ["IP", "ETHERNET"])
async def test_each_node_makes_its_end_and_they_meet(
    kernels: Kernels, pods: Pods, family: tuple[str, str, str], underlay: int, payload: str
) -> None:
    client, server = pods("client"), pods("server")
    grant = remote(family, underlay=underlay, payload=payload)
    one, other = await halves(kernels, grant, client, server)

    await stand(kernels, one, other)

    assert answers(client, server, family[:2])
    assert await pursue(kernels["node1"], one) == await pursue(kernels["node2"], other) == 0
    assert (await kernels["node1"].read(one)).server is None
    found = there((await kernels["node1"].read(one)).client)
    assert (found.mtu, found.mac, found.tunnel) == (grant.mtu, grant.client.mac, one.tunnel)


@UNDERLAYS
async def test_a_full_segment_passes_and_a_larger_one_is_told_to_be_too_long(
    kernels: Kernels, pods: Pods, underlay: int
) -> None:
    client, server = pods("client"), pods("server")
    grant = remote(V4, underlay=underlay)
    one, other = await halves(kernels, grant, client, server)
    await stand(kernels, one, other)

    with client.udp("172.16.1.2") as here, server.udp("172.16.1.1", 5000) as listening:
        here.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
        here.sendto(bytes(grant.mtu - 28), ("172.16.1.1", 5000))
        assert len(listening.recv(9000)) == grant.mtu - 28
        with pytest.raises(OSError, match="too long") as caught:
            here.sendto(bytes(grant.mtu - 27), ("172.16.1.1", 5000))

    assert caught.value.errno == errno.EMSGSIZE


async def test_the_underlay_stays_in_the_node(kernels: Kernels, pods: Pods, nodes: Nodes) -> None:
    client, server = pods("client"), pods("server")
    one, other = await halves(kernels, remote(), client, server)

    await stand(kernels, one, other)

    for path in nodes.paths.values():
        with links.Netlink(path) as inside:
            found = inside.dump(links.link(links.GETLINK))
        assert {each.get_attr("IFLA_IFNAME") for each in found} == {"lo", "eth0"}


async def test_addresses_change_in_place_on_a_tunnel(kernels: Kernels, pods: Pods) -> None:
    client, server = pods("client"), pods("server")
    before, other = await halves(kernels, remote(), client, server)
    await stand(kernels, before, other)
    index = client.index("nsm0")
    grant = msgspec.structs.replace(with_client(remote(), addresses=("172.16.1.9/32",)), mtu=1400)
    after, other_after = await halves(kernels, grant, client, server)

    await pursue(kernels["node2"], other_after, other)
    await pursue(kernels["node1"], after, before)

    assert client.index("nsm0") == index
    assert answers(client, server, ("172.16.1.9", V4[1]))
    assert there((await kernels["node1"].read(after)).client).mtu == 1400


@pytest.mark.parametrize("change", ["vni", "underlay"])
async def test_a_tunnel_that_leads_elsewhere_is_replaced(
    kernels: Kernels, pods: Pods, change: str
) -> None:
    client, server = pods("client"), pods("server")
    before, _ = await halves(kernels, remote(), client, server)
    await pursue(kernels["node1"], before)
    index = client.index("nsm0")
    grant = remote(underlay=6) if change == "underlay" else remote()
    grant = msgspec.structs.replace(grant, vni=78 if change == "vni" else grant.vni)
    after, _ = await halves(kernels, grant, client, server)

    operations = await pursue(kernels["node1"], after, before)

    assert not core.same_links(before, after)
    assert operations == 2  # removed, created
    assert client.index("nsm0") != index
    assert there((await kernels["node1"].read(after)).client).tunnel == after.tunnel


async def test_a_vni_that_is_in_use_is_refused_in_the_kernels_words_and_nothing_stays(
    kernels: Kernels, pods: Pods
) -> None:
    client, server, second = pods("client"), pods("server"), pods("second")
    one, _ = await halves(kernels, remote(), client, server)
    await kernels["node1"].apply(Create(wiring=one))
    twice, _ = await halves(kernels, remote(client="second"), second, server)

    with pytest.raises(Refused, match="VNI"):
        await kernels["node1"].apply(Create(wiring=twice))

    assert second.interfaces() == set()
    assert client.interfaces() == {"nsm0"}


async def test_a_foreign_interface_of_a_tunnels_name_is_not_touched(
    kernels: Kernels, pods: Pods
) -> None:
    client, server = pods("client"), pods("server")
    client.add_link("nsm0")
    index = client.index("nsm0")
    one, _ = await halves(kernels, remote(), client, server)

    with pytest.raises(NameTaken):
        await kernels["node1"].apply(Create(wiring=one))

    assert client.index("nsm0") == index


async def test_what_an_interrupted_creation_left_of_a_tunnel_is_replaced(
    kernels: Kernels, pods: Pods, nodes: Nodes
) -> None:
    client, server = pods("client"), pods("server")
    one, other = await halves(kernels, remote(), client, server)
    tunnel = there(one.tunnel)
    fd = netns.open_fd(client.netns)
    with links.Netlink(nodes.paths["node1"]) as node:
        born = encoding.Identity("nsm0", one.ends[0].mac, 1400, GROUP)
        path = encoding.Path(tunnel.vni, tunnel.local, tunnel.remote, TUNNEL_PORT)
        node.request([encoding.vxlan(born, path, netns=fd)])
    os.close(fd)

    await stand(kernels, one, other)

    assert answers(client, server, V4[:2])


async def test_a_dead_pods_network_frees_its_vni(kernels: Kernels, pods: Pods) -> None:
    client, server, second = pods("client"), pods("server"), pods("second")
    one, _ = await halves(kernels, remote(), client, server)
    await kernels["node1"].apply(Create(wiring=one))
    twice, _ = await halves(kernels, remote(client="second"), second, server)

    client.end()

    async def is_free() -> bool:
        try:
            await kernels["node1"].apply(Create(wiring=twice))
        except Refused:
            return False
        return True

    await soon(is_free)


async def test_each_node_removes_its_own_end(kernels: Kernels, pods: Pods) -> None:
    client, server = pods("client"), pods("server")
    one, other = await halves(kernels, remote(), client, server)
    await stand(kernels, one, other)
    pair = await kernels["node1"].read(one)

    await kernels["node1"].apply(Remove(connection=one.tag, ends=pair.ends))

    assert client.interfaces() == set()
    assert server.interfaces() == {"nse-1"}
    assert await kernels["node1"].read(one) == Pair()


# --- whether the other end is there


@FAMILIES
@UNDERLAYS
async def test_the_other_ends_kernel_answers_and_needs_no_plumber(
    kernels: Kernels, pods: Pods, asking: Asking, family: tuple[str, str, str], underlay: int
) -> None:
    grant = remote(family, underlay=underlay)
    one, other = await halves(kernels, grant, pods("client"), pods("server"))
    await stand(kernels, one, other)
    kernels["node2"].close()

    await asking.until_answered(one, grant.server.mac)
    assert await asking.follow(one, grant.server.mac, is_new=False) is Answer.YES


@FAMILIES
async def test_an_end_that_comes_later_is_found_at_once(
    kernels: Kernels,
    pods: Pods,
    asking: Asking,
    family: tuple[str, str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The far end's own question is the hint; ours would come a minute later."""
    monkeypatch.setattr(peers, "_FIRST_SECONDS", 60)
    monkeypatch.setattr(peers, "_INTERVAL_SECONDS", 60)
    grant = remote(family)
    one, other = await halves(kernels, grant, pods("client"), pods("server"))
    await kernels["node1"].apply(Create(wiring=one))
    assert await asking.follow(one, grant.server.mac) is Answer.NOT_YET
    await kernels["node2"].apply(Create(wiring=other))
    far = Asking(kernels, "node2")
    await far.follow(other, grant.client.mac)
    assert await asyncio.wait_for(asking.told.get(), 20) == one.tag
    far.peers.close()


async def test_an_end_that_nobody_waits_for_any_more_is_told(
    kernels: Kernels, pods: Pods, asking: Asking
) -> None:
    grant = remote(V4)
    one, other = await halves(kernels, grant, pods("client"), pods("server"))
    await kernels["node1"].apply(Create(wiring=one))
    async with asyncio.TaskGroup() as tasks:
        # Its patience starts when the socket is there.
        waiting = tasks.create_task(asking.follow(one, grant.server.mac, is_new=False))
        while not asking.peers.sockets:
            await asyncio.sleep(0)
        waiting.cancel()

    await kernels["node2"].apply(Create(wiring=other))
    assert await asyncio.wait_for(asking.told.get(), 20) == one.tag


@pytest.mark.parametrize(("family", "death"), [(V4, "pod"), (V4, "cable"), (V6, "cable")])
async def test_a_dead_end_is_told_and_so_is_its_return(
    pods: Pods, nodes: Nodes, asking: Asking, family: tuple[str, str, str], death: str
) -> None:
    kernels = asking.kernels
    server = pods("server")
    grant = remote(family)
    one, other = await halves(kernels, grant, pods("client"), server)
    await stand(kernels, one, other)
    await asking.until_answered(one, grant.server.mac)

    if death == "cable":
        nodes.set_cable(up=False)
    else:
        server.delete_link("nse-1")
    await asyncio.wait_for(asking.told.get(), 20)
    assert await asking.follow(one, grant.server.mac, is_new=False) is Answer.NO_MORE
    if death == "cable":
        nodes.set_cable(up=True)
    else:
        await kernels["node2"].apply(Create(wiring=other))
    await asyncio.wait_for(asking.told.get(), 20)
    assert await asking.follow(one, grant.server.mac, is_new=False) is Answer.YES


async def test_an_endpoint_that_bridged_its_end_still_answers(
    kernels: Kernels, pods: Pods, asking: Asking
) -> None:
    server = pods("server")
    grant = remote(payload="ETHERNET")
    one, other = await halves(kernels, grant, pods("client"), server)
    await stand(kernels, one, other)
    with links.Netlink(server.netns) as inside:
        info = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
        attrs = [("IFLA_IFNAME", "br0"), ("IFLA_LINKINFO", info)]
        inside.request([links.link(links.NEWLINK, flags=links.CREATE, attrs=attrs)])
        bridge, port = server.index("br0"), server.index("nse-1")
        inside.request([encoding.settings(bridge)])
        inside.request([links.link(links.NEWLINK, index=port, attrs=[("IFLA_MASTER", bridge)])])

    await asking.until_answered(one, grant.server.mac)


async def test_one_socket_asks_for_all_tunnels_of_a_pod_and_goes_with_the_last(
    kernels: Kernels, pods: Pods, asking: Asking
) -> None:
    client, server = pods("client"), pods("server")
    grants = [remote(number=n) for n in (1, 2)]
    second = with_client(grants[1], interface="nsm1", addresses=("172.16.1.3/32",), routes=())
    grants[1] = msgspec.structs.replace(with_server(second, addresses=("172.16.1.4/32",)), vni=78)
    wirings = [(await halves(kernels, grant, client, server))[0] for grant in grants]
    for wiring, grant in zip(wirings, grants, strict=True):
        await kernels["node1"].apply(Create(wiring=wiring))
        await asking.follow(wiring, grant.server.mac)

    assert asking.peers.sockets == 1
    asking.peers.forget(wirings[0].tag)
    assert asking.peers.sockets == 1
    asking.peers.forget(wirings[1].tag)
    assert asking.peers.sockets == 0


async def test_a_dead_pods_network_is_free_once_its_tunnel_is_forgotten(
    kernels: Kernels, pods: Pods, asking: Asking
) -> None:
    client, server, second = pods("client"), pods("server"), pods("second")
    grant = remote()
    one, _ = await halves(kernels, grant, client, server)
    await kernels["node1"].apply(Create(wiring=one))
    await asking.follow(one, grant.server.mac)
    twice, _ = await halves(kernels, remote(client="second"), second, server)
    client.end()

    asking.peers.forget(one.tag)

    async def is_free() -> bool:
        try:
            await kernels["node1"].apply(Create(wiring=twice))
        except Refused:
            return False
        return True

    await soon(is_free)


# --- the tunnel port


def inject(node: str, to: str) -> None:
    """A frame for the client in VNI 77, sent from an ordinary socket of a node."""
    inner = bytes.fromhex("020000000101" + "020000000201" + "0800")
    ip = bytes.fromhex("4500002100000000401100000000") + bytes(6)
    payload = b"evil!"
    udp = (4000).to_bytes(2, "big") + (5000).to_bytes(2, "big") + (13).to_bytes(2, "big") + b"\0\0"
    ip = ip[:10] + b"\0\0" + socket.inet_aton("172.16.1.1") + socket.inet_aton("172.16.1.2")
    total = sum(int.from_bytes(ip[at : at + 2], "big") for at in range(0, 20, 2))
    checksum = ~(total % 0xFFFF) & 0xFFFF
    ip = ip[:10] + checksum.to_bytes(2, "big") + ip[12:]
    packet = bytes.fromhex("08000000") + (77 << 8).to_bytes(4, "big") + inner + ip + udp + payload
    with netns.open_socket(node, socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(packet, (to, TUNNEL_PORT))


@pytest.mark.parametrize("known", [True, False], ids=["a peer", "a stranger"])
async def test_the_tunnel_port_takes_frames_of_peers_only(
    kernels: Kernels, pods: Pods, nodes: Nodes, known: bool
) -> None:
    client, server = pods("client"), pods("server")
    one, other = await halves(kernels, remote(), client, server)
    await stand(kernels, one, other)
    await kernels["node1"].admit({ADDRESSES["node2"][0]} if known else {"172.18.0.99"})

    with client.udp("172.16.1.2", 5000) as listening:
        listening.settimeout(1 if known else 0.3)
        inject(nodes.paths["node2"], ADDRESSES["node1"][0])
        if known:
            assert listening.recv(100) == b"evil!"
        else:
            with pytest.raises(TimeoutError):
                listening.recv(100)


@UNDERLAYS
async def test_the_guard_lets_the_tunnels_of_both_families_through(
    kernels: Kernels, pods: Pods, underlay: int
) -> None:
    client, server = pods("client"), pods("server")
    one, other = await halves(kernels, remote(underlay=underlay), client, server)
    at = 0 if underlay == 4 else 1
    await kernels["node1"].admit({ADDRESSES["node2"][at]})
    await kernels["node2"].admit({ADDRESSES["node1"][at]})

    await stand(kernels, one, other)

    assert answers(client, server, V4[:2])


async def test_a_pod_that_points_its_tunnel_elsewhere_reaches_nobody(
    kernels: Kernels, pods: Pods
) -> None:
    client, server = pods("client"), pods("server")
    one, other = await halves(kernels, remote(), client, server)
    await stand(kernels, one, other)
    await kernels["node1"].admit({"172.18.0.99"})  # that is, where it points to is no peer

    with client.udp("172.16.1.2") as here, server.udp("172.16.1.1", 5000) as listening:
        listening.settimeout(0.3)
        with suppress(OSError):
            here.sendto(b"hello", ("172.16.1.1", 5000))
        with pytest.raises(TimeoutError):
            listening.recv(100)


async def test_the_guard_outlives_us_is_replaced_when_it_was_taken_and_goes_with_the_last(
    kernels: Kernels, nodes: Nodes
) -> None:
    path = nodes.paths["node1"]
    await kernels["node1"].admit({"172.18.0.12"})
    kernels["node1"].close()
    with nft.Nft(path) as guard:
        assert nft_tunnels.stands(guard)
        nft_tunnels.admit(guard, [], port=TUNNEL_PORT)
        assert not nft_tunnels.stands(guard)

        newer = Kernel(path)
        await newer.admit({"172.18.0.12", "fd00:18::12"})
        assert nft_tunnels.stands(guard)
        nft_tunnels.admit(guard, [], port=TUNNEL_PORT)  # somebody flushed all tables
        await newer.admit({"172.18.0.12", "fd00:18::12"})
        assert nft_tunnels.stands(guard)
        await newer.admit(())
        assert not nft_tunnels.stands(guard)
        newer.close()


async def test_thousands_of_peers_fit_into_the_guard(kernels: Kernels, nodes: Nodes) -> None:
    peers = {f"10.{n >> 8}.{n & 255}.1" for n in range(5000)}

    await kernels["node1"].admit(peers)

    with nft.Nft(nodes.paths["node1"]) as guard:
        words = nft.text(1, nft_tunnels.TABLE) + nft.text(2, "peers4")
        found = guard.dump(nft.Message(nft.GET_ELEMENTS, nft.INET, words))
    assert sum(len(list(nft.items(each[3]))) for _, each in found) == 5000


async def test_a_node_says_what_its_kernel_can(kernels: Kernels) -> None:
    node = await kernels["node1"].read_node()

    assert node.mechanisms == ("veth", "vxlan")
    assert (node.address, node.mtu) == ("172.18.0.11", 1500)
