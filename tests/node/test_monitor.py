"""One socket hears of every network it was told of, and of none else; nothing is pinned."""

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from services._node import links, monitor, netns
from services._node.links import Netlink
from services._node.monitor import Change, Monitor
from tests.node.sandboxes import Pod, ensure_namespaces_allowed


class Heard:
    """A monitor and what it told."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.losses = 0
        self.monitor = Monitor(on_changes=self.changes.extend, on_loss=self._lost)

    def _lost(self) -> None:
        self.losses += 1

    def watch(self, pod: Pod) -> int:
        cookie = netns.cookie(pod.netns)
        self.monitor.watch(pod.netns, cookie)
        return cookie

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(self.monitor.run())
                yield
                task.cancel()
        finally:
            self.monitor.close()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.002)

    def kinds(self, cookie: int) -> set[int]:
        return {change.kind for change in self.changes if change.cookie == cookie}


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[Callable[[str], Pod]]:
    ensure_namespaces_allowed(tmp_path)
    made: list[Pod] = []

    def make(name: str) -> Pod:
        made.append(Pod(tmp_path, name, f"10.244.1.{len(made) + 2}"))
        return made[-1]

    yield make
    for path in tmp_path.glob("netns-*"):
        netns.delete(path)


async def test_a_link_is_told_as_it_is_now(pods: Callable[[str], Pod]) -> None:
    pod = pods("client")
    heard = Heard()
    cookie = heard.watch(pod)
    async with heard.running():
        pod.add_link("theirs")
        index = pod.index("theirs")
        attrs = [
            ("IFLA_IFALIAS", "nsm:x"),
            ("IFLA_MTU", 1400),
            ("IFLA_ADDRESS", "02:00:00:00:00:07"),
        ]
        with Netlink(pod.netns) as netlink:
            netlink.request([links.link(links.NEWLINK, index=index, up=True, attrs=attrs)])

        def last() -> Change | None:
            found = [c for c in heard.changes if (c.kind, c.ifindex) == (monitor.NEWLINK, index)]
            return found[-1] if found else None

        wanted = Change(
            cookie,
            monitor.NEWLINK,
            index,
            interface="theirs",
            mac="02:00:00:00:00:07",
            mtu=1400,
            alias="nsm:x",
            up=True,
        )
        await heard.until(lambda: last() == wanted)

        pod.delete_link("theirs")
        await heard.until(lambda: monitor.DELLINK in heard.kinds(cookie))


async def test_the_last_word_on_an_interface_counts(pods: Callable[[str], Pod]) -> None:
    """What happened to it before nobody heard of it is over."""
    pod = pods("client")
    heard = Heard()
    cookie = heard.watch(pod)
    pod.add_link("theirs")
    index = pod.index("theirs")
    with Netlink(pod.netns) as netlink:
        for mtu in (1400, 1300, 1200):
            message = links.link(links.NEWLINK, index=index, attrs=[("IFLA_MTU", mtu)])
            netlink.request([message])

    async with heard.running():
        await heard.until(lambda: heard.kinds(cookie))
        told = [c for c in heard.changes if (c.kind, c.ifindex) == (monitor.NEWLINK, index)]
        assert [change.mtu for change in told] == [1200]

        pod.delete_link("theirs")
        await heard.until(lambda: monitor.DELLINK in heard.kinds(cookie))


async def test_what_is_added_wakes_nobody(pods: Callable[[str], Pod]) -> None:
    pod = pods("client")
    heard = Heard()
    heard.watch(pod)
    pod.add_address("192.0.2.1")

    with pytest.raises(BlockingIOError):
        heard.monitor._socket.recv(1 << 16)
    heard.monitor.close()


@pytest.mark.parametrize("address", ["192.0.2.1/32", "2001:db8::1/128"], ids=["v4", "v6"])
async def test_what_is_taken_away_is_told(pods: Callable[[str], Pod], address: str) -> None:
    pod = pods("client")
    heard = Heard()
    cookie = heard.watch(pod)
    destination = "198.51.100.0/24" if "." in address else "2001:db8:1::/64"
    route = {"index": 1, "destination": destination, "protocol": 78}
    with Netlink(pod.netns) as netlink:
        netlink.request(
            [links.address(links.NEWADDR, index=1, address=address, flags=links.CREATE)]
        )
        netlink.request([links.route(links.NEWROUTE, flags=links.CREATE, **route)])  # type: ignore[arg-type]
    async with heard.running():
        with Netlink(pod.netns) as netlink:
            netlink.request([links.route(links.DELROUTE, **route)])  # type: ignore[arg-type]
            netlink.request([links.address(links.DELADDR, index=1, address=address)])
        await heard.until(lambda: Change(cookie, monitor.DELADDR, 1) in heard.changes)
        assert Change(cookie, monitor.DELROUTE, 1, protocol=78) in heard.changes


async def test_a_rule_is_told_with_its_maker(pods: Callable[[str], Pod]) -> None:
    pod = pods("client")
    heard = Heard()
    cookie = heard.watch(pod)
    rule = {"family": 2, "priority": 100, "table": 7, "source": "192.0.2.1/32", "owner": 78}
    with Netlink(pod.netns) as netlink:
        netlink.request([links.rule(links.NEWRULE, flags=links.CREATE, **rule)])  # type: ignore[arg-type]
        async with heard.running():
            netlink.request([links.rule(links.DELRULE, **rule)])  # type: ignore[arg-type]
            await heard.until(lambda: Change(cookie, monitor.DELRULE, protocol=78) in heard.changes)


async def test_each_network_is_told_apart_and_others_are_not_told(
    pods: Callable[[str], Pod],
) -> None:
    one, other, stranger = pods("one"), pods("other"), pods("stranger")
    heard = Heard()
    cookies = [heard.watch(one), heard.watch(other)]
    async with heard.running():
        for pod in (stranger, other, one):
            pod.add_link("x")
        await heard.until(lambda: heard.kinds(cookies[0]))

    assert {change.cookie for change in heard.changes} == set(cookies)


async def test_the_end_of_a_network_is_told_and_nothing_keeps_it(
    pods: Callable[[str], Pod],
) -> None:
    pod, neighbour = pods("client"), pods("neighbour")
    heard = Heard()
    cookie, other = heard.watch(pod), heard.watch(neighbour)
    async with heard.running():
        pod.end()
        await heard.until(lambda: monitor.DELNSID in heard.kinds(cookie))

    assert not heard.monitor.is_watched(cookie)
    assert heard.monitor.is_watched(other)
    assert heard.monitor.watched == 1


async def test_an_end_that_is_read_late_is_not_that_of_the_next_network_with_its_id(
    pods: Callable[[str], Pod],
) -> None:
    """In a rollout one Pod ends and the next is attended to before anybody reads the kernel's notices."""
    former, later = pods("former"), pods("later")
    heard = Heard()
    gone = heard.watch(former)
    (nsid,) = heard.monitor._cookies
    former.end()
    await heard.until(lambda: select.select([heard.monitor._socket], [], [], 0)[0])
    assert heard.watch(later) != gone
    assert list(heard.monitor._cookies) == [nsid]  # else this test proves nothing
    assert heard.changes == [Change(gone, monitor.DELNSID)]
    assert not heard.monitor.is_watched(gone)

    async with heard.running():
        later.add_link("x")
        await heard.until(lambda: monitor.NEWLINK in heard.kinds(netns.cookie(later.netns)))
        assert heard.monitor.watched == 1

        later.end()
        await heard.until(lambda: heard.monitor.watched == 0)
    ends = [change for change in heard.changes if change.kind == monitor.DELNSID]
    assert len(ends) == 2


async def test_lost_notices_are_told_as_a_loss(
    pods: Callable[[str], Pod], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "_BUFFER_BYTES", 4096)
    pod = pods("client")
    heard = Heard()
    cookie = heard.watch(pod)

    def flood() -> None:
        with Netlink(pod.netns) as netlink:
            for up in [False, True] * 200:
                netlink.request([links.link(links.NEWLINK, index=1, up=up)])

    flood()  # nobody reads meanwhile
    async with heard.running():
        await heard.until(lambda: heard.losses)
        heard.changes.clear()
        pod.add_link("after")
        await heard.until(lambda: heard.kinds(cookie))


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_hundred_networks_cost_no_descriptors(pods: Callable[[str], Pod]) -> None:
    heard = Heard()
    made = [pods(f"p{n}") for n in range(100)]
    before = descriptors()
    cookies = [heard.watch(pod) for pod in made]
    assert descriptors() == before
    async with heard.running():
        for pod in made:
            pod.set_down("lo")
        await heard.until(lambda: all(heard.kinds(cookie) for cookie in cookies))
    assert heard.losses == 0
