"""dns in conversation: grants in, captured Pods and words about them out; real bus, real namespaces."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from lab.nats import NatsServer
from schemas.intent import Dns as DnsSpec
from schemas.state import Resolver
from schemas.subjects import ResolverKey
from services._node import cni, links, netns, nft, nft_rules
from services._node.nft import Nft
from services.dns.service import captures
from tests.dns import networks
from tests.dns.networks import DNS_V4, ELSEWHERE, Cluster, serving
from tests.dns.test_adapters import redirect_in, tables
from tests.dns.world import (
    NODE,
    SERVER,
    World,
    a_grant,
    address_in,
    names_asked,
    question,
    zone,
)
from tests.node.sandboxes import Pod

ROOT = Path(__file__).parent.parent.parent
KEY = ResolverKey(NODE, "default", "client")
CLUSTER_ZONE = {
    "kubernetes.default.svc.cluster.local": "10.96.0.1",
    "both.corp.example": "10.96.9.9",
}
CORP_ZONE = {"host.corp.example": "172.16.1.77", "outside.example": "6.6.6.6"}


@pytest.fixture
def client(pods: Callable[[str], Pod], world: World) -> Pod:
    """A Pod with a connection's link to a server, that the CNI told of."""
    pod, server = pods("client"), pods("server")
    networks.join(pod, "nsm0", server, ("172.16.1.2", SERVER))
    pod.attach(world.results)
    return pod


@pytest.fixture
def cluster_dns(cluster: Cluster) -> Iterator[list[tuple[str, bytes]]]:
    with serving(cluster.netns, (DNS_V4,), zone(CLUSTER_ZONE)) as asked:
        yield asked


@pytest.fixture
def corp_dns(client: Pod) -> Iterator[list[tuple[str, bytes]]]:
    server = client.netns.replace("client", "server")
    with serving(server, (SERVER,), zone(CORP_ZONE)) as asked:
        yield asked


async def ask(pod: Pod, name: str, server: str = DNS_V4) -> str:
    answer = await asyncio.to_thread(networks.ask, pod.netns, server, question(name), seconds=4)
    return address_in(answer)


async def ask_tcp(pod: Pod, name: str) -> str:
    data = question(name)
    framed = len(data).to_bytes(2, "big") + data
    answer = await asyncio.to_thread(networks.ask_tcp, pod.netns, DNS_V4, framed)
    return address_in(answer[2:])


async def test_each_name_is_answered_by_who_knows_it(world, client, cluster_dns, corp_dns) -> None:
    await world.grant(a_grant())
    async with world.dns():
        said = await world.resolver_is("serving")

        for server in (DNS_V4, ELSEWHERE):
            assert await ask(client, "host.corp.example", server) == "172.16.1.77"
            assert await ask(client, "kubernetes.default.svc.cluster.local", server) == "10.96.0.1"
        assert await ask(client, "neither.corp.example") == "NXDOMAIN"
        assert await ask(client, "outside.example") == "NXDOMAIN"
        assert await ask_tcp(client, "host.corp.example") == "172.16.1.77"

    assert said.mode == "owned"
    assert [u.name for u in said.upstreams] == ["cluster", "default/vpn"]
    assert (said.upstreams[1].servers, said.upstreams[1].interface) == ((SERVER,), "nsm0")
    assert "outside.example" not in names_asked([each for each in corp_dns if len(each[1]) < 60])
    assert {source for source, _ in cluster_dns} == {client.ip}
    assert {source for source, _ in corp_dns} == {"172.16.1.2"}


async def test_the_cluster_is_asked_over_its_own_interface(
    world, client, cluster_dns, corp_dns
) -> None:
    """A service's route that covers the cluster's servers does not take its queries."""
    with links.Netlink(client.netns) as netlink:
        index = networks.index_of(netlink, "nsm0")
        netlink.request(
            [
                links.route(
                    links.NEWROUTE, index=index, destination="10.96.0.0/16", flags=links.CREATE
                )
            ]
        )
    await world.grant(a_grant())
    async with world.dns():
        await world.resolver_is("serving")

        assert await ask(client, "kubernetes.default.svc.cluster.local", ELSEWHERE) == "10.96.0.1"


async def test_a_pod_without_dns_is_not_touched(world, client, cluster_dns) -> None:
    await world.grant(a_grant(dns=False))
    async with world.dns() as dns:
        await dns.captured.wait()

        assert await ask(client, "kubernetes.default.svc.cluster.local") == "10.96.0.1"
        assert tables(client) == set()
        assert sockets(client) == 0
    assert KEY not in world.state.items


def sockets(pod: Pod) -> int:
    """How many UDP and TCP sockets there are in a Pod's network."""
    files = [Path("/proc/thread-self/net", name) for name in ("udp", "udp6", "tcp", "tcp6")]
    lines = netns.in_netns(pod.netns, lambda: [len(f.read_text().splitlines()) for f in files])
    return sum(lines) - len(files)


