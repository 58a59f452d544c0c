"""Whatever somebody does to our interfaces is put right at once and told, and nothing else is touched.

No sweep runs in these tests: what is repaired was noticed.
"""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from schemas.intent import Policy, Route
from schemas.state import Status
from services._node import links
from services._node.links import Netlink
from services.plumber.service import Plumber
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, V6, a_grant, a_pod, with_client
from tests.plumber.test_adapters import answers
from tests.plumber.test_adapters_lookups import delete_rule, flush, own_rules
from tests.plumber.world import World

Pods = Callable[..., Pod]
Pair = tuple[Pod, Pod]
Damage = Callable[[Pod, str], None]

NEVER = 3600.0
FAMILY = V6  # the kernel itself forgets addresses and routes of this one when a link goes down


def _link(pod: Pod, interface: str, **fields: object) -> None:
    index = pod.index(interface)
    with Netlink(pod.netns) as netlink:
        netlink.request([links.link(links.NEWLINK, index=index, **fields)])  # type: ignore[arg-type]


def set_down(pod: Pod, interface: str) -> None:
    _link(pod, interface, up=False)


def set_mtu(pod: Pod, interface: str) -> None:
    _link(pod, interface, attrs=[("IFLA_MTU", 1300)])


def set_mac(pod: Pod, interface: str) -> None:
    _link(pod, interface, attrs=[("IFLA_ADDRESS", "02:00:00:00:99:99")])


def rename(pod: Pod, interface: str) -> None:
    _link(pod, interface, up=False)
    _link(pod, interface, attrs=[("IFLA_IFNAME", "mine")])


def delete(pod: Pod, interface: str) -> None:
    pod.delete_link(interface)


def delete_addresses(pod: Pod, interface: str) -> None:
    index = pod.index(interface)
    with Netlink(pod.netns) as netlink:
        for each in netlink.dump(links.address(links.GETADDR, index=index)):
            text = f"{each.get_attr('IFA_ADDRESS')}/{each['prefixlen']}"
            netlink.request([links.address(links.DELADDR, index=index, address=text)])


def delete_routes(pod: Pod, interface: str) -> None:
    index = pod.index(interface)
    peer = FAMILY[1] if interface == "nsm0" else FAMILY[0]
    with Netlink(pod.netns) as netlink:
        netlink.request([links.route(links.DELROUTE, index=index, destination=peer)])


DAMAGES: dict[str, tuple[Damage, str]] = {
    "down": (set_down, "it was down"),
    "mtu": (set_mtu, "its MTU was 1300 instead of 1400"),
    "mac": (set_mac, "it was deleted, renamed or replaced"),
    "renamed": (rename, "it was deleted, renamed or replaced"),
    "deleted": (delete, "it was deleted, renamed or replaced"),
    "re-addressed": (delete_addresses, "its address"),
    "routes": (delete_routes, "its route"),
}


def told(status: Status | None, side: str) -> str:
    end = getattr(status, side) if status else None
    return end.repaired if end else ""


@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("name", DAMAGES)
async def test_damage_is_repaired_at_once_and_told(
    world: World, pair: Pair, side: str, name: str
) -> None:
    damage, what = DAMAGES[name]
    pod, interface = (pair[0], "nsm0") if side == "client" else (pair[1], "nse-1")
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant(FAMILY))
        status = await world.client_is("ready")
        assert (told(status, "client"), told(status, "server")) == ("", "")

        await asyncio.to_thread(damage, pod, interface)
        await world.until(lambda: what in told(world.status(), side))

        await world.client_is("ready")
        assert answers(*pair, FAMILY[:2])
        assert "mine" not in pod.interfaces()


async def test_a_table_that_was_emptied_is_told_by_its_routes_not_by_its_rule(
    world: World, pair: Pair
) -> None:
    policies = (Policy(protocol="tcp"), Policy(protocol="udp"))
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant(policies=policies))
        await world.client_is("ready")

        await asyncio.to_thread(flush, pair[0], 2)
        await world.until(lambda: told(world.status(), "client"))
        status = await world.client_is("ready")

        assert told(status, "client").endswith("nsm0: its route 0.0.0.0/0 of table 2 was gone")


async def test_a_route_that_is_missing_in_a_table_is_told(world: World, pair: Pair) -> None:
    routes = (Route(destination="10.30.0.0/16"), Route(destination="10.40.0.0/16"))
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant(policies=(Policy(protocol="tcp", routes=routes),)))
        await world.client_is("ready")

        with Netlink(pair[0].netns) as netlink:
            netlink.request(
                [links.route(links.DELROUTE, destination="10.40.0.0/16", table=1, metric=7878)]
            )
        await world.until(lambda: told(world.status(), "client"))
        status = await world.client_is("ready")

        assert told(status, "client").endswith("nsm0: its route 10.40.0.0/16 of table 1 was gone")


async def test_a_rule_that_was_deleted_is_told_as_the_rule(world: World, pair: Pair) -> None:
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant(policies=(Policy(protocol="tcp"),)))
        await world.client_is("ready")

        await asyncio.to_thread(delete_rule, pair[0], own_rules(pair[0])[0])
        await world.until(lambda: told(world.status(), "client"))
        status = await world.client_is("ready")

        assert told(status, "client").endswith("its routing rule of priority 10000 was gone")


async def test_each_repair_is_news(world: World, pair: Pair) -> None:
    client, _ = pair
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant())
        await world.client_is("ready")
        seen: set[str] = set()
        for _ in range(3):
            client.set_down("nsm0")
            await world.until(lambda: told(world.status(), "client") not in {"", *seen})
            seen.add(told(world.status(), "client"))

    assert len(seen) == 3
    assert all("nsm0: it was down" in text for text in seen)


