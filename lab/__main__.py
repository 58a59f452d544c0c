"""`python -m lab CONFIG REPORT-FD attached|detached`: a lab in and below this process; see lab.starting."""

import sys

import msgspec

from lab import sandbox
from lab.layout import Config
from lab.peers import Peers


def _daemon(config: Config, report: sandbox.Reporter, pids: sandbox.Pids, peers: Peers) -> int:
    # Only in the daemon: the launcher and init stay small and have one thread.
    from lab.daemon import main  # noqa: PLC0415

    return main(config, report, pids, peers)


if __name__ == "__main__":
    options = msgspec.json.decode(sys.argv[1], type=Config)
    sys.exit(
        sandbox.run(
            options,
            report_fd=int(sys.argv[2]),
            attached=sys.argv[3] == "attached",
            daemon=_daemon,
        )
    )