async def test_the_last_connection_takes_the_capture_with_it(world, client, cluster_dns) -> None:
    grant = a_grant()
    await world.grant(grant)
    async with world.dns():
        await world.resolver_is("serving")

        await world.release(grant)
        assert (await world.buried()).released == "uid-client"

        assert tables(client) == set()
        assert sockets(client) == 0
        assert await ask(client, "kubernetes.default.svc.cluster.local") == "10.96.0.1"


async def test_an_edit_reaches_the_running_capture(world, client, cluster_dns, corp_dns) -> None:
    await world.grant(a_grant(domains=("other.example",)))
    async with world.dns() as dns:
        await world.resolver_is("serving")
        capture = dns._captures.held[KEY].capture
        assert await ask(client, "host.corp.example") == "NXDOMAIN"

        await world.grant(a_grant(revision=2))
        await world.until(lambda: world.state.items[KEY].upstreams[1].revision == 2)

        assert await ask(client, "host.corp.example") == "172.16.1.77"
        assert dns._captures.held[KEY].capture is capture


async def test_each_connection_with_dns_is_an_upstream(world, client) -> None:
    second = a_grant()
    second = msgspec.structs.replace(
        second,
        network_service="lab",
        client=msgspec.structs.replace(second.client, interface="nsm1"),
        dns=DnsSpec(servers=("172.16.9.1", "nonsense"), search_domains=("lab.example",)),
    )
    await world.grant(a_grant())
    await world.grant(second)
    async with world.dns():
        said = await world.until(
            lambda: (r := world.state.items.get(KEY)) and len(r.upstreams) == 3 and r
        )
        assert [u.name for u in said.upstreams] == ["cluster", "default/vpn", "default/lab"]
        assert said.upstreams[2].servers == ("172.16.9.1",)

        await world.release(a_grant())
        await world.until(lambda: len(world.state.items[KEY].upstreams) == 2)
        assert tables(client) == {"nsm_dns"}


async def test_a_pod_is_captured_when_its_network_comes_and_its_network_ends_with_it(
    world, client, cluster
) -> None:
    client.detach(world.results)
    await world.grant(a_grant())
    async with world.dns(sweep_seconds=60):
        await world.resolver_is("pending", "ResolverPending")
        client.attach(world.results)
        await world.resolver_is("serving")

        client.end()
        client.detach(world.results)
        await world.buried()
        await world.until(lambda: not has_link(cluster, "pod2"))


async def test_the_sweep_finds_a_network_that_ended_without_a_word(world, client, cluster) -> None:
    await world.grant(a_grant())
    async with world.dns():
        await world.resolver_is("serving")

        client.end()
        await world.buried()
        await world.until(lambda: not has_link(cluster, "pod2"))


def has_link(cluster: Cluster, name: str) -> bool:
    with links.Netlink(cluster.netns) as netlink:
        return netlink.find_link(name) is not None


async def test_a_sandbox_made_anew_is_captured_anew(world, client, cluster, cluster_dns) -> None:
    await world.grant(a_grant())
    async with world.dns(sweep_seconds=60):
        await world.resolver_is("serving")
        former = client.result

        client.end()
        await world.until(lambda: not Path(former.netns).exists())
        client.ip = "10.244.1.9"
        client.start()
        cluster.attach(client)
        client.attach(world.results)
        await world.until(lambda: tables(client) == {"nsm_dns"})
        await world.until(lambda: not has_link(cluster, "pod2"))

        assert await ask(client, "kubernetes.default.svc.cluster.local") == "10.96.0.1"


async def test_another_pod_of_the_same_name_takes_over(world, client, pods, cluster) -> None:
    await world.grant(a_grant())
    async with world.dns(sweep_seconds=60):
        await world.resolver_is("serving")
        grant = a_grant(revision=2)
        other = msgspec.structs.replace(grant.client.pod, uid="uid-other")
        await world.grant(
            msgspec.structs.replace(grant, client=msgspec.structs.replace(grant.client, pod=other))
        )
        said = await world.resolver_is("pending", "ResolverPending")

        assert said.uid == "uid-other"
        assert tables(client) == set()


# -- other people's redirects


async def test_two_captures_do_not_chase_each_other(world, client, cluster_dns) -> None:
    await world.grant(a_grant())
    async with world.dns():
        await world.resolver_is("serving")
        with redirect_in(client):
            said = await world.resolver_is("failed", "DNSCaptureConflict")
            assert "table 'sidecar'" in said.message
            assert tables(client) == {"sidecar"}
        await world.resolver_is("serving")
        assert await ask(client, "kubernetes.default.svc.cluster.local") == "10.96.0.1"


async def test_queries_that_come_back_end_the_capture(world, client, monkeypatch) -> None:
    """Somebody sends our own queries back to us: possible where they are bound to no interface."""
    client.detach(world.results)
    cni.write(world.results, msgspec.structs.replace(client.result, interface="net1"))
    monkeypatch.setattr(captures, "_HOLD_SECONDS", 0.5)
    await world.grant(a_grant())
    async with world.dns():
        await world.resolver_is("serving")
        port = listening(client)
        with returning(client, port):
            await asyncio.to_thread(
                networks.ask, client.netns, DNS_V4, question("loop.example"), seconds=0.3
            )
            said = await world.resolver_is("failed", "DNSCaptureConflict")
            assert "came back" in said.message
            assert tables(client) == {"loop"}
        await world.resolver_is("serving")