async def test_what_is_granted_anew_is_no_repair(world: World, pair: Pair) -> None:
    client, _ = pair
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant())
        await world.client_is("ready")
        client.set_down("nsm0")
        await world.until(lambda: told(world.status(), "client"))

        await world.grant(with_client(a_grant(), addresses=("172.16.1.9/32",)))
        status = await world.client_is("ready", revision=2)

    assert told(status, "client") == ""


async def test_our_own_changes_are_no_reason_to_look_again(
    world: World, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    look_at = Plumber._look_at

    async def counted(self: Plumber, key: object) -> None:
        looks.append(key)
        await look_at(self, key)  # type: ignore[arg-type]

    monkeypatch.setattr(Plumber, "_look_at", counted)
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        for round_ in range(5):
            await world.grant(msgspec.structs.replace(a_grant(), revision=round_ + 1))
            await world.client_is("ready", revision=round_ + 1)
            await world.release(msgspec.structs.replace(a_grant(), revision=round_ + 1))
            await world.buried("uid-client", round_ + 1)
        # a notice that was sent before this one is here by now
        await asyncio.to_thread(pair[0].add_link, "theirs")
        await asyncio.sleep(0)
        assert plumber._watching.watched == 2

    assert len(looks) <= 5 * 2 + 2


async def test_what_is_not_ours_is_nobodys_reason(world: World, pair: Pair) -> None:
    client, server = pair
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant())
        await world.client_is("ready")
        client.add_link("theirs")
        client.set_down("theirs")
        index = client.index("nsm0")
        with Netlink(client.netns) as netlink:
            theirs = links.address(
                links.NEWADDR, index=index, address="192.0.2.7/32", flags=links.CREATE
            )
            netlink.request([theirs])
        client.set_down("nsm0")
        await world.until(lambda: told(world.status(), "client"))

        assert "192.0.2.7" in client.addresses()
        assert not client.is_up("theirs")
        client.delete_link("theirs")
    assert answers(client, server, V4[:2])


async def test_a_flood_that_loses_notices_leads_to_a_look_at_everything(
    world: World, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, server = pair
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await world.grant(a_grant())
        await world.client_is("ready")
        watching = plumber._watching
        monkeypatch.setattr(watching._standing, "contradicted", lambda _changes: set())
        client.set_down("nsm0")
        await asyncio.sleep(0.1)
        assert not client.is_up("nsm0"), "nobody was told"

        watching._lost()
        await world.until(lambda: client.is_up("nsm0"))
    assert answers(client, server, V4[:2])


async def test_repairs_go_on_while_the_bus_is_away(world: World, pair: Pair) -> None:
    client, server = pair
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await world.grant(a_grant())
        await world.client_is("ready")

        def standing() -> int:
            found = plumber._connections.standing.pairs.get(a_grant().key)
            return found.client.index if found and found.client else 0

        world.nats.kill()
        seen = {0}
        try:
            for _ in range(3):
                seen.add(standing())
                client.delete_link("nsm0")
                await world.until(lambda: standing() not in seen)
                assert answers(client, server, V4[:2])
        finally:
            world.nats.start()
        await world.until(lambda: told(world.status(), "client"))


async def test_what_is_deleted_the_moment_it_appears_comes_back(world: World, pair: Pair) -> None:
    client, server = pair
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant())
        for _ in range(5):
            await world.until(lambda: client.interfaces() == {"nsm0"})
            client.delete_link("nsm0")
        await world.client_is("ready")
        await world.until(lambda: client.interfaces() == {"nsm0"} and _is_said(world, client))
    assert answers(client, server, V4[:2])


def _is_said(world: World, client: Pod) -> bool:
    status = world.status()
    end = status.client if status else None
    return end is not None and (end.state, end.ifindex) == ("ready", client.index("nsm0"))


async def test_bus_and_plumber_lost_together_disturb_nothing(world: World, pair: Pair) -> None:
    client, server = pair
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant())
        await world.client_is("ready")
        index = client.index("nsm0")
    world.nats.kill()
    world.nats.wipe()
    world.nats.start()
    world.told.clear()
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await world.lead(complete=False)
        await plumber.adopted.wait()
        status = await world.client_is("ready")
        assert status.client is not None
        assert status.client.applied == a_grant()
        assert told(status, "client") == ""
        assert answers(client, server, V4[:2])

        await world.grant(a_grant())
        await world.lead(complete=True)
        await world.until(plumber._grants.when_complete.is_set)

    assert client.index("nsm0") == index
    assert answers(client, server, V4[:2])


async def test_a_dead_network_is_noticed_before_its_file_goes(
    world: World, pair: Pair, pods: Pods
) -> None:
    client, server = pair
    async with world.plumber(sweep_seconds=NEVER) as plumber:
        await world.grant(a_grant())
        await world.client_is("ready")
        server.end()  # its result file stays, as after a runtime that crashed
        await world.client_is("pending", "EndpointPodGone")
        assert plumber._watching.watched == 1
        assert client.interfaces() == set()


async def test_another_endpoint_takes_over_at_once(world: World, pair: Pair, pods: Pods) -> None:
    client, server = pair
    other = pods("other")
    other.attach(world.results)
    async with world.plumber(sweep_seconds=NEVER):
        await world.grant(a_grant())
        await world.client_is("ready")
        server.detach(world.results)
        server.end()
        grant = msgspec.structs.replace(
            a_grant(),
            server=msgspec.structs.replace(a_grant().server, pod=a_pod("other")),
            revision=2,
        )
        await world.grant(grant)
        await world.client_is("ready", revision=2)

    assert answers(client, other, V4[:2])
