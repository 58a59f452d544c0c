"""Three NATS servers and everything else killed, paused, wiped and rolled, while Pods come and go.

At the end what there is equals what is wanted, in the bus and in the kernel; no acknowledged grant was lost or changed
without a reason, and whoever was connected all the time lost no ping. `make soak` goes on for more rounds.
"""

import asyncio
import os
import random
import re
import shutil
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.chaos import Chaos, Witnesses
from tests.e2e.cluster import Cluster
from tests.e2e.shipped import give_shipped_configuration

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("chaos")]

ROUNDS = int(os.environ.get("NSM_CHAOS", "0"))
SEED = int(os.environ.get("NSM_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
RECOVERED_SECONDS = 60.0  # on a machine that does ten other things; the printed figures say more
LAB = (
    "--nats",
    "3",
    "--replicas",
    "2",
    "--tls",
)  # then the bus is given the configuration of k8s/overlays/production
SERVERS = ("nats/1", "nats/2", "nats/3")


@contextmanager
def a_lab(*words: str) -> Iterator[Cluster]:
    """What failed keeps its logs."""
    directory = Path(tempfile.mkdtemp(prefix="nsm-chaos-"))
    lab = Cluster(directory)
    lab.nsm("lab", "up", "--detach", *words)
    try:
        if words == LAB:
            give_shipped_configuration(lab)
        yield lab
    except BaseException:
        sys.stdout.write(f"logs: {directory}/logs\n")
        lab.nsm("lab", "down")
        raise
    lab.nsm("lab", "down")
    shutil.rmtree(directory, ignore_errors=True)


@asynccontextmanager
async def chaos_in(lab: Cluster, *, resolves: bool = True) -> AsyncIterator[Chaos]:
    """Chaos while the block runs; after it everything has to be as wanted, and witnessed."""
    sys.stdout.write(f"seed {SEED}\n")
    async with Chaos(lab, SEED) as chaos:
        await chaos.begin()
        with Witnesses(lab) as witnesses:
            async with asyncio.TaskGroup() as group:
                churning = group.create_task(chaos.churn())
                yield chaos
                chaos.rest()
                await churning
            await chaos.converge()
            witnesses.testify(resolves=resolves)


async def the_leader_of_the_grants_is_killed(chaos: Chaos) -> None:
    chaos.kill(await chaos.server_that_leads())


async def all_servers_are_killed(chaos: Chaos) -> None:
    for server in SERVERS:
        chaos.kill(server)


async def the_servers_are_rolled(chaos: Chaos) -> None:
    for server in chaos.processes("nats"):
        await restarted(chaos, server)
        await chaos.replicas_current()


async def a_plumber_is_paused(chaos: Chaos) -> None:
    chaos.kill("plumber/node1", number="STOP")
    await asyncio.sleep(3)
    chaos.kill("plumber/node1", number="CONT")


async def one_server_is_wiped(chaos: Chaos) -> None:
    server = chaos.random.choice(SERVERS)
    chaos.kill(server, hold=True)
    chaos.wipe(server)
    chaos.start(server)


async def all_servers_are_wiped(chaos: Chaos) -> None:
    for server in SERVERS:
        chaos.kill(server, hold=True)
    for server in SERVERS:
        chaos.wipe(server)
    for server in SERVERS:
        chaos.start(server)


async def the_leader_of_ipam_is_killed(chaos: Chaos) -> None:
    chaos.kill(await chaos.process_that_leads("ipam"))


async def the_leader_of_the_watcher_is_killed(chaos: Chaos) -> None:
    chaos.kill(await chaos.process_that_leads("watcher"))


async def a_plumber_is_killed_while_a_wiped_server_comes_back(chaos: Chaos) -> None:
    await one_server_is_wiped(chaos)
    chaos.kill("plumber/node1")
    chaos.kill("plumber/node2")


async def every_leader_is_killed(chaos: Chaos) -> None:
    leaders = [await chaos.process_that_leads(service) for service in ("ipam", "watcher")]
    for name in (*leaders, await chaos.server_that_leads()):
        chaos.kill(name)


async def the_services_are_rolled(chaos: Chaos) -> None:
    for name in chaos.processes():
        if not name.startswith("nats"):
            await restarted(chaos, name)


FAULTS = (
    every_leader_is_killed,
    a_plumber_is_paused,
    a_plumber_is_killed_while_a_wiped_server_comes_back,
    all_servers_are_killed,
    all_servers_are_wiped,
    the_servers_are_rolled,
)
MORE_FAULTS = (
    *FAULTS,
    the_leader_of_the_grants_is_killed,
    the_leader_of_ipam_is_killed,
    the_leader_of_the_watcher_is_killed,
    one_server_is_wiped,
)


@pytest.mark.timeout(300)
async def test_after_every_fault_what_there_is_equals_what_is_wanted_and_nobody_lost_a_ping():
    with a_lab(*LAB) as lab:
        async with chaos_in(lab) as chaos:
            for fault in FAULTS:
                await struck(chaos, fault)


@pytest.mark.skipif(not ROUNDS, reason="NSM_CHAOS=ROUNDS is for make soak")
@pytest.mark.timeout(200 + 60 * ROUNDS)
async def test_after_rounds_of_faults_in_any_order_it_is_still_so():
    with a_lab(*LAB) as lab:
        async with chaos_in(lab) as chaos:
            for number in range(ROUNDS):
                sys.stdout.write(f"round {number}: ")
                await struck(chaos, chaos.random.choice(MORE_FAULTS))


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "words",
    [
        pytest.param((), id="one-server"),
        pytest.param(
            LAB, id="three-servers", marks=pytest.mark.skipif(not ROUNDS, reason="for make soak")
        ),
    ],
)
async def test_a_rolling_restart_of_every_component_disturbs_no_connection(words: tuple[str, ...]):
    with a_lab(*words) as lab:
        # While the dns service of a node is away, its Pods ask the cluster's DNS: service names fail a moment.
        async with chaos_in(lab, resolves=False) as chaos:
            await struck(chaos, the_services_are_rolled)
            await struck(chaos, the_servers_are_rolled)


async def struck(chaos: Chaos, fault: Callable[[Chaos], Awaitable[None]]) -> None:
    took = await chaos.strike(fault.__name__, lambda: fault(chaos))
    if ROUNDS:  # by hand, on a machine that has nothing else to do
        assert took < RECOVERED_SECONDS


async def restarted(chaos: Chaos, name: str) -> None:
    """As a rollout does: TERM, a new process, and on only when it is ready."""
    before = chaos.processes()[name]["restarts"]
    chaos.kill(name, number="TERM")
    async with asyncio.timeout(60):
        while not _is_back(chaos.processes()[name], before):
            await asyncio.sleep(0.05)
        if not name.startswith("nats"):
            while not await asyncio.to_thread(_is_ready, chaos, name):
                await asyncio.sleep(0.05)


def _is_back(process: dict[str, Any], restarts: int) -> bool:
    return bool(process["running"]) and process["restarts"] > restarts


def _is_ready(chaos: Chaos, name: str) -> bool:
    log = chaos.lab.directory / "logs" / f"{name.replace('/', '-')}.log"
    served = re.findall(r'"port": (\d+), "event": "health served"', log.read_text())
    if len(served) < chaos.processes()[name]["restarts"] + 1:
        return False
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{served[-1]}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
