"""`/explain` on the health port, and `nsm dns explain` that prints it; a real bus, real namespaces."""

import asyncio
import json
from collections.abc import Callable

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from cli import dns as command
from cli.output import OutputFormat
from cli.problems import Problem
from services._runtime.health import Health
from services.dns.service import Dns
from tests.dns import networks
from tests.dns.networks import DNS_V4, Cluster, serving
from tests.dns.world import SERVER, World, a_grant, question, zone
from tests.node.sandboxes import Pod


def run(place: str, *, pod: str = "client", name: str = ".", json_too: bool = False) -> None:
    output = OutputFormat.JSON if json_too else OutputFormat.TABLE
    command.explain(pod, name, namespace="default", at=place, output=output)


async def served(dns: Dns) -> tuple[Health, str]:
    health = Health(CollectorRegistry())
    health.answer("/explain", dns.explain)
    await health.start("127.0.0.1:0")
    return health, f"127.0.0.1:{health.port}"


async def test_a_person_is_told_who_is_asked_and_why(
    world: World, pods: Callable[[str], Pod], cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    pod, server = pods("client"), pods("server")
    networks.join(pod, "nsm0", server, ("172.16.1.2", SERVER))
    pod.attach(world.results)
    await world.grant(a_grant())
    with serving(cluster.netns, (DNS_V4,), zone({})):
        async with world.dns() as dns:
            await world.resolver_is("serving")
            await asyncio.to_thread(networks.ask, pod.netns, DNS_V4, question("a.example"))
            health, place = await served(dns)
            try:
                await asyncio.to_thread(run, place, name="db.corp.example")
                told = capsys.readouterr().out
                await asyncio.to_thread(run, place, name="db.corp.example", json_too=True)
                found = json.loads(capsys.readouterr().out)
                await asyncio.to_thread(run, place)
                servers = capsys.readouterr().out
                with pytest.raises(Problem, match="nothing is granted to pod default/nobody"):
                    await asyncio.to_thread(run, place, pod="nobody")
                with pytest.raises(Problem, match="is no name"):
                    await asyncio.to_thread(run, place, name="a..b")
            finally:
                await health.stop()

    assert "pod default/client: serving (owned)" in told
    assert "the name is corp.example, or below it" in told
    assert "nxdomain" in told
    assert "nxdomain" in servers
    assert not any(word in servers for word in ("for .", "ASKED", "WHY"))  # of no name
    assert [each["asked"] for each in found["answers"]["servers"]] == [True, True]


async def test_a_pod_whose_connections_have_no_dns_is_told_apart_from_one_that_has_none(
    world: World,
) -> None:
    await world.grant(msgspec.structs.replace(a_grant(), dns=None))
    async with world.dns() as dns:
        await dns.captured.wait()
        health, place = await served(dns)
        try:
            with pytest.raises(Problem, match="no connection of pod default/client provides DNS"):
                await asyncio.to_thread(run, place)
        finally:
            await health.stop()


async def test_a_pod_that_is_not_captured_is_told_why(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    await world.grant(a_grant())
    async with world.dns() as dns:
        await world.resolver_is("pending", "ResolverPending")
        health, place = await served(dns)
        try:
            await asyncio.to_thread(run, place)
        finally:
            await health.stop()

    assert "ResolverPending: waits for the Pod's network" in capsys.readouterr().out


async def test_a_service_that_does_not_answer_is_named_with_the_remedy() -> None:
    with pytest.raises(Problem, match="give its health port: --at"):
        await asyncio.to_thread(run, "127.0.0.1:1")


def test_the_port_in_the_lab_is_the_one_that_was_told_last() -> None:
    log = '{"port": 1, "event": "health served"}\n2026 [info] health served      port=2 service=dns\nport=3\n'

    assert command.port_told(log) == "2"
    assert command.port_told(log.splitlines()[0]) == "1"
    assert command.port_told("") == ""
