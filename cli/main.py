"""The `nsm` command. What a person can fix is told in one or two lines; a traceback is a bug of ours."""

import io
import sys

from cli import lazy

COMMANDS = {
    "demo": "cli.demo:demo",
    "lab": "cli.main:LAB",
    "annotation": "cli.annotation:annotation",
    "status": "cli.status.command:status",
    "explain": "cli.explain.command:explain",
    "tap": "cli.tap:tap",
    "ipam": "cli.ipam:IPAM",
    "ping": "cli.ping:ping",
    "dig": "cli.dig:dig",
    "dns": "cli.dns:DNS",
    "plumb": "cli.plumb:PLUMB",
    "dns-server": "cli.dnsserver:dns_server",
}

LAB_COMMANDS = {
    "up": "cli.lab.up:up",
    "down": "cli.lab.down:down",
    "apply": "cli.lab.objects:apply",
    "delete": "cli.lab.objects:delete",
    "get": "cli.lab.get:get",
    "wait": "cli.lab.wait:wait",
    "exec": "cli.lab.execute:execute",
    "logs": "cli.lab.logs:logs",
    "interfaces": "cli.lab.interfaces:interfaces",
    "ps": "cli.lab.processes:processes",
    "kill": "cli.lab.processes:kill",
    "start": "cli.lab.processes:start",
    "node": "cli.lab.processes:node",
    "kubeconfig": "cli.lab.kubeconfig:kubeconfig",
    "misbehave": "cli.lab.misbehaving:misbehave",
    "behave": "cli.lab.misbehaving:behave",
}

LAB = lazy.group(
    "lab",
    LAB_COMMANDS,
    help_text="A miniature cluster on this machine: nodes and Pods are network namespaces. "
    "NSM_LAB_DIR chooses the lab.",
)

NSM = lazy.group("nsm", COMMANDS, help_text="Network Service Mesh for Kubernetes, on NATS.")


def main() -> None:
    """Run the command line; exits."""
    # Only with a mistake is more needed than the command itself.
    from cli.problems import Problem  # noqa: PLC0415

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(
                errors="replace"
            )  # what a terminal cannot show must not end a command
    try:
        NSM(prog_name="nsm")
    except Problem as problem:
        print(f"nsm: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
