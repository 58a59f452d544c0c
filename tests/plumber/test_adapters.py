import asyncio
import errno
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.grant import Connection
from services._node import links, netns
from services.plumber import core
from services.plumber.adapters import Gone, Grants, Kernel, NameTaken, Refused
from services.plumber.adapters.errors import RouteTaken
from services.plumber.adapters.reading import GROUP
from services.plumber.model import (
    Applied,
    Create,
    Pair,
    Place,
    Remove,
    Stray,
    Wiring,
    render_alias,
)
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, V6, a_grant, there, with_client

FAMILIES = pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])

Pods = Callable[..., Pod]


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


async def wired(kernel: Kernel, grant: Connection, client: Pod, server: Pod) -> Wiring:
    return core.wiring(
        grant, await kernel.find_place(client.result), await kernel.find_place(server.result)
    )


async def pursue(kernel: Kernel, wiring: Wiring, before: Wiring | None = None) -> int:
    """Make it so; how many operations it took."""
    formerly = {before.tag: before} if before else {}
    pair = await kernel.read(wiring)
    operations = core.plan({wiring.tag: wiring}, {wiring.tag: pair}, formerly)
    for operation in operations:
        await kernel.apply(operation)
    return len(operations)


def answers(client: Pod, server: Pod, addresses: tuple[str, str]) -> bool:
    """Whether the very first packet to the server arrives, and its answer comes back."""
    own, peer = (address.partition("/")[0] for address in addresses)
    with client.udp(own) as here, server.udp(peer, 5000) as there:
        here.sendto(b"hello", (peer, 5000))
        data, sender = there.recvfrom(100)
        there.sendto(data, sender)
        return here.recv(100) == b"hello" and sender[0] == own


@FAMILIES
async def test_what_is_created_carries_the_first_packet(
    kernel: Kernel, pods: Pods, family: tuple[str, str, str]
) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(family), client, server)

    pair = await kernel.apply(Create(wiring=wiring))

    assert answers(client, server, family[:2])
    assert pair.client is not None
    assert pair.client.index == client.index("nsm0")
    assert pair.client.mac == there(wiring.client).mac


async def test_nothing_of_a_probe_outlives_the_kernels_end(pods: Pods) -> None:
    kernel = Kernel()
    wiring = await wired(kernel, a_grant(V4), pods("client"), pods("server"))
    await kernel.apply(Create(wiring=wiring))

    kernel.close()

    assert not [each.name for each in threading.enumerate() if "probe" in each.name]


@FAMILIES
@pytest.mark.parametrize("payload", ["IP", "ETHERNET"])
async def test_what_was_made_is_read_back_and_needs_no_change(
    kernel: Kernel, pods: Pods, family: tuple[str, str, str], payload: str
) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(family, payload=payload), client, server)

    made = await kernel.apply(Create(wiring=wiring))

    assert await pursue(kernel, wiring) == 0
    found = await kernel.read(wiring)
    assert found.client is not None
    assert made.client is not None
    assert found.client.index == made.client.index
    assert found.client.routes == there(wiring.client).routes


async def test_many_connections_of_one_server_share_its_address(kernel: Kernel, pods: Pods) -> None:
    server = pods("server")
    clients = [pods(f"client{n}") for n in range(4)]
    wirings = []
    for n, client in enumerate(clients):
        grant = a_grant(V4, V6, client=client.name, number=n)
        grant = with_client(grant, addresses=(f"172.16.1.{n + 2}/32", f"2001:db8::{n + 2}/128"))
        wirings.append(await wired(kernel, grant, client, server))

    await asyncio.gather(*(kernel.apply(Create(wiring=wiring)) for wiring in wirings))

    for n, client in enumerate(clients):
        assert answers(client, server, (f"172.16.1.{n + 2}", V4[1]))
        assert answers(client, server, (f"2001:db8::{n + 2}", V6[1]))


@FAMILIES
async def test_the_links_settings_are_ours_alone(
    kernel: Kernel, pods: Pods, family: tuple[str, str, str]
) -> None:
    client, server = pods("client"), pods("server")
    await kernel.apply(Create(wiring=await wired(kernel, a_grant(family), client, server)))

    def read(key: str) -> str:
        return netns.in_netns(
            client.netns, Path("/proc/sys/net", key.replace("*", "nsm0")).read_text
        ).strip()

    assert read("ipv4/conf/*/rp_filter") == "2"
    assert read("ipv6/conf/*/accept_ra") == "0"
    assert read("ipv6/conf/*/disable_ipv6") == "0"
    assert read("ipv4/conf/lo/rp_filter") == read("ipv4/conf/default/rp_filter")


