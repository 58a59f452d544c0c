"""`nsm demo`: the story of a Pod's annotation on this machine, told and checked.

Every step is a command that a user can type as well; the demo prints it, runs it and checks what came out.
It ends with the exit code 1 as soon as a step does not hold, and leaves nothing behind.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from cli.story import DEFAULT, NAMED, SEED, STEP_SECONDS, Failed, Story

TARGET = "10.20.0.5"  # an address behind the endpoint of my-networkservice-2
INSIDE, NOWHERE = "www.corp.example", "nobody.corp.example"
KUBERNETES, OUTSIDE = "kubernetes.default.svc.cluster.local", "www.elsewhere.example"


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="leave the lab running at the end")] = False,
) -> None:
    """Tell the whole story on this machine: a cluster, its Pods, their connections, and their end."""
    directory = Path(tempfile.mkdtemp(prefix="nsm-demo-"))
    story = Story(directory)
    started = time.monotonic()
    try:
        _tell(story)
    except Failed as exc:
        print(f"\nThe demo failed: {exc}\nLogs: {directory / 'logs'}; the lab is left as it is.")
        print(f"Look around: export NSM_LAB_DIR={directory}; end it: nsm lab down")
        raise typer.Exit(1) from None
    finally:
        story.stop_watching()
    if keep:
        print(f"\nThe lab is left running: export NSM_LAB_DIR={directory}")
    else:
        story.say("Everything goes")
        story.run("lab", "down")
        shutil.rmtree(directory, ignore_errors=True)
    print(f"\nAll of it held, in {time.monotonic() - started:.0f} s. Go on with:\n{_GO_ON}")


_GO_ON = """
  export PATH=$PWD/.venv/bin:$PATH
  nsm lab up -f examples/seed --detach     the same cluster, to stay
  nsm lab wait pod/my-app
  nsm tap                                  watch the system think
  nsm lab exec my-app -- bash              a shell in the Pod's network
  nsm dig my-app www.corp.example          a name, asked in the Pod
  nsm lab get events                       what users are told
  nsm lab kill ipam -9                     nothing breaks; it comes back
  nsm lab down
"""


def _tell(story: Story) -> None:
    story.say("A cluster on this machine: nodes and Pods are network namespaces")
    story.run("lab", "up", "--detach")
    story.watch()

    story.say("Endpoint Pods, and a client Pod that asks for two network services")
    story.show(SEED / "client.yaml", "networkservicemesh.io:")
    story.run("lab", "apply", "-f", str(SEED))
    story.run("lab", "wait", "pod/my-app", "--timeout", "30s")
    story.life_of("my-app")

    story.say("What was granted, and what the Pod's kernel has: exactly the two interfaces")
    story.run("lab", "get", "connections")
    story.run("lab", "interfaces", "my-app")
    before = story.interfaces("my-app")
    story.check(
        f"the Pod has eth0, lo, {NAMED} and {DEFAULT}",
        set(before) == {"lo", "eth0", NAMED, DEFAULT},
        f"it has {sorted(before)}",
    )
    chosen = story.connection(NAMED)["endpoint"]
    story.check("labels chose the endpoint with version=v1.1", chosen == "service-1-v1-1", chosen)

    story.say("Both endpoints answer, and so does an address behind the second")
    story.run("ping", "my-app", "--count", "3")
    story.run("ping", "my-app", TARGET, "--count", "3")

    story.say("The second endpoint serves DNS for its own domain; the Pod asks as it always did")
    _tell_of_dns(story)

    story.say(
        "The annotation of the running Pod is edited: one item goes, the other is not disturbed"
    )
    ping = story.start("ping", "my-app", "-I", NAMED, "--count", "150", "--interval", "0.02")
    took = story.edit(before, drop=True)
    story.say_took(f"{DEFAULT} is gone", took)
    took = story.edit(before, drop=False)
    story.say_took(f"{DEFAULT} is back", took)
    after = story.interfaces("my-app")
    story.check(
        "with the address it had",
        after[DEFAULT]["addresses"] == before[DEFAULT]["addresses"],
        f"{before[DEFAULT]['addresses']} became {after[DEFAULT]['addresses']}",
    )
    output, _ = ping.communicate(timeout=STEP_SECONDS)
    print(f"  {output.strip().splitlines()[-1] if output.strip() else ''}")
    story.check(f"not one packet on {NAMED} was lost meanwhile", ping.returncode == 0, output)

    story.say("What cannot be done is said where the user looks")
    story.refused()

    story.say("The client Pod goes, and nothing of it is left at the endpoint")
    story.run("lab", "delete", "pod", "my-app", "--grace-period", "0")
    story.until(
        "the endpoint Pods have only their own interfaces",
        lambda: all(
            set(story.interfaces(pod)) == {"lo", "eth0"} for pod in ("service-1-v1-1", "service-2")
        ),
    )


def _tell_of_dns(story: Story) -> None:
    story.run("lab", "get", "resolvers")
    story.resolves(INSIDE, "NOERROR", TARGET, "known only to the service's DNS")
    story.resolves(KUBERNETES, "NOERROR", "10.96.0.1", "known only to the cluster's DNS")
    story.resolves(NOWHERE, "NXDOMAIN", "", "known to neither")
    story.resolves(OUTSIDE, "REFUSED", "", "outside of the service's domain, and of the cluster")
    print("$ nsm lab logs pod/service-2 -c dns")
    seen = story.run("lab", "logs", "pod/service-2", "-c", "dns", is_shown=False).splitlines()
    print("".join(f"  {line}\n" for line in seen), end="")
    for name, reached in ((INSIDE, True), (NOWHERE, True), (KUBERNETES, False), (OUTSIDE, False)):
        story.check(
            f"{name} {'reached' if reached else 'did not reach'} the service's DNS",
            any(f" {name}. " in line for line in seen) is reached,
            f"it saw: {seen}",
        )
