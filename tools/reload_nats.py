"""`python -m tools.reload_nats DIRECTORY MEMORY`: a nats-server reads its files anew when they have changed.

Runs beside the server, in the same Pod with one process namespace and as the same user. The server keeps its
streams over it, but closes every client that the auth callout let in: they are back within a second. Several
servers see a change at different moments, and each waits a random while, so that clients do not all come at once.
What the server read last stands in the file MEMORY, which has to live as long as the Pod: a restart of this
container alone neither misses a change nor invents one.
"""

import hashlib
import os
import random
import signal
import sys
import time
from pathlib import Path

LOOK_SECONDS = 10.0
SPREAD_SECONDS = 30.0
_PROGRAM = "nats-server"


def digest(directory: Path) -> str:
    """Of all files' names and contents."""
    found = hashlib.sha256()
    for path in sorted(directory.iterdir()):
        if path.is_file():
            found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def servers(proc: Path = Path("/proc")) -> list[int]:
    """The process IDs of every nats-server that we can see."""
    found = []
    for path in proc.glob("[0-9]*/comm"):
        try:
            if path.read_text().strip() == _PROGRAM:
                found.append(int(path.parent.name))
        except OSError:  # ended meanwhile
            continue
    return found


def look(directory: Path, known: str, *, spread: float = SPREAD_SECONDS) -> str:
    """Tell the servers if the files are not what is known any more; the digest of what they read then."""
    if digest(directory) == known:
        return known
    time.sleep(random.uniform(0, spread))
    # It may have changed once more: read before the signal, so that nothing is missed.
    now = digest(directory)
    for pid in servers():
        os.kill(pid, signal.SIGHUP)
        sys.stdout.write(f"the files in {directory} have changed: nats-server {pid} reads them\n")
        sys.stdout.flush()
    return now


def remembered(directory: Path, memory: Path) -> str:
    """What the server read last; at the Pod's start, what is there now."""
    try:
        return memory.read_text()
    except FileNotFoundError:
        known = digest(directory)
        memory.write_text(known)
        return known


def main(directory: Path, memory: Path) -> None:
    """For ever; whatever goes wrong ends the process, and the kubelet starts it again."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    known = remembered(directory, memory)
    while True:
        time.sleep(LOOK_SECONDS)
        found = look(directory, known)
        if found != known:
            memory.write_text(found)
            known = found


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
