"""How cheaply Pods are listed and watched: our informer beside the client library's own watch and models.

    python -m bench.watcher [--quick]

A lab's API server with 20,000 Pods runs in a process of its own. One after the other, each in a fresh process:
the informer; kubernetes_asyncio's `Watch` into a dictionary of `V1Pod`; and the informer with the core behind it,
which derives requests from every Pod. Each lists everything in pages and then follows 1,000 changes of Pods per
second. Time to synced, CPU (user and system) per event and peak memory are those of that process alone.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from lab.api.kinds import PODS
from lab.api.kubeconfig import write_kubeconfig
from lab.api.server import LabApi
from lab.api.store import Store

NODES = 100
ROLES = {
    "informer": "informer",
    "library": "kubernetes_asyncio Watch, V1Pod",
    "core": "informer and core",
}


class Size(msgspec.Struct, frozen=True, kw_only=True):
    pods: int = 20_000
    events: int = 5_000
    per_second: int = 1_000


FULL = Size()
QUICK = Size(pods=2_000, events=2_000)


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Of one process. Memory in MiB."""

    role: str
    synced_seconds: float
    synced_cpu_seconds: float
    event_cpu_us: float
    events_seconds: float
    idle_mib: float
    peak_mib: float


# ---- the API server


def a_pod(number: int) -> dict[str, Any]:
    """Of the size that Pods of a Deployment have: some 5 KiB."""
    env = [{"name": f"SETTING_{at}", "value": f"value-of-setting-{at}"} for at in range(20)]
    probe = {"httpGet": {"path": "/healthz", "port": 8080, "scheme": "HTTP"}, "periodSeconds": 10}
    mounts = [{"name": f"volume-{at}", "mountPath": f"/var/run/volume-{at}"} for at in range(6)]
    volumes = [{"name": f"volume-{at}", "configMap": {"name": f"map-{at}"}} for at in range(6)]
    container: dict[str, Any] = {
        "image": "registry.example/team/app@sha256:" + "a" * 64,
        "env": env,
    }
    container |= {"readinessProbe": probe, "livenessProbe": probe, "volumeMounts": mounts}
    conditions = [
        {"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
        for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady")
    ]
    address = f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"
    return {
        "metadata": {
            "name": f"app-{number}",
            "namespace": "default",
            "labels": {"app": f"app-{number // 20}", "pod-template-hash": f"{number:08x}"},
            "annotations": {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
            | ({"networkservicemesh.io": "vpn"} if number % 10 == 0 else {}),
        },
        "spec": {
            "nodeName": f"node-{number % NODES}",
            "containers": [{"name": "app"} | container, {"name": "sidecar"} | container],
            "volumes": volumes,
            "tolerations": [{"key": f"key-{at}", "operator": "Exists"} for at in range(4)],
        },
        "status": {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": conditions,
            "startTime": "2026-01-01T00:00:00Z",
        },
    }


async def serve(size: Size) -> None:
    """Until standard input ends. Prints the URL and the size of a Pod."""
    store = Store(history=2 * size.events)
    for number in range(size.pods):
        pod = a_pod(number)
        status = pod.pop("status")
        store.create(PODS, pod)
        store.patch(PODS, "default", f"app-{number}", {"status": status}, status=True)
    api = LabApi(store)
    begun = asyncio.Event()

    async def begin(_: web.Request) -> web.Response:
        begun.set()
        return web.Response()

    api.app.router.add_post("/bench", begin)
    url = await api.start()
    size_of_one = len(msgspec.json.encode(store.get(PODS, "default", "app-0")))
    print(json.dumps({"url": url, "bytes": size_of_one}), flush=True)
    while True:
        await begun.wait()
        begun.clear()
        await change(store, size)


async def change(store: Store, size: Size) -> None:
    """So many changes at that rate; the last one says so."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    for number in range(1, size.events + 1):
        name = f"app-{number * 7919 % size.pods}"
        ready = {"type": "Ready", "status": "True" if number % 2 else "False"}
        patch = {"status": {"conditions": [ready | {"message": str(start + number)}]}}
        store.patch(PODS, "default", name, patch, form="strategic", status=True)
        if number % 10 == 0:
            await asyncio.sleep(max(0.0, start + number / size.per_second - loop.time()))
    mark = {"metadata": {"annotations": {"networkservicemesh.io/last": str(start)}}}
    store.patch(PODS, "default", "app-0", mark)


# ---- those who watch


class Stopwatch:
    """What this process used so far."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu = self.cpu()

    @staticmethod
    def cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    @staticmethod
    def peak_mib() -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def read(self) -> tuple[float, float]:
        """Seconds of the clock and of CPU since the start."""
        return time.perf_counter() - self._began, self.cpu() - self._cpu


async def measured(
    role: str,
    url: str,
    size: Size,
    *,
    synced: Callable[[], Any],
    done: Callable[[], Any],
    idle: float,
) -> Result:
    watch = Stopwatch()
    await synced()
    listed, listed_cpu = watch.read()
    async with aiohttp.ClientSession() as session, session.post(f"{url}/bench") as response:
        await response.read()
    watch = Stopwatch()
    await done()
    seconds, cpu = watch.read()
    return Result(
        role=role,
        synced_seconds=listed,
        synced_cpu_seconds=listed_cpu,
        event_cpu_us=cpu / size.events * 1e6,
        events_seconds=seconds,
        idle_mib=idle,
        peak_mib=Stopwatch.peak_mib(),
    )


async def ours(role: str, url: str, size: Size, kubeconfig: Path) -> Result:
    from services.watcher import model  # noqa: PLC0415 each process loads what it uses
    from services.watcher.adapters import Informer, Kube, Resource  # noqa: PLC0415
    from services.watcher.core.intent import Intent  # noqa: PLC0415

    intent = Intent(system_namespace="nsm-system")
    ended = asyncio.Event()

    def on_change(ref: model.Ref, _: Any, pod: Any) -> None:
        if role == "core":
            intent.put(model.Pod, ref, pod)
        if pod is not None and "networkservicemesh.io/last" in pod.annotations:
            ended.set()

    idle = Stopwatch.peak_mib()
    async with Kube(str(kubeconfig)) as kube:
        informer = Informer(kube, Resource(kind=model.Pod, path="/api/v1/pods"), on_change)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(informer.run())
            result = await measured(
                role, url, size, synced=informer.synced.wait, done=ended.wait, idle=idle
            )
            task.cancel()
    assert len(informer.items) == size.pods
    return result


async def library(role: str, url: str, size: Size, kubeconfig: Path) -> Result:
    from kubernetes_asyncio import client, config, watch  # noqa: PLC0415

    pods: dict[str, Any] = {}
    version = ""
    await config.load_kube_config(str(kubeconfig))
    idle = Stopwatch.peak_mib()
    async with client.ApiClient() as connection:
        api = client.CoreV1Api(connection)

        async def synced() -> None:
            nonlocal version
            token = ""
            while True:
                query: dict[str, Any] = {"limit": 500} | ({"_continue": token} if token else {})
                page = await api.list_pod_for_all_namespaces(**query)
                pods.update((pod.metadata.uid, pod) for pod in page.items)
                version, token = page.metadata.resource_version, page.metadata._continue
                if not token:
                    return

        async def done() -> None:
            stream = watch.Watch().stream(api.list_pod_for_all_namespaces, resource_version=version)
            async with stream:
                async for event in stream:
                    pod = event["object"]
                    pods[pod.metadata.uid] = pod
                    if "networkservicemesh.io/last" in (pod.metadata.annotations or {}):
                        return

        result = await measured(role, url, size, synced=synced, done=done, idle=idle)
    assert len(pods) == size.pods
    return result


# ---- side by side


@asynccontextmanager
async def served(size: Size) -> AsyncIterator[dict[str, Any]]:
    """A server in a process of its own."""
    process = subprocess.Popen(
        [*_again("serve", size)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        yield json.loads(line)
    finally:
        process.kill()
        process.communicate()


def _again(role: str, size: Size, *more: str) -> list[str]:
    told = msgspec.json.encode(size).decode()
    return [sys.executable, "-m", "bench.watcher", "--role", role, "--size", told, *more]


async def compare(size: Size) -> list[Result]:
    results: list[Result] = []
    for role in ROLES:  # each its own server: the marks of one would end the next at once
        async with served(size) as server:
            if not results:
                print(
                    f"{size.pods} Pods of {server['bytes']} bytes, {size.events} events, ", end=""
                )
                print(f"{size.per_second} per second", flush=True)
            command = _again(role, size, "--url", server["url"])
            ran = await asyncio.to_thread(
                subprocess.run, command, capture_output=True, text=True, check=False
            )
        if ran.returncode:
            sys.exit(f"{role} failed:\n{ran.stderr}")
        results.append(msgspec.json.decode(ran.stdout.splitlines()[-1], type=Result))
        show(results[-1])
    return results


def show(each: Result) -> None:
    print(
        f"{ROLES[each.role]:34}synced {each.synced_seconds:6.2f} s ({each.synced_cpu_seconds:5.2f} s CPU)   "
        f"event {each.event_cpu_us:7.1f} us CPU, all after {each.events_seconds:5.1f} s   "
        f"peak {each.peak_mib:6.1f} MiB ({each.peak_mib - each.idle_mib:+.1f})",
        flush=True,
    )


async def watch_once(role: str, size: Size, url: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        kubeconfig = Path(folder) / "kubeconfig"
        write_kubeconfig(kubeconfig, url)
        run = library if role == "library" else ours
        return await run(role, url, size, kubeconfig)


def main() -> int:
    parser = argparse.ArgumentParser(description="informer and client library, side by side")
    parser.add_argument("--quick", action="store_true", help="a tenth of the Pods")
    parser.add_argument("--role", default="", help=argparse.SUPPRESS)
    parser.add_argument("--size", default="", help=argparse.SUPPRESS)
    parser.add_argument("--url", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    size = msgspec.json.decode(asked.size, type=Size) if asked.size else FULL
    if asked.role == "serve":
        asyncio.run(serve(size))
        return 0
    if asked.role:
        print(msgspec.json.encode(asyncio.run(watch_once(asked.role, size, asked.url))).decode())
        return 0
    found = {each.role: each for each in asyncio.run(compare(QUICK if asked.quick else FULL))}
    us, them = found["informer"], found["library"]
    print(
        f"less than the library: CPU per event {them.event_cpu_us / us.event_cpu_us:.1f}x, "
        f"CPU of the list {them.synced_cpu_seconds / us.synced_cpu_seconds:.1f}x, "
        f"peak memory {them.peak_mib / us.peak_mib:.1f}x"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
