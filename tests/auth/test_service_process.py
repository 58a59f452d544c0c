"""Auth as a process: starts, is ready, answers, ends in order; and ends itself when it hangs."""

import asyncio
import os
import signal
import sys
import threading
import time

import pytest

from services.auth.service.watching import Watchdog
from tests.auth.world import Denials, World
from tests.runtime.helpers import ready


async def a_process(world: World, port: int) -> asyncio.subprocess.Process:
    env = {
        **os.environ,
        "NSM_NATS_URL": world.server.url,
        "NSM_HEALTH_ADDRESS": f"127.0.0.1:{port}",
        "AUTH_KUBECONFIG": world.api.kubeconfig(world.directory),
        "AUTH_KEYS_FILE": str(world.server.directory / "keys.json"),
    }
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.auth", env=env, stderr=asyncio.subprocess.PIPE
    )


async def test_the_process_answers_and_ends_in_order(tmp_path, unused_tcp_port):
    world = World(tmp_path)
    async with world.api.served():
        with world.server:
            process = await a_process(world, unused_tcp_port)
            await ready(unused_tcp_port)
            token = world.api.token()
            assert (await world.login("plumber", token=token)).is_connected
            with pytest.raises(Denials):
                await world.login("plumber", token="bad")
            process.send_signal(signal.SIGTERM)
            _, log = await process.communicate()
            assert process.returncode == 0
            assert b"login allowed" in log
            assert b"TokenInvalid" in log
            assert token.encode() not in log  # nor any seed
            assert world.server.keys.issuer.encode() not in log
            await world.close()


def test_who_stops_beating_is_ended_without_an_event_loop():
    ended = threading.Event()
    with Watchdog(seconds=0.3, end=ended.set) as dog:
        for _ in range(10):
            dog.beat()
            time.sleep(0.05)  # beating is what is tested
        assert not ended.is_set()
        assert ended.wait(5)


@pytest.mark.parametrize("missing", ["AUTH_KEYS_FILE"])
async def test_a_missing_setting_is_named(missing):
    env = {k: v for k, v in os.environ.items() if k != missing}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.auth", env=env, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 1
    assert missing.encode() in said
