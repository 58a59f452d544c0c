"""How a process comes to be in a Pod: its network, its own /etc/resolv.conf, its host name.

`become` changes the calling thread or process for good, so callers are throw-away threads (the kubelet)
or forked children (`nsm lab exec`).
"""

import os
import sys
from pathlib import Path

from lab import linux

RESOLV_CONF = Path("/etc/resolv.conf")


def search_path() -> str:
    """Where commands are looked for: last beside our Python, which a machine may have under no usual name."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])


def become(*, hostname: str, resolv_conf: Path | None) -> str:
    """Own mounts and host name; a warning when this machine has no place for a resolv.conf."""
    linux.unshare(linux.CLONE_NEWNS | linux.CLONE_NEWUTS)
    linux.set_hostname(hostname)
    if resolv_conf is None:
        return ""
    try:
        linux.bind(resolv_conf, RESOLV_CONF.resolve())
    except OSError as exc:
        return f"{RESOLV_CONF} stays the machine's own: {exc}"
    return ""
