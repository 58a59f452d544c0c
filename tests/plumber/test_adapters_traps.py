"""What the kernel does to those who do not know it: each trap was met once."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from services._node import encoding, links
from services.plumber import core
from services.plumber.adapters import Kernel, Refused, removals, writing
from services.plumber.adapters.errors import Standing
from services.plumber.adapters.reading import DOOMED
from services.plumber.model import Create, Pair, Remove, Wiring
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, V6, a_grant, there, with_client, with_server
from tests.plumber.test_adapters import answers, pursue, wired

Pods = Callable[..., Pod]


@pytest.fixture
async def kernel() -> AsyncIterator[Kernel]:
    made = Kernel()
    yield made
    made.close()


async def many(kernel: Kernel, pods: Pods, count: int) -> tuple[list[Wiring], list[Pod], Pod]:
    """Connections of as many clients with one server."""
    server = pods("server")
    clients = [pods(f"client{n}") for n in range(count)]
    wirings = []
    for n, client in enumerate(clients):
        grant = a_grant(client=client.name, number=n)
        grant = with_client(grant, addresses=(f"172.16.1.{n + 2}/32",))
        wirings.append(await wired(kernel, grant, client, server))
    return wirings, clients, server


@pytest.mark.parametrize("family", [V4, V6], ids=["v4", "v6"])
async def test_the_first_packet_arrives_every_time(
    kernel: Kernel, pods: Pods, family: tuple[str, str, str]
) -> None:
    """An acknowledgement is not yet a link, and not yet an address: some of the first packets were lost."""
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(family), client, server)

    for _ in range(30):
        pair = await kernel.apply(Create(wiring=wiring))
        assert answers(client, server, family[:2])
        await kernel.apply(Remove(connection=wiring.tag, ends=pair.ends))


async def test_nothing_is_listed_while_a_connection_is_made(
    kernel: Kernel, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of 3,000 interfaces takes 45 ms."""
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(V4, V6), client, server)

    def refuse(*_: object) -> None:
        raise AssertionError("listed")

    monkeypatch.setattr(links.Netlink, "_dump", refuse)

    await kernel.apply(Create(wiring=wiring))


