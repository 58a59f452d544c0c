"""Real processes in real networks; in real control groups where this machine has some that we may make."""

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.intent import PodRef
from services._node import netns, places, processes
from services._node.errors import Gone
from services._node.processes import Roots
from tests.node.sandboxes import Pod, ensure_namespaces_allowed

UID = str(uuid.uuid4())  # one of our own: what others test on this machine is none of ours
FORM = f"kubepods/burstable/pod{UID}"
SLICE = "kubepods.slice/kubepods-pod{}.slice".format(UID.replace("-", "_"))

Start = Callable[[str], int]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    ensure_namespaces_allowed(tmp_path)
    made = Pod(tmp_path, "client", "10.244.1.5")
    yield made
    for path in tmp_path.glob("netns-*"):
        netns.delete(path)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process in the network of that file; empty: ours."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(place: str) -> int:
        def enter() -> None:
            if place:
                fd = os.open(place, os.O_RDONLY)
                assert netns._libc.setns(fd, 0x40000000) == 0
                os.close(fd)

        started.append(subprocess.Popen(["sleep", "600"], preexec_fn=enter))  # noqa: PLW1509
        return started[-1].pid

    yield begin
    for each in started:
        each.kill()
        each.wait()


def a_ref(pod: Pod, **fields: object) -> PodRef:
    values = {"ips": (pod.ip,), **fields}
    return PodRef(namespace="default", name=pod.name, uid=UID, node="node1", **values)  # type: ignore[arg-type]


def roots(tmp_path: Path, *, names: tuple[str, ...] = ()) -> Roots:
    return Roots(cgroups=str(tmp_path / "cgroup"), names=names)


def a_group(tmp_path: Path, form: str, containers: dict[str, list[int]]) -> None:
    """A directory tree of the shape of version 2."""
    top = tmp_path / "cgroup"
    for name, pids in containers.items():
        place = top / form / name
        place.mkdir(parents=True, exist_ok=True)
        (place / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    (top / "cgroup.controllers").touch()


def networks(pod: PodRef, where: Roots) -> list[str]:
    return [result.netns for result in processes.find([pod], where).get(pod.uid, [])]


def test_the_oldest_process_names_the_network(tmp_path: Path, pod: Pod, start: Start) -> None:
    other = Pod(tmp_path, "nested", "10.244.1.5")  # a container's own network, the same address
    first = start(pod.netns)
    second = start(other.netns)
    a_group(tmp_path, FORM, {"app": [second], "pause": [first]})

    found = networks(a_ref(pod), roots(tmp_path))

    assert found == [f"/proc/{first}/ns/net", f"/proc/{second}/ns/net"]


def test_our_own_network_is_no_pods_however_old_its_process(
    tmp_path: Path, pod: Pod, start: Start
) -> None:
    monitor = start("")  # as CRI-O's, which lives among the Pod's processes
    inside = start(pod.netns)
    a_group(tmp_path, FORM, {"crio-conmon": [monitor], "app": [inside]})

    assert networks(a_ref(pod), roots(tmp_path)) == [f"/proc/{inside}/ns/net"]


def test_the_nodes_network_is_no_pods(tmp_path: Path, pod: Pod, start: Start) -> None:
    node = Pod(tmp_path, "node", pod.ip)
    a_group(tmp_path, FORM, {"app": [start(node.netns)]})
    [result] = processes.find([a_ref(pod)], roots(tmp_path))[UID]

    with pytest.raises(Gone, match="not of a Pod"):
        places.find(result, node_netns=node.netns)


def test_a_network_without_the_pods_address_is_not_its(
    tmp_path: Path, pod: Pod, start: Start
) -> None:
    a_group(tmp_path, FORM, {"app": [start(pod.netns)]})
    [result] = processes.find([a_ref(pod, ips=("10.244.1.6",))], roots(tmp_path))[UID]

    with pytest.raises(Gone, match=r"10\.244\.1\.6"):
        places.find(result)


def test_a_pod_whose_address_nobody_knows_is_not_looked_for(
    tmp_path: Path, pod: Pod, start: Start
) -> None:
    a_group(tmp_path, FORM, {"app": [start(pod.netns)]})

    assert networks(a_ref(pod, ips=()), roots(tmp_path)) == []


def test_a_name_that_outlives_its_processes_is_preferred(
    tmp_path: Path, pod: Pod, start: Start
) -> None:
    a_group(tmp_path, FORM, {"app": [start(pod.netns)]})

    assert networks(a_ref(pod), roots(tmp_path, names=(str(tmp_path),))) == [pod.netns]


def test_a_static_pod_is_found_by_its_hash(tmp_path: Path, pod: Pod, start: Start) -> None:
    digest = "3f1c0b3a2d9e8f7a6b5c4d3e2f1a0b9c"
    inside = start(pod.netns)
    a_group(tmp_path, f"kubepods/pod{digest}", {"app": [inside]})

    found = networks(a_ref(pod, cgroup_uid=digest), roots(tmp_path))

    assert found == [f"/proc/{inside}/ns/net"]


def test_processes_are_read_one_by_one_where_no_directory_is(
    tmp_path: Path, pod: Pod, start: Start
) -> None:
    inside, other = start(pod.netns), start("")
    proc = tmp_path / "proc"
    for pid, path in ((inside, f"/x/{FORM}/app"), (other, "/system.slice/ssh.service")):
        (proc / str(pid)).mkdir(parents=True)
        (proc / str(pid) / "cgroup").write_text(f"0::{path}\n")
        for name in ("stat", "ns"):
            (proc / str(pid) / name).symlink_to(f"/proc/{pid}/{name}")
    (proc / "self").symlink_to(f"/proc/{os.getpid()}")

    where = Roots(processes=str(proc), cgroups=str(tmp_path / "nothing"), names=())

    assert networks(a_ref(pod), where) == [f"{proc}/{inside}/ns/net"]


def _makeable() -> list[Path]:
    """Where this machine lets us make control groups: one of version 1, one of version 2."""
    tops = [Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]
    return [top for top in tops if (top / "cgroup.procs").exists() and os.access(top, os.W_OK)]


@pytest.fixture(params=[1, 2])
def real_root(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A real control group to play a node's root in."""
    version_2 = request.param == 2
    tops = [top for top in _makeable() if (top / "cgroup.controllers").exists() == version_2]
    if not tops:
        pytest.skip(f"no control groups of version {request.param} that we may make here")
    root = tops[0] / f"nsm-test-{uuid.uuid4().hex[:8]}"
    root.mkdir()
    yield root
    for path, _, _ in os.walk(root, topdown=False):
        Path(path).rmdir()


@pytest.mark.parametrize("form", [FORM, SLICE], ids=["cgroupfs", "systemd"])
def test_a_process_in_a_real_control_group_is_found(
    real_root: Path, pod: Pod, start: Start, form: str
) -> None:
    is_version_2 = (real_root / "cgroup.controllers").exists()
    top = real_root if is_version_2 else real_root / "pids"
    place = top / form / "container"
    place.mkdir(parents=True)
    inside = start(pod.netns)
    (place / "cgroup.procs").write_text(str(inside))
    try:
        where = Roots(cgroups=str(real_root), names=())
        assert networks(a_ref(pod), where) == [f"/proc/{inside}/ns/net"]

        nowhere = Roots(cgroups=str(real_root / "nothing"), names=())
        assert networks(a_ref(pod), nowhere) == [f"/proc/{inside}/ns/net"]
    finally:
        root_of_all = real_root.parent / "cgroup.procs"
        root_of_all.write_text(str(inside))