@FAMILIES
async def test_addresses_and_routes_change_in_place(
    kernel: Kernel, pods: Pods, family: tuple[str, str, str]
) -> None:
    other = "172.16.1.9/32" if family is V4 else "2001:db8::9/128"
    client, server = pods("client"), pods("server")
    before = await wired(kernel, a_grant(family), client, server)
    await pursue(kernel, before)
    index = client.index("nsm0")
    grant = with_client(a_grant(family, mtu=1300), addresses=(other,), routes=())
    after = await wired(kernel, grant, client, server)

    await pursue(kernel, after, before)

    found = await kernel.read(after)
    assert client.index("nsm0") == index
    assert answers(client, server, (other, family[1]))
    assert found.client is not None
    assert family[0] not in found.client.addresses
    assert found.client.routes == there(after.client).routes
    assert (found.client.revision, found.client.mtu) == (2, 1300)
    assert await pursue(kernel, after, before) == 0


async def test_both_ends_go_together_and_twice_is_no_error(kernel: Kernel, pods: Pods) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(), client, server)
    await pursue(kernel, wiring)
    pair = await kernel.read(wiring)
    assert pair.client is not None
    assert pair.server is not None
    removal = Remove(connection=wiring.tag, ends=(pair.client, pair.server))

    await kernel.apply(removal)
    await kernel.apply(removal)

    assert client.interfaces() == server.interfaces() == set()


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_foreign_interface_of_the_same_name_is_not_touched(
    kernel: Kernel, pods: Pods, side: str
) -> None:
    found = {"client": pods("client"), "server": pods("server")}
    name = "nsm0" if side == "client" else "nse-1"
    found[side].add_link(name)
    index = found[side].index(name)
    wiring = await wired(kernel, a_grant(), found["client"], found["server"])

    assert await kernel.read(wiring) == Pair()
    with pytest.raises(NameTaken, match=name) as caught:
        await kernel.apply(Create(wiring=wiring))

    assert caught.value.uid == found[side].uid
    assert found[side].index(name) == index
    assert len(found["client"].interfaces() | found["server"].interfaces()) == 2  # foreign pair
    other = found["server" if side == "client" else "client"]
    assert other.interfaces() == set()


async def test_a_foreign_route_is_not_taken_and_nothing_half_made_stays(
    kernel: Kernel, pods: Pods
) -> None:
    client, server = pods("client"), pods("server")
    client.add_link("other0")
    with links.Netlink(client.netns) as netlink:
        index = client.index("other0")
        netlink.request([links.link(links.NEWLINK, index=index, up=True)])
        netlink.request(
            [links.route(links.NEWROUTE, index=index, destination=V4[2], flags=links.CREATE)]
        )
    wiring = await wired(kernel, a_grant(), client, server)

    with pytest.raises(
        RouteTaken, match=r"nsm0: .* stands 10\.20\.0\.0/16 dev other0; delete that"
    ):
        await kernel.apply(Create(wiring=wiring))

    assert "nsm0" not in client.interfaces()
    assert server.interfaces() == set()
    with links.Netlink(client.netns) as netlink:
        routes = netlink.dump(links.route(links.GETROUTE, index=index, family=socket.AF_INET))
    assert V4[2].partition("/")[0] in {each.get_attr("RTA_DST") for each in routes}


async def test_what_an_interrupted_creation_left_is_replaced(kernel: Kernel, pods: Pods) -> None:
    client, server = pods("client"), pods("server")
    with links.Netlink(client.netns) as netlink:
        info = {"attrs": [("IFLA_INFO_KIND", "veth")]}
        attrs = [("IFLA_IFNAME", "nsm0"), ("IFLA_GROUP", GROUP), ("IFLA_LINKINFO", info)]
        netlink.request([links.link(links.NEWLINK, flags=links.CREATE, attrs=attrs)])
    wiring = await wired(kernel, a_grant(), client, server)

    await kernel.apply(Create(wiring=wiring))

    assert answers(client, server, V4[:2])