async def test_an_index_that_is_in_use_is_not_insisted_on(
    kernel: Kernel, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = pods("client"), pods("server")
    client.add_link("other0")
    wiring = await wired(kernel, a_grant(), client, server)
    monkeypatch.setattr(
        writing, "_indexes", itertools.chain([client.index("other0")], itertools.count(5000))
    )

    await kernel.apply(Create(wiring=wiring))

    assert answers(client, server, V4[:2])


async def test_removals_that_meet_go_in_one_round_per_network(
    kernel: Kernel, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One link or forty: the kernel waits once for all that go in one request, with everybody waiting for it."""
    wirings, clients, server = await many(kernel, pods, 12)
    pairs = [await kernel.apply(Create(wiring=wiring)) for wiring in wirings]
    rounds: list[int] = []
    real = removals._delete

    def note(socket: links.Netlink, indexes: list[int]) -> None:
        rounds.append(len(indexes))
        real(socket, indexes)

    monkeypatch.setattr(removals, "_delete", note)

    await asyncio.gather(
        *(
            kernel.apply(Remove(connection=wiring.tag, ends=pair.ends))
            for wiring, pair in zip(wirings, pairs, strict=True)
        )
    )

    assert server.interfaces() == set()
    assert all(client.interfaces() == set() for client in clients)
    assert rounds == [1, 11]  # the first did not wait for company


async def test_who_removes_for_others_too_can_be_stopped() -> None:
    rounds: list[None] = []
    joined, for_others = asyncio.Event(), asyncio.Event()

    async def work(_action: Callable[[], Any]) -> dict[str, Exception]:
        rounds.append(None)
        if len(rounds) > 1:
            for_others.set()
            await asyncio.Event().wait()
        await joined.wait()
        return {}

    removing = removals.Removals(work, opened=unreachable)
    async with asyncio.TaskGroup() as group:
        first = group.create_task(removing.remove(Remove(connection="a", ends=())))
        await asyncio.sleep(0)
        second = group.create_task(removing.remove(Remove(connection="b", ends=())))
        await asyncio.sleep(0)
        joined.set()
        await for_others.wait()
        for task in (first, second):
            task.cancel()

    assert first.cancelled()
    assert second.cancelled()


async def test_a_mistake_in_one_round_is_told_to_all_who_wait_and_ends_nobody() -> None:
    async def work(_action: Callable[[], Any]) -> dict[str, Exception]:
        await asyncio.sleep(0)
        raise RuntimeError("no thread")

    removing = removals.Removals(work, opened=unreachable)
    found = await asyncio.gather(
        *(removing.remove(Remove(connection=name, ends=())) for name in "abc"),
        return_exceptions=True,
    )

    assert [str(each) for each in found] == ["no thread"] * 3


def unreachable(_place: Any) -> Any:
    raise AssertionError("no network is opened here")


async def test_one_removal_that_fails_fails_alone(
    kernel: Kernel, pods: Pods, monkeypatch: pytest.MonkeyPatch
) -> None:
    wirings, clients, _ = await many(kernel, pods, 2)
    other_server = pods("other")
    grant = a_grant(client="lone", server="other", number=9)
    lone = await wired(kernel, grant, pods("lone"), other_server)
    pairs = [await kernel.apply(Create(wiring=wiring)) for wiring in (*wirings, lone)]
    place = there(lone.server).place
    real = kernel._removals._opened

    def opened(wanted: Any) -> Any:
        if wanted == place:
            raise Refused("too many open files")
        return real(wanted)

    monkeypatch.setattr(kernel._removals, "_opened", opened)
    results = await asyncio.gather(
        *(
            kernel.apply(Remove(connection=wiring.tag, ends=pair.ends))
            for wiring, pair in zip((*wirings, lone), pairs, strict=True)
        ),
        return_exceptions=True,
    )

    assert results[:2] == [Pair(), Pair()]
    assert isinstance(results[2], Refused)
    assert all(client.interfaces() == set() for client in clients)


async def test_a_removal_that_was_interrupted_leaves_nothing_that_stands(
    kernel: Kernel, pods: Pods
) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(), client, server)
    pair = await kernel.apply(Create(wiring=wiring))
    with links.Netlink(server.netns) as inside:
        inside.request([encoding.set_group(there(pair.server).index, DOOMED)])

    assert (await kernel.read(wiring)).server is None
    await pursue(kernel, wiring)

    assert answers(client, server, V4[:2])
    with links.Netlink(server.netns) as inside:
        assert there(inside.look_up(name="nse-1")).group != DOOMED


async def test_a_removal_takes_no_interface_that_got_the_name_since(
    kernel: Kernel, pods: Pods
) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(), client, server)
    pair = await kernel.apply(Create(wiring=wiring))
    client.delete_link("nsm0")
    client.add_link("nsm0")

    await kernel.apply(Remove(connection=wiring.tag, ends=pair.ends))

    assert "nsm0" in client.interfaces()


async def test_another_connection_lives_through_new_addresses_of_the_first(
    kernel: Kernel, pods: Pods
) -> None:
    client, server, other = pods("client"), pods("server"), pods("other")
    before = await wired(kernel, a_grant(), client, server)
    grant = with_client(
        a_grant(server="other", number=2), interface="nsm1", addresses=("172.16.7.2/32",), routes=()
    )
    second = await wired(kernel, with_server(grant, addresses=("172.16.7.1/32",)), client, other)
    await pursue(kernel, before)
    await pursue(kernel, second)
    index = client.index("nsm0")
    with client.udp("172.16.7.2") as here, other.udp("172.16.7.1", 5000) as listening:
        here.connect(("172.16.7.1", 5000))
        here.send(b"before")
        assert listening.recv(100) == b"before"
        changed = with_client(a_grant(), addresses=("172.16.1.9/32",))
        changed = with_server(changed, addresses=("172.16.1.8/32",))
        after = await wired(kernel, changed, client, server)

        await pursue(kernel, after, before)

        here.send(b"after")
        assert listening.recv(100) == b"after"
    assert client.index("nsm0") == index
    assert answers(client, server, ("172.16.1.9", "172.16.1.8"))
    assert "172.16.1.2" not in client.addresses()
    assert "172.16.1.1" not in server.addresses()


async def test_an_mtu_changes_in_place_on_both_ends(kernel: Kernel, pods: Pods) -> None:
    client, server = pods("client"), pods("server")
    before = await wired(kernel, a_grant(), client, server)
    await pursue(kernel, before)
    index = client.index("nsm0")
    grant = msgspec.structs.replace(a_grant(), mtu=1300, revision=2)
    after = await wired(kernel, grant, client, server)

    await pursue(kernel, after, before)

    pair = await kernel.read(after)
    assert client.index("nsm0") == index
    assert (there(pair.client).mtu, there(pair.server).mtu) == (1300, 1300)


async def test_no_descriptor_and_no_thread_outlives_a_hundred_connections(
    kernel: Kernel, pods: Pods
) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(V4, V6), client, server)

    async def cycle() -> None:
        pair = await kernel.apply(Create(wiring=wiring))
        await kernel.read(wiring)
        await kernel.apply(Remove(connection=wiring.tag, ends=pair.ends))

    for _ in range(5):
        await cycle()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(100):
        await cycle()

    async with asyncio.timeout(20):
        while len(os.listdir("/proc/self/fd")) > before:  # noqa: PTH208  probes are closed a moment later
            await asyncio.sleep(0.01)


async def test_a_link_under_another_networks_path_is_the_same_link(
    kernel: Kernel, pods: Pods
) -> None:
    """A Pod is found by its result file, or by a process: two paths, one network."""
    client, server = pods("client"), pods("server")
    before = await wired(kernel, a_grant(), client, server)
    await pursue(kernel, before)
    fd = os.open(client.netns, os.O_RDONLY | os.O_CLOEXEC)
    place = msgspec.structs.replace(there(before.client).place, netns=f"/proc/self/fd/{fd}")
    after = core.wiring(a_grant(), place, there(before.server).place)

    assert core.same_links(before, after)
    assert await pursue(kernel, after, before) == 0
    os.close(fd)


async def test_what_stands_complete_is_not_made_anew(kernel: Kernel, pods: Pods) -> None:
    client, server = pods("client"), pods("server")
    wiring = await wired(kernel, a_grant(), client, server)
    made = await kernel.apply(Create(wiring=wiring))

    with pytest.raises(Standing):
        await kernel.apply(Create(wiring=wiring))

    assert [end.index for end in (await kernel.read(wiring)).ends] == [e.index for e in made.ends]
    assert answers(client, server, V4[:2])
