"""`python -m tools.install [keys] [certificates] [definitions]`: what a cluster needs before the services start.

Each part may run any number of times, and makes or changes only what is due; without arguments all run. One
that fails does not keep the others from being tried. Runs in a Pod, with the rights of k8s/base/install.yaml.
"""

import os
import sys
from collections.abc import Callable, Sequence

from tools import install_certificates, install_definitions, install_keys
from tools.kube import Api, InstallFailed, in_pod


def _definitions(api: Api) -> list[str]:
    return install_definitions.install(api, job_uid=os.environ.get("JOB_UID", ""))


PARTS: dict[str, Callable[[Api], list[str]]] = {
    "keys": install_keys.install,
    "certificates": install_certificates.install,
    "definitions": _definitions,
}


def say(text: str) -> None:
    """What `kubectl logs job/nsm-install` shows."""
    sys.stdout.write(f"{text}\n")


def main(chosen: Sequence[str]) -> int:
    """The exit code; what was done and what was not is printed."""
    unknown = sorted(set(chosen) - set(PARTS))
    if unknown:
        say(f"install: no part {', '.join(unknown)}; there are {', '.join(PARTS)}")
        return 2
    try:
        api = in_pod()
    except InstallFailed as problem:
        say(f"install: {problem}")
        return 1
    failed = False
    for name in chosen or PARTS:
        try:
            say("\n".join(PARTS[name](api)))
        except InstallFailed as problem:
            failed = True
            say(f"install: {name}: {problem}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