async def test_the_namespace_of_the_process_or_of_the_node_is_never_a_pods(
    pods: Pods, tmp_path: Path
) -> None:
    node = pods("node")
    kernel = Kernel(node.netns)
    own = msgspec.structs.replace(node.result, netns="/proc/self/ns/net", ips=())
    try:
        with pytest.raises(Gone, match="of this process"):
            await kernel.find_place(own)
        with pytest.raises(Gone, match="not of a Pod"):
            await kernel.find_place(node.result)
    finally:
        kernel.close()


async def test_a_namespace_without_the_pods_address_is_not_the_pods(
    kernel: Kernel, pods: Pods
) -> None:
    pod = pods("client")
    wrong = msgspec.structs.replace(pod.result, ips=("10.244.9.9/24",))

    with pytest.raises(Gone, match=r"10\.244\.9\.9"):
        await kernel.find_place(wrong)


async def test_another_namespace_under_the_same_path_is_another_place(
    kernel: Kernel, pods: Pods
) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(), client, server)
    netns.delete(client.netns)
    netns.create(client.netns)

    assert not await kernel.is_there(there(wiring.client).place)
    with pytest.raises(Gone, match="another network namespace"):
        await kernel.apply(Create(wiring=wiring))
    assert (await kernel.read(wiring)).client is None


async def test_not_being_able_to_look_is_not_the_end_of_a_network(
    kernel: Kernel, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = pods("client")
    place = await kernel.find_place(pod.result)

    def exhausted(*_: object) -> int:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(netns, "open_fd", exhausted)

    with pytest.raises(Refused, match="too many open files"):
        await kernel.find_place(pod.result)
    assert await kernel.is_there(place)


async def test_a_dead_pods_network_is_not_kept_alive(kernel: Kernel, pods: Pods) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(), client, server)
    await pursue(kernel, wiring)
    await kernel.read(wiring)

    client.end()

    # the namespace is freed once nobody holds it, and takes the peer's end with it
    async with asyncio.timeout(20):
        while server.interfaces():
            await asyncio.sleep(0.01)


async def test_the_node_tells_its_directly_connected_prefixes(tmp_path: Path, pods: Pods) -> None:
    node = pods("node")
    node.add_link("eth0")
    with links.Netlink(node.netns) as netlink:
        index = node.index("eth0")
        netlink.request([links.link(links.NEWLINK, index=index, up=True)])
        for address in ("172.18.0.11/24", "10.0.0.1/8", "169.254.1.1/16", "2001:db8:5::1/64"):
            netlink.request(
                [links.address(links.NEWADDR, index=index, address=address, flags=links.CREATE)]
            )
    kernel = Kernel(node.netns)
    try:
        found = await kernel.read_node()
    finally:
        kernel.close()

    assert set(found.prefixes) == {"172.18.0.0/24", "2001:db8:5::/64"}
    assert found.address == "172.18.0.11"
    assert found.mtu == 1500


# --- what is ours


def lone_link(pod: Pod, name: str, *, group: int = GROUP, alias: str = "") -> None:
    """An interface with our marks, or some of them."""
    pod.add_link(name)
    attrs = [("IFLA_GROUP", group), *([("IFLA_IFALIAS", alias)] if alias else [])]
    index = pod.index(name)
    with links.Netlink(pod.netns) as netlink:
        netlink.request([links.link(links.NEWLINK, index=index, attrs=attrs)])


@pytest.mark.parametrize(
    ("group", "mark", "goes"),
    [
        (GROUP, "", True),
        (GROUP, "own", True),
        (GROUP, "other", False),
        (GROUP, "words", False),
        (0, "", False),
        (0, "own", False),
    ],
)
async def test_clearing_takes_what_is_ours_complete_or_not(
    kernel: Kernel, pods: Pods, group: int, mark: str, goes: bool
) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(), client, server)
    alias = {
        "own": render_alias(wiring.tag, 7, is_server=False),
        "other": render_alias("f" * 16, 1, is_server=False),
        "words": "uplink",
    }.get(mark, "")
    lone_link(client, "nsm0", group=group, alias=alias)

    await kernel.clear(wiring)

    assert ("nsm0" not in client.interfaces()) is goes


