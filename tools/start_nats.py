"""`python -m tools.start_nats DIRECTORY STORE`: becomes the nats-server of DIRECTORY/nats.conf, on a store of its kind.

A single server's store and that of one of several do not mix. A server that joins others with what it held alone keeps
it for good as its copy of their streams: who follows the bus there reads another truth than elsewhere. One that is
alone with what it held among several never recovers. Either way the bus counts as wiped, which is harmless; so a store
of the other kind is removed before the server reads it. Which kind is asked for, the configuration tells that is about
to be read, not the Pod: it may be an old one that was started again.
"""

import os
import shutil
import sys
from pathlib import Path

_SEVERAL = "jetstream/*/_js_/_meta_"  # only servers that elect a leader keep a log for it


def is_clustered(configuration: Path) -> bool:
    """Whether `cluster.conf` says how servers find each other."""
    lines = (configuration / "cluster.conf").read_text().splitlines()
    return any(line.strip().startswith("cluster") for line in lines)


def clear(configuration: Path, store: Path) -> bool:
    """Remove a store of the other kind; whether there was one."""
    streams, aside = store / "jetstream", store / "jetstream.old"
    shutil.rmtree(aside, ignore_errors=True)  # of a removal that was cut short
    if not streams.exists() or is_clustered(configuration) == any(store.glob(_SEVERAL)):
        return False
    streams.rename(aside)
    shutil.rmtree(aside)
    return True


def main(directory: str, store: str) -> None:
    """Does not return."""
    configuration = Path(directory)
    if clear(configuration, Path(store)):
        kind = "one of several" if is_clustered(configuration) else "a single server"
        sys.stdout.write(
            f"{store} removed: this server is {kind} now, and it was of the other kind\n"
        )
        sys.stdout.flush()
    os.execvp("nats-server", ["nats-server", "--config", str(configuration / "nats.conf")])  # noqa: S606


if __name__ == "__main__":
    main(*sys.argv[1:])
