"""Files first, processes where none comes; real networks, and a finder that can be told to fail."""

import asyncio
import itertools
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from schemas.intent import PodRef
from services._node import cni, netns, places
from services._node.cni import CniResult
from services._node.places import Place
from services._node.processes import Roots
from services._node.sandboxes import Sandboxes
from tests.node.sandboxes import Pod, ensure_namespaces_allowed

UID = "0d55a3c8-9f6e-4b1a-8a77-2f4f9e1b6c01"


class Pause:
    """Between what is seen and its being told."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.over = asyncio.Event()


class Finder:
    """Opens networks as the services do; raises what it is told to, once each, and may be slow to answer, once each."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []
        self.pauses: list[Pause] = []

    async def find_place(self, result: CniResult) -> Place:
        pause = self.pauses.pop(0) if self.pauses else None
        try:
            if self.errors:
                raise self.errors.pop(0)
            return places.find(result)
        finally:
            if pause is not None:
                pause.begun.set()
                await pause.over.wait()

    async def is_there(self, place: Place) -> bool:
        return places.is_there(place)


class World:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.results = directory / "results"
        self.finder = Finder()
        self.wanted: list[PodRef] = []
        self.changes: list[set[str]] = []
        self.sandboxes = Sandboxes(
            self.finder,
            self.results,
            roots=Roots(cgroups=str(directory / "cgroup"), names=()),
            wanted=lambda: self.wanted,
            on_change=self.changes.append,
            search_seconds=0.02,
        )
        (directory / "cgroup").mkdir()
        (directory / "cgroup" / "cgroup.controllers").touch()

    def want(self, pod: Pod) -> PodRef:
        ref = PodRef(namespace="default", name=pod.name, uid=UID, node="node1", ips=(pod.ip,))
        self.wanted.append(ref)
        return ref

    def members(self, *pids: int) -> None:
        place = self.directory / "cgroup" / "kubepods" / f"pod{UID}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        looked = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self.sandboxes.watch(looked.set)),
                group.create_task(self.sandboxes.search()),
            ]
            await looked.wait()
            yield
            for task in tasks:
                task.cancel()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.005)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    ensure_namespaces_allowed(tmp_path)
    yield World(tmp_path)
    for path in tmp_path.glob("netns-*"):
        netns.delete(path)


@pytest.fixture
def pod(world: World) -> Pod:
    made = Pod(world.directory, "client", "10.244.1.5")
    made.uid = UID
    return made


