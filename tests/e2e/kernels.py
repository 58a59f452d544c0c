"""`python -m tests.e2e.kernels NAMESPACE POD …`: the interfaces of many Pods, as their kernels have them, in one go."""

import json
import sys

from cli import labs
from cli.lab.interfaces import read


def main(namespace: str, pods: list[str]) -> None:
    """A line of JSON for each Pod, in order."""
    for pod in pods:
        inside = labs.Inside(namespace, pod)

        def show(inside: labs.Inside = inside) -> int:
            inside.enter()
            sys.stdout.write(json.dumps(read()) + "\n")
            return 0

        if labs.in_child(show) != 0:
            sys.exit(f"{namespace}/{pod} cannot be read")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
