"""Both sides, a bus, and the watcher between them."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lab.api.kubeconfig import write_kubeconfig
from lab.api.server import LabApi
from lab.api.store import Store
from services.watcher.adapters import Kube
from tests.cluster.sides import REAL, Side
from tests.watcher.conftest import bus, ipam, nats, reader

__all__ = ["bus", "ipam", "nats", "reader", "side"]  # fixtures

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
