"""`nsm demo`: the story of a Pod's annotation on this machine, told and checked.

Every step is a command that a user can type as well; the demo prints it, runs it and checks what came out.
It ends with the exit code 1 as soon as a step does not hold, and leaves nothing behind.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.annotation import ANNOTATION, default_interface

SEED = Path(__file__).parent.parent / "examples" / "seed"
TARGET = "10.20.0.5"  # an address behind the endpoint of my-networkservice-2
NAMED, DEFAULT = "nsm-1", default_interface("my-networkservice-2", "default")
STEP_SECONDS = 30.0
EDIT_SECONDS = 5.0  # generous: the point is the figure that is printed


class Failed(Exception):
    """A step of the story did not hold."""


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="leave the lab running at the end")] = False,
) -> None:
    """Tell the whole story on this machine: a cluster, its Pods, their connections, and their end."""
    directory = Path(tempfile.mkdtemp(prefix="nsm-demo-"))
    story = _Story(directory)
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
  nsm lab get events                       what users are told
  nsm lab kill ipam -9                     nothing breaks; it comes back
  nsm lab down
"""


def _tell(story: "_Story") -> None:
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


class _Story:
    """Runs the commands, shows them, and stops at the first that fails."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._environment = {**os.environ, "NSM_LAB_DIR": str(directory)}
        self._events = directory / "events.txt"
        self._watching: subprocess.Popen[bytes] | None = None

    def say(self, text: str) -> None:
        print(f"\n== {text}", flush=True)

    def say_took(self, text: str, seconds: float) -> None:
        print(f"  {text} after {seconds * 1000:.0f} ms", flush=True)

    def check(self, text: str, holds: bool, otherwise: str) -> None:
        if not holds:
            raise Failed(f"expected that {text}, but {otherwise}")
        print(f"  ok: {text}", flush=True)

    def run(self, *words: str, is_shown: bool = True) -> str:
        """The output of `nsm WORDS`; shown as a user would see it."""
        if is_shown:
            print(f"$ nsm {' '.join(words)}", flush=True)
        done = self.start(*words)
        try:
            output, _ = done.communicate(timeout=2 * STEP_SECONDS)
        except subprocess.TimeoutExpired:
            done.kill()
            raise Failed(f"nsm {' '.join(words)} did not end") from None
        if is_shown:
            print("".join(f"  {line}\n" for line in output.splitlines()), end="", flush=True)
        if done.returncode != 0:
            raise Failed(f"nsm {' '.join(words)} ended with {done.returncode}: {output.strip()}")
        return output

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *words],
            env=self._environment,
            cwd=SEED.parent.parent,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def watch(self) -> None:
        """Keep what is committed on the bus from now on."""
        with self._events.open("w") as file:
            self._watching = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "tap", "log.nsm.>"],
                env=self._environment,
                cwd=SEED.parent.parent,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.until("the tap listens", lambda: self._events.stat().st_size > 0, is_shown=False)

    def stop_watching(self) -> None:
        if self._watching is not None:
            self._watching.terminate()
            self._watching.wait()

    def life_of(self, pod: str) -> None:
        """What the bus said of a Pod so far: time and subject, the bodies cut."""
        print("$ nsm tap 'log.nsm.>'")
        for line in self._events.read_text().splitlines():
            if f".{pod}." in line:
                print(f"  {line[:140]}{'…' if len(line) > 140 else ''}")

    def show(self, path: Path, text: str) -> None:
        for line in path.read_text().splitlines():
            if text in line:
                print(f"  {line.strip()}")

    def interfaces(self, pod: str) -> dict[str, dict[str, Any]]:
        found = json.loads(self.run("lab", "interfaces", pod, "-o", "json", is_shown=False))
        return {interface["name"]: interface for interface in found}

    def connection(self, interface: str) -> dict[str, Any]:
        items = json.loads(self.run("lab", "get", "connections", "-o", "json", is_shown=False))[
            "items"
        ]
        (found,) = [item for item in items if item["client"]["interface"] == interface]
        return dict(found)

    def edit(self, before: dict[str, Any], *, drop: bool) -> float:
        """Take the second item out of the annotation, or put it back; seconds until the kernel followed."""
        manifest = (SEED / "client.yaml").read_text()
        if drop:
            manifest = manifest.replace(", kernel://my-networkservice-2", "")
        edited = self._directory / "edited.yaml"
        edited.write_text(manifest)
        self.show(edited, f"{ANNOTATION}:")
        self.run("lab", "apply", "-f", str(edited))
        expected = set(before) - ({DEFAULT} if drop else set())
        return self.until(
            f"the Pod has {', '.join(sorted(expected))}",
            lambda: set(self.interfaces("my-app")) == expected,
            seconds=EDIT_SECONDS,
            is_shown=False,
        )

    def refused(self) -> None:
        """A Pod that asks for a version nobody offers."""
        asking = self._directory / "asking.yaml"
        asking.write_text(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: asks-for-v9\n  annotations:\n"
            f"    {ANNOTATION}: kernel://my-networkservice-1/nsm-1?version=v9\n"
            "spec:\n  nodeName: node1\n  containers:\n"
            "  - {name: app, image: python:3-alpine, command: [sleep, infinity]}\n"
        )
        self.run("lab", "apply", "-f", str(asking))
        text = ""

        def is_told() -> bool:
            nonlocal text
            items = json.loads(self.run("lab", "get", "events", "-o", "json", is_shown=False))[
                "items"
            ]
            told = [e for e in items if e["involvedObject"]["name"] == "asks-for-v9"]
            text = told[-1]["message"] if told else ""
            return bool(told)

        self.until("the Pod's event says why", is_told)
        print(f"  {text}")
        self.check("it lists both endpoints", "v1.0" in text and "v1.1" in text, text)

    def until(
        self,
        text: str,
        holds: Callable[[], bool],
        *,
        seconds: float = STEP_SECONDS,
        is_shown: bool = True,
    ) -> float:
        """Seconds until it held. What is asked is a command that takes its time: no pause between."""
        started = time.monotonic()
        while not holds():
            if time.monotonic() - started > seconds:
                raise Failed(f"expected that {text} within {seconds:.0f} s")
        if is_shown:
            print(f"  ok: {text}", flush=True)
        return time.monotonic() - started
