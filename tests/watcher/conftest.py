"""A lab API server, a real nats-server and watchers between them; each test its own."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab.api.kinds import Kind
from lab.api.kubeconfig import write_kubeconfig
from lab.api.server import LabApi
from lab.api.store import Store
from lab.nats import NatsServer
from services._runtime.bus import Bus
from services._runtime.health import Health
from services._runtime.leading import Term, lead
from services._runtime.mirror import Mirror
from services._runtime.streams import GRANT, INTENT
from services.watcher.adapters import Kube
from services.watcher.service import Watcher
from services.watcher.settings import Settings
from tests.runtime.helpers import running


class Cluster:
    """The lab's API server in this loop, and the kubeconfig to it."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self.store = Store()
        self.api = LabApi(self.store)
        self._port = 0

    async def start(self) -> None:
        url = await self.api.start(port=self._port)
        self._port = int(url.rpartition(":")[2])
        write_kubeconfig(self.kubeconfig, url)

    async def stop(self) -> None:
        await self.api.stop()

    async def restart(self) -> None:
        """The same objects on the same port, all connections cut."""
        self.api = LabApi(self.store)
        await self.start()

    async def until(
        self, kind: Kind, name: str, holds: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """Wait until an object of the default namespace is as wanted."""
        found: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        end = self.store.watch(
            kind, lambda _, obj: found.put_nowait(obj), fields=f"metadata.name={name}"
        )
        try:
            async with asyncio.timeout(30):
                while not holds(obj := await found.get()):
                    pass
            return obj
        finally:
            end()


class Nats:
    """A nats-server of our own, which can be stopped, wiped and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = -1
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def start(self) -> None:
        ports = self._folder / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir(parents=True)
        with (self._folder / "log").open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                str(Path(sys.executable).parent / "nats-server"),
                *("-js", "-sd", str(self._folder / "store"), "-a", "127.0.0.1"),
                *("-p", str(self._port), "--ports_file_dir", str(ports)),
                stdout=output,
                stderr=output,
            )
        async with asyncio.timeout(30):
            while not (text := "".join(each.read_text() for each in ports.glob("*.ports"))):
                await asyncio.sleep(0.005)
        self.url = msgspec.json.decode(text)["nats"][0]
        self._port = int(self.url.rpartition(":")[2])

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    async def wipe(self) -> None:
        """Lose everything."""
        await self.kill()
        shutil.rmtree(self._folder / "store")
        await self.start()


class Reader:
    """Intent as everybody sees it; `until` waits for it to be as wanted."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.changes: list[tuple[Any, Any]] = []
        self._changed = asyncio.Event()
        self.mirror = Mirror(bus, INTENT, ["nsm.>"], on_change=self._on_change)

    def _on_change(self, key: Any, message: Any) -> None:
        self.changes.append((key, message))
        self._changed.set()

    def get(self, key: Any) -> Any:
        return self.mirror.items.get(key)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not holds():
                self._changed.clear()
                await self._changed.wait()

    async def sequence(self, key: Any) -> int:
        found = await self.bus.read(key)
        assert found is not None, f"nothing under {key}"
        return found[1]


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    found = Cluster(tmp_path / "kubeconfig")
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def kube(cluster: Cluster) -> AsyncIterator[Kube]:
    async with Kube(str(cluster.kubeconfig)) as found:
        yield found


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


@asynccontextmanager
async def a_watcher(
    cluster: Cluster, nats: Nats | NatsServer, *, holder: str = "one"
) -> AsyncIterator[Watcher]:
    """A whole watcher, as in its own process but for the process."""
    bus = await Bus.connect(nats.url, name=f"watcher-{holder}")
    try:
        async with Kube(str(cluster.kubeconfig)) as kube:
            watcher = Watcher(
                bus=bus,
                kube=kube,
                settings=Settings(),
                holder=holder,
                health=Health(bus.metrics.registry),
            )
            async with running(watcher.run()):
                yield watcher
    finally:
        await bus.close()


class Ipam:
    """The other writer: grants as the test says. Its bus speaks for nodes, too."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.own = Mirror(bus, GRANT, ["nsm.>"], on_change=lambda *_: None)
        self.term: asyncio.Future[Term] = asyncio.get_running_loop().create_future()

    async def decide(self, term: Term) -> None:
        if self.term.done():  # a bus that was wiped has terms of its own
            self.term = asyncio.get_running_loop().create_future()
        self.term.set_result(term)
        await asyncio.Event().wait()

    async def publish(self, message: Any) -> None:
        await (await self.term).publish(message)

    async def bury(self, key: Any) -> None:
        await (await self.term).bury(key)

    async def complete(self) -> None:
        await (await self.term).declare_complete()


@pytest.fixture
async def ipam(bus: Bus) -> AsyncIterator[Ipam]:
    found = Ipam(bus)
    async with running(found.own.run(), lead(bus, "ipam", found.own, found.decide, holder="test")):
        yield found
