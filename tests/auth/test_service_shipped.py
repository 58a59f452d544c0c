"""The bus as it is shipped, one server and three: every role can do what its code does, and certificates change
under all of them without a message lost."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from services._runtime import streams
from services._runtime.access import Access
from services._runtime.bus import Bus
from tests.auth import test_service
from tests.auth.shipped import ShippedServers
from tests.auth.world import World, a_world
from tests.builders import a_connection
from tests.manifests import manifests
from tests.manifests.bus import BASE, PRODUCTION, SYSTEM
from tests.runtime.helpers import mirroring, running, until
from tools import install_certificates, reload_nats
from tools.install_certificates import Stored


@pytest.fixture(params=[BASE, PRODUCTION], ids=["one server", "three servers"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with a_world(tmp_path, ShippedServers(tmp_path / "nats", request.param)) as world:
        yield world


async def test_every_service_can_do_what_its_code_does(world: World):
    await test_service.test_every_service_can_do_what_its_code_does(world)


async def test_a_viewer_reads_everything(world: World):
    await test_service.test_a_viewer_reads_everything(world)


async def test_an_admin_uses_the_whole_api(world: World):
    await test_service.test_an_admin_listens_to_everything_and_uses_the_whole_api(world)


async def test_every_stream_lies_on_as_many_servers_as_there_are(world: World):
    owner = await world.bus("watcher")
    await owner.ensure_streams()
    for name in streams.TRUTH:
        info = await owner.api(f"STREAM.INFO.{name}")
        assert info["config"]["num_replicas"] == len(world.server.names)


async def test_clients_keep_to_the_address_they_were_given(world: World):
    """Addresses of Pods are in no certificate, so no server may tell them."""
    client = await world.login("viewer")
    assert {each.uri.port for each in client._server_pool} == {
        world.server.ports[name, 4222] for name in world.server.names
    }


async def test_certificate_and_authority_change_under_live_clients(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """A whole rotation, as the CronJob goes through it day by day; only its days are shorter."""
    server: ShippedServers = world.server
    owner = await world.bus("ipam")
    await owner.ensure_streams()
    old = server.stored
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            await owner.publish(a_connection(f"p{written}"))
            written += 1
            await asyncio.sleep(0.01)

    async with mirroring(owner, streams.GRANT) as (grants, _), running(write()):
        for day in (1, 2, 3):
            reconnects, stands = owner.reconnects, written
            a_day_later(server, day, rotate=day == 1)
            for name in server.names:
                told = reloaded(server, name, monkeypatch)
                assert told, "its files have changed"
            async with asyncio.timeout(30):
                await owner._wire.reconnected(reconnects)
                while written <= stands + 20:
                    await asyncio.sleep(0.01)
        await until(lambda: written > 100, 30)
        await until(lambda: len(grants.items) == written, 30)
    assert server.stored.authorities[0] not in old.authorities
    assert len(server.stored.authorities) == 1
    # Who trusts the new authority alone comes in, and who trusts the old one alone does not.
    await world.login("viewer")
    Path(server.tls_ca).write_bytes(old.authorities[0].certificate)
    access = Access.of("watcher", tls_ca=server.tls_ca)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await Bus.connect(server.url, name="watcher", access=access)


def a_day_later(server: ShippedServers, day: int, *, rotate: bool) -> None:
    now = server.installed + timedelta(days=day, minutes=day)
    wanted = install_certificates.names(SYSTEM)
    server.stored = install_certificates.planned(server.stored, wanted, now=now, rotate=rotate)
    server.tell_clients()


def reloaded(server: ShippedServers, name: str, monkeypatch: pytest.MonkeyPatch) -> bool:
    """What the container beside a server does."""
    pid = server.processes[name].pid
    monkeypatch.setattr(reload_nats, "servers", lambda: [pid])
    etc = server.directory / name / "etc"
    known = reload_nats.digest(etc)
    server.mount(name)
    return reload_nats.look(etc, known, spread=0) != known


@pytest.fixture
def three(tmp_path: Path) -> Iterator[ShippedServers]:
    """None of them runs yet."""
    servers = ShippedServers(tmp_path / "nats", PRODUCTION)
    yield servers
    servers.__exit__()


async def test_at_the_first_start_no_server_is_ready_before_all_have_met(three: ShippedServers):
    """So the StatefulSet starts them in parallel: one after the other would wait for ever."""
    three.launch("nats-0")
    log = three.directory / "nats-0" / "log"
    await until(lambda: "Listening for client connections" in log.read_text(), 20)
    assert not three.healthy("nats-0")
    for name in ("nats-1", "nats-2"):
        three.launch(name)
    await until(lambda: all(three.healthy(name) for name in three.names), 30)
    (workload,) = [
        each
        for each in manifests.rendered(PRODUCTION)
        if manifests.name_of(each) == f"StatefulSet/{SYSTEM}/nats"
    ]
    assert workload["spec"]["podManagementPolicy"] == "Parallel"


async def test_who_has_no_certificate_of_the_authority_is_no_server(three: ShippedServers):
    three.start()
    three.end("nats-2", signal.SIGTERM)
    wanted = install_certificates.names(SYSTEM)
    three.stored = install_certificates.planned(Stored(), wanted, now=three.installed)
    three.launch("nats-2")
    log = three.directory / "nats-2" / "log"
    await until(lambda: "TLS route handshake error" in log.read_text(), 20)
    assert not three.healthy("nats-2")
    await until(lambda: three.healthy("nats-0") and three.healthy("nats-1"), 30)
