"""`python -m services.watcher`, as Kubernetes and the lab run it."""

import asyncio
import os
import signal
import sys
from contextlib import asynccontextmanager

from lab.api.kinds import PODS
from schemas.subjects import LeaderKey, RequestKey
from services.watcher.service import resources
from tests.watcher.builders import a_pod


@asynccontextmanager
async def process(tmp_path, **environment):
    with (tmp_path / "watcher.log").open("wb") as output:
        started = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.watcher"),
            env={**os.environ, "NSM_LOG_FORMAT": "json", **environment},
            stdout=output,
            stderr=output,
        )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()


async def test_the_process_publishes_and_ends_in_order(cluster, nats, reader, tmp_path):
    cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
    key = RequestKey("default", "client", "nsm-1")
    settings = {"NSM_NATS_URL": nats.url, "WATCHER_KUBECONFIG": str(cluster.kubeconfig)}
    async with process(tmp_path, **settings) as started:
        await reader.until(lambda: reader.get(key) is not None)
        started.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            assert await started.wait() == 0
    assert reader.get(key) is not None


async def test_without_a_cluster_the_process_says_what_to_set(nats, tmp_path):
    settings = {"NSM_NATS_URL": nats.url, "WATCHER_KUBECONFIG": str(tmp_path / "none")}
    async with process(tmp_path, **settings) as started, asyncio.timeout(20):
        assert await started.wait() == 1
    text = (tmp_path / "watcher.log").read_text()
    assert "name one that exists" in text


def leading(reader, holder):
    found = reader.get(LeaderKey("watcher"))
    return found is not None and found.holder == holder and found.complete


async def test_a_killed_leader_is_followed_once(cluster, nats, reader, tmp_path):
    settings = {"NSM_NATS_URL": nats.url, "WATCHER_KUBECONFIG": str(cluster.kubeconfig)}
    key = RequestKey("default", "client", "nsm-1")
    kinds = len(resources("nsm-system"))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    async with process(tmp_path / "one", NSM_HOLDER="one", **settings) as leader:
        await reader.until(lambda: leading(reader, "one"))
        async with process(tmp_path / "two", NSM_HOLDER="two", **settings):
            async with asyncio.timeout(20):
                while len(cluster.api._watches) < 2 * kinds:  # its caches are warm
                    await asyncio.sleep(0.02)
            leader.kill()
            cluster.store.create(PODS, a_pod(asks="svc/nsm-1"))
            await reader.until(lambda: reader.get(key) is not None and leading(reader, "two"))
    holders = [told.holder for what, told in reader.changes if isinstance(what, LeaderKey)]
    assert holders == sorted(holders)  # of "one" and "two": never back