def listening(pod: Pod) -> int:
    """The port that a Pod's queries are redirected to."""

    def lines() -> list[str]:
        return Path("/proc/thread-self/net/tcp").read_text().splitlines()[1:]

    return next(int(line.split()[1].split(":")[1], 16) for line in netns.in_netns(pod.netns, lines))


@contextmanager
def returning(pod: Pod, port: int) -> Iterator[None]:
    """Whatever goes to port 53, marked or not, comes to `port`: hidden from a look for port 53."""
    with Nft(pod.netns) as foreign:
        foreign.transact(
            [
                nft_rules.table("loop", flags=nft.OWNER),
                nft_rules.base_chain(
                    "loop", "output", kind="nat", hook=nft_rules.LOCAL_OUT, priority=-90
                ),
                nft_rules.rule(
                    "loop",
                    "output",
                    [
                        *nft_rules.meta_is(nft_rules.L4PROTO, bytes([17])),
                        *nft_rules.redirect(port),
                    ],
                ),
            ]
        )
        yield


# -- the bus, restarts


async def test_what_stands_stays_while_the_bus_is_away_or_not_complete(
    world, client, cluster_dns, corp_dns
) -> None:
    await world.grant(a_grant())
    async with world.dns() as dns:
        await world.resolver_is("serving")
        capture = dns._captures.held[KEY].capture

        world.nats.stop()
        assert await ask(client, "host.corp.example") == "172.16.1.77"
        world.nats.wipe()
        world.nats.start()
        await world.lead(complete=False)
        await world.until_read(KEY)
        assert dns._captures.held[KEY].capture is capture

        await world.lead(complete=True)
        await world.buried()
        assert tables(client) == set()


async def test_what_was_said_before_is_not_said_again_and_what_is_not_so_is_buried(
    world, client
) -> None:
    await world.bus.publish(
        Resolver(node=NODE, namespace="default", pod="gone", uid="uid-gone", state="serving")
    )
    await world.grant(a_grant())
    async with world.dns():
        await world.resolver_is("serving")
        await world.buried("gone")
    count = len(world.told)

    async with world.dns() as dns:
        await dns.captured.wait()
        await world.grant(a_grant(revision=2))
        await world.until(lambda: world.state.items[KEY].upstreams[1].revision == 2)
    assert len(world.told) == count + 1


async def test_one_pods_trouble_is_its_own(world, client, pods, monkeypatch) -> None:
    """The listeners of one Pod cannot be opened: another Pod is captured all the same."""
    other = pods("other")
    other.attach(world.results)
    grant = a_grant()
    pod = msgspec.structs.replace(grant.client.pod, name="other", uid="uid-other")
    with links.Netlink(client.netns) as netlink:
        netlink.request([links.link(links.NEWLINK, index=1, up=True)])
        netlink.request([links.address(links.DELADDR, index=1, address="127.0.0.1/8")])
    await world.grant(grant)
    await world.grant(
        msgspec.structs.replace(grant, client=msgspec.structs.replace(grant.client, pod=pod))
    )
    async with world.dns():
        await world.resolver_is("serving", pod="other")
        said = await world.resolver_is("failed", "DNSCaptureFailed")

        assert "Cannot assign requested address" in said.message
        assert tables(client) == set()


@contextmanager
def process(world: World, nats: NatsServer) -> Iterator["subprocess.Popen[bytes]"]:
    environ = {
        **os.environ,
        "DNS_NODE": NODE,
        "DNS_CNI_RESULTS": str(world.results),
        "DNS_CLUSTER_SERVERS": DNS_V4,
        "NSM_NATS_URL": nats.url,
    }
    command = [sys.executable, "-m", "services.dns"]
    with subprocess.Popen(command, cwd=ROOT, env=environ) as started:
        try:
            yield started
        finally:
            started.kill()


async def test_the_process_may_be_killed_and_started_anew(
    world, client, cluster_dns, corp_dns
) -> None:
    await world.grant(a_grant())
    for _ in range(2):
        with process(world, world.nats) as started:
            await world.until(lambda: tables(client) == {"nsm_dns"})
            assert await ask(client, "host.corp.example") == "172.16.1.77"

            started.send_signal(signal.SIGKILL)
            started.wait()
            assert await ask(client, "kubernetes.default.svc.cluster.local") == "10.96.0.1"
            assert await ask(client, "host.corp.example") == "NXDOMAIN"

    with process(world, world.nats) as started:
        await world.until(lambda: tables(client) == {"nsm_dns"})
        started.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(started.wait, 10) == 0
        assert tables(client) == set()
        assert sockets(client) == 0
