"""Where a kubelet puts a Pod's processes: by directory, and by the lines of /proc/PID/cgroup.

The one thing that all forms share is a path segment that names the Pod: `pod<uid>` with the cgroupfs driver,
`kubepods[-<qos>]-pod<uid>.slice`, dashes written as underscores, with systemd's. Above it stand a QoS class (none
for guaranteed Pods) and whatever the kubelet itself was put under; below it a directory per container, named
by the runtime. A containerd told of another driver than its kubelet joins slice and container by colons.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_UID = r"[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}"
# The whole segment, or its first part before a colon: a container's own name never counts.
_SEGMENT = re.compile(rf"(?:[a-z0-9-]*-)?pod({_UID})(?:\.slice)?(?::.*)?")
_CLASSES = ("", "burstable", "besteffort")
_PARENTS = ("", "kubelet")  # `--cgroup-root`: of nodes that are containers themselves
_VERSION_2 = "cgroup.controllers"


def pod_uids(text: str) -> set[str]:
    """The Pods that a process belongs to, from its /proc/PID/cgroup: a nested one belongs to all around it.

    A static Pod's is the hash of its manifest.
    """
    found: set[str] = set()
    for line in text.splitlines():
        path = line.split(":", 2)[-1]
        for segment in path.split("/"):
            match = _SEGMENT.fullmatch(segment)
            if match is not None:
                found.add(match[1].replace("_", "-"))
    return found


def directories(root: str | os.PathLike[str], uid: str) -> Iterator[Path]:
    """The Pod's directories that exist, one per hierarchy: the first that holds processes tells all."""
    for hierarchy in hierarchies(root):
        for form in forms(uid):
            place = hierarchy / form
            if place.is_dir():
                yield place


def hierarchies(root: str | os.PathLike[str]) -> list[Path]:
    """Version 2: the root itself. Version 1: its directories, of which each has every Pod."""
    top = Path(root)
    if (top / _VERSION_2).exists():
        return [top]
    try:
        found = [each for each in top.iterdir() if each.is_dir() and not each.is_symlink()]
    except OSError:
        return []
    # Beside version 1 the second may be mounted below it, with or without Pods.
    return sorted(found, key=lambda each: (each.name == "unified", each.name))


def forms(uid: str) -> Iterator[str]:
    """Every path that a Pod may have below a hierarchy."""
    for parent in _PARENTS:
        for quality in _CLASSES:
            yield "/".join(filter(None, (parent, "kubepods", quality, f"pod{uid}")))
            # Each slice's name repeats those of the slices around it.
            names = [name for name in (parent, "kubepods", quality) if name]
            names.append(f"pod{uid.replace('-', '_')}")
            slices = ["-".join(names[: n + 1]) for n in range(len(names))]
            yield "/".join(f"{each}.slice" for each in slices)


def processes(directory: Path) -> set[int]:
    """Every process in the directory and below it; those of other pid namespaces show as 0 and are left out."""
    found: set[int] = set()
    for place, _, _ in os.walk(directory):
        try:
            text = Path(place, "cgroup.procs").read_text()
        except OSError:
            continue  # ended meanwhile, or a threaded group
        found |= {int(line) for line in text.split()}
    return found - {0}