@pytest.fixture
def process(pod: Pod) -> Iterator[Callable[[], "subprocess.Popen[bytes]"]]:
    """Starts processes of the Pod."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> "subprocess.Popen[bytes]":
        # Entered by the child itself: nothing here may leave our network.
        code = (
            "import ctypes,os,sys,time;l=ctypes.CDLL(None);"
            "assert l.setns(os.open(sys.argv[1],0),0x40000000)==0;print(flush=True);time.sleep(600)"
        )
        child = subprocess.Popen(
            ["python3", "-c", code, pod.netns],
            stdout=subprocess.PIPE,
        )
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == b"\n"
        return child

    yield start
    for each in started:
        each.kill()
        each.wait()
        assert each.stdout is not None
        each.stdout.close()


async def test_a_file_is_followed_by_a_place_and_its_end_by_an_end(world: World, pod: Pod) -> None:
    async with world.running():
        pod.attach(world.results)
        await world.until(lambda: UID in world.sandboxes.places)
        assert world.sandboxes.places[UID].cookie == netns.cookie(pod.netns)

        pod.detach(world.results)
        await world.until(lambda: UID in world.sandboxes.ended)

    assert world.sandboxes.places == {}
    assert world.changes == [{UID}, {UID}]


async def test_where_no_file_comes_the_processes_tell(
    world: World, pod: Pod, process: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    world.want(pod)
    world.members(process().pid)
    async with world.running():
        await world.until(lambda: UID in world.sandboxes.places)

    assert world.sandboxes.places[UID].cookie == netns.cookie(pod.netns)
    assert world.changes == [{UID}]


async def test_pods_that_nobody_wants_are_not_looked_for(
    world: World, pod: Pod, process: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    world.members(process().pid)
    assert world.sandboxes._due() == []
    world.want(pod)
    async with world.running():
        await world.until(lambda: UID in world.sandboxes.places)


async def test_a_file_that_comes_later_is_no_change(
    world: World, pod: Pod, process: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    world.want(pod)
    world.members(process().pid)
    async with world.running():
        await world.until(lambda: UID in world.sandboxes.places)
        before = world.sandboxes.places[UID]
        pod.attach(world.results)
        await world.until(lambda: len(world.changes) == 2)

    assert world.sandboxes.places[UID] == before


async def test_another_process_of_the_same_network_is_found_when_the_first_ends(
    world: World, pod: Pod, process: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    world.want(pod)
    first, second = process(), process()
    world.members(first.pid, second.pid)
    async with world.running():
        await world.until(lambda: UID in world.sandboxes.places)
        first.kill()
        first.wait()
        await world.sandboxes.verify()

    place = world.sandboxes.places[UID]
    assert place.netns == f"/proc/{second.pid}/ns/net"
    assert place.cookie == netns.cookie(pod.netns)
    assert world.sandboxes.ended == set()


async def test_a_network_ends_with_its_last_process(
    world: World, pod: Pod, process: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    world.want(pod)
    only = process()
    world.members(only.pid)
    async with world.running():
        await world.until(lambda: UID in world.sandboxes.places)
        only.kill()
        only.wait()
        await world.sandboxes.verify({UID})

        assert world.sandboxes.ended == {UID}
        assert world.changes == [{UID}, {UID}]


async def test_a_stale_file_does_not_hide_the_processes(
    world: World, pod: Pod, process: Callable[[], "subprocess.Popen[bytes]"]
) -> None:
    stale = CniResult(
        uid=UID, namespace="n", name="p", container_id="c", netns="/run/no-such-file", ips=(pod.ip,)
    )
    cni.write(world.results, stale)
    world.want(pod)
    world.members(process().pid)
    async with world.running():
        await world.until(lambda: UID in world.sandboxes.places)


def test_a_pod_is_looked_for_ever_less_often(world: World, pod: Pod) -> None:
    world.want(pod)

    async def moments() -> list[float]:
        found: list[float] = []
        now = 0.0
        loop = asyncio.get_running_loop()
        loop.time = lambda: now  # type: ignore[method-assign]
        for _ in range(4000):
            if world.sandboxes._due():
                found.append(now)
            now += 0.02
        del loop.time
        return found

    found = asyncio.run(moments())
    gaps = [later - earlier for earlier, later in itertools.pairwise(found)]
    assert gaps == sorted(gaps)
    assert 25 < gaps[-1] <= 30.1


async def test_a_network_that_cannot_be_looked_at_is_neither_there_nor_gone(
    world: World, pod: Pod
) -> None:
    world.finder.errors = [TimeoutError("timed out"), RuntimeError("a mistake")]
    world.sandboxes.remember([UID])
    await world.sandboxes._update({UID: pod.result})
    assert world.sandboxes.unreadable == {UID}
    await world.sandboxes.verify()
    assert (world.sandboxes.unreadable, world.sandboxes.places) == ({UID}, {})

    await world.sandboxes.verify()

    assert world.sandboxes.unreadable == set()
    assert set(world.sandboxes.places) == {UID}


async def test_a_new_sandbox_under_the_same_uid_is_another_place(world: World, pod: Pod) -> None:
    async with world.running():
        pod.attach(world.results)
        await world.until(lambda: UID in world.sandboxes.places)
        former = world.sandboxes.places[UID]
        pod.start()
        pod.attach(world.results)
        await world.until(lambda: world.sandboxes.places[UID] != former)

    assert world.sandboxes.places[UID].cookie == netns.cookie(pod.netns)


async def test_a_network_that_ends_while_it_is_looked_for_has_ended(world: World, pod: Pod) -> None:
    """Else it would be held for there for ever: no file names it any more."""
    world.finder.errors = [TimeoutError("timed out")]
    world.finder.pauses = [Pause(), slow := Pause()]
    world.finder.pauses[0].over.set()
    await world.sandboxes._update({UID: pod.result})
    async with asyncio.TaskGroup() as group:
        group.create_task(world.sandboxes.verify())
        await slow.begun.wait()
        await world.sandboxes._update({})
        slow.over.set()

    assert world.sandboxes.places == {}


async def test_what_is_told_late_of_a_former_sandbox_ends_no_newer_one(
    world: World, pod: Pod
) -> None:
    await world.sandboxes._update({UID: pod.result})
    former = pod.result
    netns.delete(former.netns)
    pod.start()
    world.finder.pauses = [slow := Pause()]
    async with asyncio.TaskGroup() as group:
        group.create_task(world.sandboxes.verify())
        await slow.begun.wait()
        await world.sandboxes._update({UID: pod.result})
        slow.over.set()

    assert world.sandboxes.places[UID].cookie == netns.cookie(pod.netns)
    assert world.sandboxes.ended == set()
