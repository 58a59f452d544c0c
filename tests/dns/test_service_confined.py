"""A dns service with what its manifest gives it, and nothing more: it can do everything, and needs all of it."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.dns import networks
from tests.dns.networks import DNS_V4, Cluster, serving
from tests.dns.world import SERVER, World, a_grant, address_in, question, zone
from tests.node import confined, legacy_iptables
from tests.node.sandboxes import Pod

CAPABILITIES = confined.capabilities_of("dns")
ZONE = {"kubernetes.default.svc.cluster.local": "10.96.0.1"}

Start = Callable[[list[str]], AbstractContextManager[Path]]


@pytest.fixture
def client(pods: Callable[[str], Pod], world: World) -> Iterator[Pod]:
    """A Pod with a connection's link."""
    pod, server = pods("client"), pods("server")
    networks.join(pod, "nsm0", server, ("172.16.1.2", SERVER))
    with confined.told_by_its_process(pod, world.results):
        yield pod


@pytest.fixture
def start(tmp_path: Path, world: World, client: Pod) -> Start:
    def begin(capabilities: list[str]) -> AbstractContextManager[Path]:
        settings = {
            "DNS_NODE": world.settings.node,
            "DNS_CNI_RESULTS": world.settings.cni_results,
            "DNS_CLUSTER_SERVERS": world.settings.cluster_servers,
            "NSM_NATS_URL": world.nats.url,
        }
        return confined.running("services.dns", tmp_path, capabilities, settings)

    return begin


async def test_the_manifests_capabilities_are_enough(
    world: World, cluster: Cluster, client: Pod, start: Start
) -> None:
    await world.grant(a_grant())
    with serving(cluster.netns, (DNS_V4,), zone(ZONE)) as asked, start(CAPABILITIES):
        await world.resolver_is("serving")
        query = question("kubernetes.default.svc.cluster.local")
        answer = await asyncio.to_thread(networks.ask, client.netns, DNS_V4, query, seconds=4)
    assert address_in(answer) == "10.96.0.1"
    assert all(sent != query for _, sent in asked)  # it was captured, and asked with an ID of ours


@pytest.mark.parametrize(
    ("missing", "state", "reason"),
    [
        ("SYS_ADMIN", "pending", "ResolverPending"),
        ("SYS_PTRACE", "pending", "ResolverPending"),
        ("NET_ADMIN", "failed", "DNSCaptureFailed"),
    ],
)
async def test_these_capabilities_are_needed(
    missing: str, state: str, reason: str, world: World, start: Start
) -> None:
    await world.grant(a_grant())
    with start([each for each in CAPABILITIES if each != missing]) as log:
        await world.resolver_is(state, reason)
        told = log.read_text()
    assert "not permitted" in told or "Permission denied" in told


@pytest.mark.parametrize(
    ("capabilities", "state"),
    [(CAPABILITIES, "failed"), ([c for c in CAPABILITIES if c != "NET_RAW"], "serving")],
    ids=["with", "without"],
)
async def test_net_raw_is_needed_to_see_redirects_of_old_iptables(
    capabilities: list[str], state: str, world: World, client: Pod, start: Start
) -> None:
    if not legacy_iptables.redirect(client.netns, 53):
        pytest.skip("this kernel has no iptables from before nftables")
    await world.grant(a_grant())
    with start(capabilities):
        await world.resolver_is(state, "DNSCaptureConflict" if state == "failed" else "")


def test_no_capability_is_listed_without_a_test() -> None:
    assert set(CAPABILITIES) == {"SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "NET_RAW"}