async def test_strays_are_links_with_our_alias_and_our_group(kernel: Kernel, pods: Pods) -> None:
    client = pods("client")
    place = await kernel.find_place(client.result)
    alias = render_alias("f" * 16, 3, is_server=True)
    lone_link(client, "both0", alias=alias)
    lone_link(client, "group0")
    lone_link(client, "alias0", group=0, alias=alias)

    found = await kernel.find_strays(place)

    assert found == [Stray(place=place, interface="both0", connection="f" * 16)]
    for name in ("group0", "alias0", "both0", "nothing0"):
        await kernel.remove_stray(Stray(place=place, interface=name, connection="f" * 16))
    assert {"group0", "alias0"} <= client.interfaces()
    assert "both0" not in client.interfaces()


# --- the kernel's oddities


async def test_an_ipv4_mapped_address_is_read_back_as_it_was_granted(
    kernel: Kernel, pods: Pods
) -> None:
    family = ("::ffff:172.16.1.2/128", "::ffff:172.16.1.1/128", "::ffff:10.20.0.0/112")
    wiring = await wired(kernel, a_grant(family), pods("client"), pods("server"))

    assert await pursue(kernel, wiring) == 1
    assert await pursue(kernel, wiring) == 0


async def test_ipv6_where_the_kernel_has_none_is_refused_with_a_remedy(
    kernel: Kernel, pods: Pods
) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(V4, V6, mtu=1200), client, server)

    with pytest.raises(Refused, match=r"IPv6 is off here: .*1280"):
        await kernel.apply(Create(wiring=wiring))

    assert client.interfaces() == server.interfaces() == set()


async def test_a_kernel_that_does_not_answer_tells_nothing(
    kernel: Kernel, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(), client, server)

    def silent(*_: object, **__: object) -> None:
        raise TimeoutError("timed out")

    monkeypatch.setattr(links.Netlink, "_dump", silent)
    monkeypatch.setattr(links.Netlink, "look_up", silent)

    with pytest.raises(Refused, match="timed out"):
        await kernel.find_place(client.result)
    with pytest.raises(Refused, match="timed out"):
        await kernel.read(wiring)
    with pytest.raises(Refused, match="timed out"):
        await kernel.clear(wiring)


async def test_a_path_that_is_none_is_no_network(kernel: Kernel, pods: Pods) -> None:
    pod = pods("client")
    place = await kernel.find_place(pod.result)

    with pytest.raises(Gone, match=r"null (byte|character)"):
        await kernel.find_place(msgspec.structs.replace(pod.result, netns="/run/\0"))
    assert not await kernel.is_there(msgspec.structs.replace(place, netns="/run/\0"))


async def test_a_change_stays_in_the_network_that_was_checked(
    kernel: Kernel, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = pods("client"), pods("server")
    before = await wired(kernel, a_grant(), client, server)
    await pursue(kernel, before)
    after = await wired(
        kernel, with_client(a_grant(), addresses=("172.16.1.9/32",)), client, server
    )
    targets: list[object] = []
    real = netns.visit

    def note(target: netns.Target, action: Callable[[], Any]) -> Any:
        targets.append(target)
        return real(target, action)

    monkeypatch.setattr(netns, "visit", note)
    await pursue(kernel, after, before)

    assert targets
    assert all(isinstance(target, int) for target in targets)  # the descriptor, no path


# --- files


def an_applied(grant: Connection) -> Applied:
    return Applied(
        grant=grant,
        client=Place(uid="uid-client", netns="/run/netns/c", cookie=1),
        server=Place(uid="uid-server", netns="/run/netns/s", cookie=2),
    )


def test_an_applied_grant_survives_a_restart(tmp_path: Path) -> None:
    applied = an_applied(a_grant(V4, V6))
    Grants(tmp_path).write("0123456789abcdef", applied)

    assert [found for _, found in Grants(tmp_path).read()] == [applied]

    Grants(tmp_path).remove("0123456789abcdef")
    Grants(tmp_path).remove("0123456789abcdef")

    assert list(Grants(tmp_path).read()) == []


def test_a_file_that_means_nothing_is_told_apart(tmp_path: Path) -> None:
    files = Grants(tmp_path)
    files.write("a", an_applied(a_grant()))
    (tmp_path / "connections" / "b.json").write_text("{")
    (tmp_path / "connections" / "d.json").write_text('{"grant":' * 100_000)
    (tmp_path / "connections" / "c.new").write_text("half written")

    assert [found is not None for _, found in files.read()] == [True, False, False]
