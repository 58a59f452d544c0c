"""What the demo is told with: it runs `nsm` commands, shows them as a user would see them, and checks what came out.

The first thing that does not hold ends the story.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from schemas.annotation import ANNOTATION, default_interface

SEED = Path(__file__).parent.parent / "examples" / "seed"
NAMED, DEFAULT = "nsm-1", default_interface("my-networkservice-2", "default")
STEP_SECONDS = 30.0
PAUSE_SECONDS = 0.01  # what is waited for needs the processor, too
EDIT_SECONDS = 5.0  # generous: the point is the figure that is printed


class Failed(Exception):
    """A step of the story did not hold."""


class Story:
    """Runs the commands, shows them, and stops at the first that fails."""

    def __init__(self, directory: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._directory = directory
        self._sleep = sleep
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

    def resolves(self, name: str, status: str, address: str, why: str) -> None:
        """Ask for a name in the client Pod and check what comes back."""
        print(f"$ nsm dig my-app {name}", flush=True)
        answer = json.loads(self.run("dig", "my-app", name, "-o", "json", is_shown=False))
        found = [record["data"] for record in answer["answers"]]
        took = f"in {answer['milliseconds']:.1f} ms"
        self.check(
            f"{name} ({why}) is {' '.join([status, *found])} {took}",
            (answer["status"], found) == (status, [address] if address else []),
            f"the answer was {answer['status']} {found}",
        )

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
        """Seconds until it held."""
        started = time.monotonic()
        while not holds():
            if time.monotonic() - started > seconds:
                raise Failed(f"expected that {text} within {seconds:.0f} s")
            self._sleep(PAUSE_SECONDS)
        if is_shown:
            print(f"  ok: {text}", flush=True)
        return time.monotonic() - started
