"""Both sides, a bus, and the watcher between them."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.api.kubeconfig import write_kubeconfig
from lab.api.server import LabApi
from lab.api.store import Store
from services._runtime.bus import Bus
from services._runtime.leading import lead
from services.watcher.adapters import Kube
from tests.cluster.sides import REAL, Side
from tests.watcher.conftest import Ipam, Nats, Reader, running

REASON = "no real cluster: NSM_TEST_KUBECONFIG names none"


@pytest.fixture(
    params=["lab", pytest.param("real", marks=pytest.mark.skipif(not REAL, reason=REASON))]
)
async def side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Side]:
    api = None
    kubeconfig = tmp_path / "kubeconfig"
    if request.param == "lab":
        api = LabApi(Store())
        write_kubeconfig(kubeconfig, await api.start())
    else:
        shutil.copy(REAL, kubeconfig)
    async with Kube(str(kubeconfig)) as kube:
        found = Side(kube, kubeconfig, real=api is None)
        try:
            await found.begin()
            yield found
        finally:
            await found.end()
            if api is not None:
                await api.stop()


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[Nats]:
    found = Nats(tmp_path / "nats")
    await found.start()
    yield found
    await found.kill()


@pytest.fixture
async def bus(nats: Nats) -> AsyncIterator[Bus]:
    found = await Bus.connect(nats.url, name="tester")
    await found.ensure_streams()
    yield found
    await found.close()


@pytest.fixture
async def reader(bus: Bus) -> AsyncIterator[Reader]:
    found = Reader(bus)
    async with running(found.mirror.run()):
        await found.mirror.synced.wait()
        yield found


@pytest.fixture
async def ipam(bus: Bus) -> AsyncIterator[Ipam]:
    found = Ipam(bus)
    async with running(found.own.run(), lead(bus, "ipam", found.own, found.decide, holder="test")):
        yield found
