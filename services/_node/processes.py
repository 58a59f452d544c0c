"""A Pod's network by its processes: for when the CNI left no result that can be used.

Only what the CNI would have said counts: a network that is neither ours nor the node's, and that holds an address
of the Pod. The oldest process is asked first, for a container may make networks of its own, and some runtimes
leave a monitor of theirs among a Pod's processes, in the node's network.
"""

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from schemas.intent import PodRef
from services._node import cgroups, netns
from services._node.cni import CniResult


class Roots(msgspec.Struct, frozen=True, kw_only=True):
    """Where the node shows its processes, control groups and named network namespaces."""

    processes: str = "/proc"
    cgroups: str = "/sys/fs/cgroup"
    names: tuple[str, ...] = ("/run/netns", "/var/run/netns", "/run/docker/netns")


def find(pods: Collection[PodRef], roots: Roots) -> dict[str, list[CniResult]]:
    """By Pod uid, the networks that may be its own, best first, as the CNI would have told of them.

    A Pod whose addresses are not known yet has none.
    """
    asked = [pod for pod in pods if pod.ips]
    members = {pod.uid: _members(pod, roots) for pod in asked}
    lost = [pod for pod in asked if not members[pod.uid]]
    if lost:
        members.update(_scan(lost, roots))
    return {pod.uid: _candidates(pod, members[pod.uid], roots) for pod in asked}


def _members(pod: PodRef, roots: Roots) -> set[int]:
    for directory in cgroups.directories(roots.cgroups, pod.cgroup_uid or pod.uid):
        if pids := cgroups.processes(directory):
            return pids
    return set()


def _scan(pods: Iterable[PodRef], roots: Roots) -> dict[str, set[int]]:
    """Every process there is, once for all: some 20 µs each."""
    found: dict[str, set[int]] = {pod.uid: set() for pod in pods}
    wanted = {pod.cgroup_uid or pod.uid: pod.uid for pod in pods}
    for entry in _listed(roots.processes):
        if not entry.isdecimal():
            continue
        try:
            text = Path(roots.processes, entry, "cgroup").read_text()
        except OSError:
            continue  # ended meanwhile
        for uid in cgroups.pod_uids(text) & wanted.keys():
            found[wanted[uid]].add(int(entry))
    return found


def _candidates(pod: PodRef, pids: Collection[int], roots: Roots) -> list[CniResult]:
    """One per network, that of the oldest process first."""
    seen = _forbidden(roots)
    found: list[CniResult] = []
    for pid in sorted(pids, key=lambda pid: (_started(pid, roots), pid)):
        path = f"{roots.processes}/{pid}/ns/net"
        try:
            identity = netns.identity(path)
        except OSError:
            continue
        if identity in seen:
            continue
        seen.add(identity)
        found.append(
            CniResult(
                uid=pod.uid,
                namespace=pod.namespace,
                name=pod.name,
                container_id="",
                netns=_name_of(identity, roots) or path,
                ips=pod.ips,
            )
        )
    return found


def _forbidden(roots: Roots) -> set[netns.Identity]:
    """Networks that are no Pod's: our own, and that of the node's first process where we see it."""
    found = {netns.own()}
    with contextlib.suppress(OSError):
        found.add(netns.identity(f"{roots.processes}/1/ns/net"))
    return found


def _name_of(identity: netns.Identity, roots: Roots) -> str:
    """A file that names the network as long as it stands: a process may end before its Pod does."""
    for directory in roots.names:
        for name in _listed(directory):
            path = f"{directory}/{name}"
            try:
                if netns.identity(path) == identity:
                    return path
            except OSError:
                continue
    return ""


def _started(pid: int, roots: Roots) -> int:
    """When, in ticks since boot; for one that ended meanwhile, never."""
    try:
        text = Path(roots.processes, str(pid), "stat").read_text()
    except OSError:
        return 1 << 62
    # The second field is a name in brackets that may hold anything, also blanks and brackets.
    return int(text.rpartition(")")[2].split()[19])


def _listed(directory: str) -> Iterator[str]:
    try:
        yield from os.listdir(directory)  # noqa: PTH208 names are what is wanted
    except OSError:
        return
