"""`nsm ipam` on a real bus: what the pools hold, and what may be asked about."""

import asyncio
import json
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from cli import bus as cli_bus
from cli import ipam
from cli.problems import Problem
from schemas.codec import Tombstone
from schemas.grant import Collision, Pool, PoolFigures
from schemas.subjects import PoolKey
from services._runtime.bus import Bus
from tests.builders import a_connection, a_request, an_endpoint
from tests.cli.test_main import nsm

VPN = Pool(
    namespace="default",
    endpoint="vpn",
    families=(
        PoolFigures(
            family=4,
            prefixes=("172.16.1.0/24",),
            size=254,
            used=2,
            held=1,
            excluded=8,
            free=243,
            largest_free="172.16.1.128/25",
        ),
        PoolFigures(family=6, prefixes=("2001:db8::/48",), size=2**80, free=2**80),
    ),
    collisions=(
        Collision(prefix="172.16.1.0/24", overlaps="172.16.1.8/29", used_by="Pod CIDR of node n1"),
    ),
)
AUTO = Pool(
    namespace="apps",
    endpoint="web",
    families=(PoolFigures(family=4, prefixes=("100.112.3.0/24",), size=254, free=254),),
    automatic=True,
)
GONE = PoolKey("default", "gone")


@pytest.fixture
async def told(nats_server: Any) -> AsyncIterator[Any]:
    """A bus that holds two pools, and what a third one left."""
    found = await Bus.connect(nats_server.url, name="ipam")
    await found.ensure_streams()
    for pool in (VPN, AUTO):
        await found.publish(pool)
    await found.bury(GONE)
    yield nats_server
    await found.close()


async def run(server: Any, *words: str, lab: Any) -> tuple[int, str, str]:
    done = await asyncio.to_thread(nsm, "ipam", *words, "--url", server.url, lab=str(lab))
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("words", [[], ["pools"]], ids=["", "pools"])
async def test_every_pool_is_told_by_family(told, tmp_path, words):
    code, out, err = await run(told, *words, lab=tmp_path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split()[:4] == ["ENDPOINT", "FAMILY", "PREFIXES", "SIZE"]
    assert [line.split() for line in lines[1:4]] == [
        ["apps/web", "IPv4", "100.112.3.0/24", "254", "0", "0", "0", "254", "-", "yes", "-"],
        [
            "default/vpn",
            "IPv4",
            "172.16.1.0/24",
            "254",
            "2",
            "1",
            "8",
            "243",
            "172.16.1.128/25",
            "no",
            "1",
        ],
        ["default/vpn", "IPv6", "2001:db8::/48", "~2^80", "0", "0", "0", "~2^80", "-", "no", "-"],
    ]
    assert lines[-1] == ("default/vpn: 172.16.1.0/24 overlaps 172.16.1.8/29 (Pod CIDR of node n1)")


async def test_pools_of_one_namespace_as_json(told, tmp_path):
    code, out, _ = await run(told, "-n", "apps", "-o", "json", lab=tmp_path)
    (item,) = json.loads(out)["items"]
    assert code == 0
    assert (item["subject"], item["automatic"]) == ("nsm.pool.apps.web", True)


async def test_where_no_pool_is_it_says_when_there_is_one(told, tmp_path):
    code, out, _ = await run(told, "-n", "none", lab=tmp_path)
    assert (code, out) == (
        0,
        "no pools in namespace none: one is there once an endpoint has a Pod\n",
    )


async def test_what_is_gone_is_read_only_where_it_is_asked_for(told):
    def read(**fields: bool) -> list[tuple[Any, Any]]:
        return cli_bus.snapshot(["pool"], server=told.url, **fields)

    assert await asyncio.to_thread(read) == [(AUTO.key, AUTO), (VPN.key, VPN)]
    everything = dict(await asyncio.to_thread(read, tombstones=True))
    assert everything[GONE] == Tombstone()
    assert len(everything) == 3


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("172.16.1.2", ("172.16.1.2", "default/client", "nsm-vpn")),
        ("172.16.1.0/24", ("default/vpn", "172.16.1.2")),
        ("client", ("nsm-vpn: granted 172.16.1.2/32", "default/vpn")),
        ("default/vpn", ("1 connection of 1 client", "172.16.1.0/24 collides with 172.16.1.8/29")),
        ("9.9.9.9", ("9.9.9.9",)),
        ("127.0.0.1", ("127.0.0.1 is never given", "loopback")),
        ("224.0.0.0/8", ("never given", "multicast")),
        ("fe80::1", ("never given", "link-local")),
    ],
)
async def test_who_has_what_is_told_with_where_it_stands(told, tmp_path, what, words):
    connection = a_connection()
    bus = await Bus.connect(told.url, name="ipam")
    for message in (a_request(), connection):
        await bus.publish(message)
    await bus.close()
    code, out, err = await run(told, "explain", what, lab=tmp_path)
    assert (code, err) == (0, "")
    assert all(word in out for word in words), out
    assert (connection.key.subject in out) == (what in {"172.16.1.2", "172.16.1.0/24", "client"})
    code, out, _ = await run(told, "explain", what, "-o", "json", lab=tmp_path)
    assert json.loads(out)[0].keys() == {"text", "subject"}


@pytest.mark.parametrize(
    ("what", "asked"),
    [
        ("172.16.1.5", ip_address("172.16.1.5")),
        ("2001:db8::1", ip_address("2001:db8::1")),
        ("172.16.1.5/24", ip_network("172.16.1.0/24")),
        ("2001:db8::/112", ip_network("2001:db8::/112")),
        ("app", ("here", "app")),
        ("team/app-0", ("team", "app-0")),
        ("pod/app", ("here", "app")),
        ("pod/1.2.3", ("here", "1.2.3")),
    ],
)
def test_an_address_a_prefix_or_a_pod_may_be_asked_about(what, asked):
    assert ipam.parse(what, "here") == asked


@pytest.mark.parametrize("what", ["172.16.1.5/33", "2001:db8::/129", "a/b/c", "A", "", "/app"])
def test_nothing_else_may(what):
    with pytest.raises(Problem):
        ipam.parse(what, "here")


@pytest.mark.parametrize("what", ["172.16.1.300", "1.2.3", "172.16.01.2", "12", "fd00::12345"])
def test_numbers_that_make_no_address_are_no_name_either(what):
    with pytest.raises(Problem, match="is no address"):
        ipam.parse(what, "here")


async def test_what_nobody_knows_is_exit_code_1_and_what_was_meant(told, tmp_path):
    bus = await Bus.connect(told.url, name="ipam")
    await bus.publish(an_endpoint("gateway", network_services=("my-service",)))
    await bus.close()
    code, out, err = await run(told, "explain", "nosuch", "-o", "json", lab=tmp_path)
    assert (code, out) == (1, "")
    assert "no such Pod with a network service, and no such endpoint: default/nosuch" in err
    code, _, err = await run(told, "explain", "my-service", lab=tmp_path)
    assert code == 1
    assert "my-service is offered by endpoint default/gateway" in err


@pytest.mark.parametrize(
    ("number", "shown"),
    [(253, "253"), (2**64 - 1, "~2^64"), (2**80 - 2, "~2^80"), (2**64, "~2^64")],
)
def test_of_many_addresses_the_nearest_power_is_told(number, shown):
    assert ipam.count(number) == shown
