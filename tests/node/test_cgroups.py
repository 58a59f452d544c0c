"""Every form of path that a kubelet and a container runtime give to a Pod's processes."""

from pathlib import Path

import pytest

from services._node import cgroups

UID = "0d55a3c8-9f6e-4b1a-8a77-2f4f9e1b6c01"
SLICED = UID.replace("-", "_")
HASH = "3f1c0b3a2d9e8f7a6b5c4d3e2f1a0b9c"  # of a static Pod's manifest
CONTAINER = "4f0d5f2b" * 8

LINES = {
    "v1 cgroupfs burstable": f"9:pids:/kubepods/burstable/pod{UID}/{CONTAINER}",
    "v1 cgroupfs besteffort": f"3:cpu,cpuacct:/kubepods/besteffort/pod{UID}/{CONTAINER}",
    "v1 cgroupfs guaranteed": f"1:name=systemd:/kubepods/pod{UID}/{CONTAINER}",
    "v2 cgroupfs": f"0::/kubepods/burstable/pod{UID}/{CONTAINER}",
    "v2 cgroupfs, the Pod's own": f"0::/kubepods/pod{UID}",
    "v1 systemd containerd": (
        f"2:memory:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice"
        f"/cri-containerd-{CONTAINER}.scope"
    ),
    "v2 systemd containerd guaranteed": (
        f"0::/kubepods.slice/kubepods-pod{SLICED}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "v2 systemd CRI-O": (
        f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICED}.slice"
        f"/crio-{CONTAINER}.scope/container"
    ),
    "v2 systemd CRI-O monitor": (
        f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICED}.slice"
        f"/crio-conmon-{CONTAINER}.scope"
    ),
    "v1 systemd docker": (
        f"5:devices:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice"
        f"/docker-{CONTAINER}.scope"
    ),
    "v1 cgroupfs docker": f"5:devices:/kubepods/burstable/pod{UID}/{CONTAINER}",
    "containerd told of another driver": (
        f"0::/system.slice/containerd.service/kubepods-besteffort-pod{SLICED}.slice:cri-containerd:{CONTAINER}"
    ),
    "node in a container, cgroupfs": (
        f"9:pids:/docker/{CONTAINER}/kubelet/kubepods/besteffort/pod{UID}/{CONTAINER}"
    ),
    "node in a container, systemd": (
        "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice"
        f"/kubelet-kubepods-burstable-pod{SLICED}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "seen from another cgroup namespace": (
        f"0::/../../kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice/cri-containerd-{CONTAINER}.scope"
    ),
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES.keys())
def test_a_process_names_its_pod(line: str) -> None:
    others = "12:rdma:/\n11:freezer:/system.slice/kubelet.service\n"
    assert cgroups.pod_uids(others + line + "\n") == {UID}


@pytest.mark.parametrize(
    "line",
    [
        f"9:pids:/kubepods/burstable/pod{HASH}/{CONTAINER}",
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{HASH}.slice/crio-{CONTAINER}.scope",
    ],
)
def test_a_static_pod_is_named_by_the_hash_of_its_manifest(line: str) -> None:
    assert cgroups.pod_uids(line) == {HASH}


@pytest.mark.parametrize(
    "line",
    [
        "0::/",
        "",
        "1:name=systemd:/user.slice/user-0.slice/session-1.scope",
        "0::/system.slice/containerd.service",
        f"0::/docker/{CONTAINER}",
        f"0::/kubepods/besteffort/{UID}",
        f"0::/machine.slice/podman-{CONTAINER}.scope",
        f"0::/system.slice/pod{UID}-helper.service",
        "0::/kubepods/podnonsense/x",
    ],
)
def test_other_processes_name_none(line: str) -> None:
    assert cgroups.pod_uids(line) == set()


def test_a_process_of_a_pod_in_a_pod_belongs_to_both() -> None:
    inner = "11111111-2222-3333-4444-555555555555"
    line = f"0::/kubepods/pod{UID}/{CONTAINER}/kubelet/kubepods/burstable/pod{inner}/{CONTAINER}"
    assert cgroups.pod_uids(line) == {UID, inner}


DIRECTORIES = [
    f"kubepods/pod{UID}",
    f"kubepods/burstable/pod{UID}",
    f"kubepods/besteffort/pod{UID}",
    f"kubepods.slice/kubepods-pod{SLICED}.slice",
    f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICED}.slice",
    f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SLICED}.slice",
    f"kubelet/kubepods/burstable/pod{UID}",
    (
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice"
        f"/kubelet-kubepods-burstable-pod{SLICED}.slice"
    ),
]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("form", DIRECTORIES)
def test_a_pods_directory_is_found_in_every_form(tmp_path: Path, form: str, version: int) -> None:
    if version == 2:
        (tmp_path / "cgroup.controllers").touch()
        tops = [tmp_path]
    else:
        tops = [tmp_path / "memory", tmp_path / "pids"]
        (tmp_path / "unified").mkdir()
    for top in tops:
        (top / form).mkdir(parents=True)

    assert list(cgroups.directories(tmp_path, UID)) == [top / form for top in tops]
    assert list(cgroups.directories(tmp_path, UID[:-1] + "2")) == []


def test_a_node_without_control_groups_has_no_directories(tmp_path: Path) -> None:
    assert list(cgroups.directories(tmp_path / "nothing", UID)) == []


def test_processes_of_all_containers_count_but_not_those_of_other_pid_namespaces(
    tmp_path: Path,
) -> None:
    for name, pids in {"pause": "101\n", "app": "103\n102\n0\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "cgroup.procs").write_text(pids)

    assert cgroups.processes(tmp_path) == {101, 102, 103}
