"""Traffic is counted once, whoever restarts; descriptors are counted as they are."""

import os
import socket

import msgspec
from prometheus_client import CollectorRegistry

from services.plumber.model import Found, Pair, Place, Traffic
from services.plumber.service.figures import Figures, open_descriptors
from tests.node.sandboxes import Pod
from tests.plumber.grants import V4, a_grant
from tests.plumber.test_adapters import answers
from tests.plumber.world import World

LINK = Found(
    place=Place(uid="u", netns="/run/c", cookie=1),
    interface="nsm0",
    index=7,
    peer_index=8,
    revision=1,
    mac="02:00:00:00:00:01",
    mtu=1400,
    up=True,
)


def a_pair(*, index: int = 7, received_bytes: int) -> Pair:
    traffic = Traffic(received_bytes=received_bytes)
    return Pair(client=msgspec.structs.replace(LINK, index=index, traffic=traffic))


class Counted:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.figures = Figures(self.registry)

    def value(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    @property
    def received(self) -> float:
        return self.value(
            "nsm_plumber_bytes_total", network_service="default/vpn", direction="received"
        )


def test_a_new_links_traffic_counts_from_its_start() -> None:
    counted = Counted()
    counted.figures.carried(a_grant(), a_pair(received_bytes=10), is_new=True)
    counted.figures.carried(a_grant(), a_pair(received_bytes=25), is_new=False)
    counted.figures.carried(a_grant(), a_pair(received_bytes=25), is_new=False)

    assert counted.received == 25


def test_what_an_adopted_link_carried_before_is_not_counted_again() -> None:
    counted = Counted()
    counted.figures.carried(a_grant(), a_pair(received_bytes=1000), is_new=False)
    counted.figures.carried(a_grant(), a_pair(received_bytes=1005), is_new=False)

    assert counted.received == 5


def test_a_replaced_link_counts_from_its_own_start() -> None:
    counted = Counted()
    counted.figures.carried(a_grant(), a_pair(received_bytes=100), is_new=True)
    counted.figures.carried(a_grant(), a_pair(index=9, received_bytes=30), is_new=True)

    assert counted.received == 130


def test_a_connection_is_counted_on_its_clients_node_only() -> None:
    counted = Counted()
    counted.figures.carried(a_grant(), Pair(server=LINK), is_new=True)

    assert counted.received == 0


def test_descriptors_are_told_by_kind() -> None:
    before = open_descriptors()
    fd = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with socket.socket():
            after = open_descriptors()
    finally:
        os.close(fd)

    assert after["netns"] == before["netns"] + 1
    assert after["socket"] == before["socket"] + 1


async def test_the_figures_of_a_node_follow_what_stands(
    world: World, pair: tuple[Pod, Pod]
) -> None:
    async with world.plumber(sweep_seconds=0.1) as plumber:
        registry = plumber._connections.figures.registry

        def value(name: str, **labels: str) -> float:
            return registry.get_sample_value(name, labels) or 0.0

        await world.grant(a_grant())
        await world.client_is("ready")
        assert value("nsm_plumber_connections") == 1
        assert value("nsm_plumber_watched_netns") == 2
        assert answers(*pair, V4[:2])
        traffic = {"network_service": "default/vpn", "direction": "sent"}
        await world.until(lambda: value("nsm_plumber_packets_total", **traffic) >= 1)
        assert value("nsm_plumber_open_descriptors", kind="socket") > 0

        await world.release(a_grant())
        await world.buried("uid-client")
        assert value("nsm_plumber_connections") == 0
