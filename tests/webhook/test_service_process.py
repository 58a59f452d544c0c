"""The webhook as a process: ready when it is trusted, without any bus; ends in order; no key in its log."""

import asyncio
import base64
import os
import signal
import sys

import pytest

from schemas.annotation import ANNOTATION
from services.webhook.service.material import SECRET
from services.webhook.service.trust import CONFIGURATION_PATH
from tests.runtime.helpers import ready
from tests.webhook.world import SECRETS, Api, a_configuration, an_empty_secret

POD = {"metadata": {"name": "p", "annotations": {ANNOTATION: "vpn"}}, "spec": {}}


async def a_process(**environ: str) -> asyncio.subprocess.Process:
    env = {**os.environ, "NSM_LOG_FORMAT": "json", "NSM_NATS_URL": "nats://127.0.0.1:1", **environ}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.webhook", env=env, stderr=asyncio.subprocess.PIPE
    )


async def test_the_process_answers_and_ends_in_order(tmp_path, unused_tcp_port_factory):
    health, port = unused_tcp_port_factory(), unused_tcp_port_factory()
    async with Api().served() as api:
        api.put(CONFIGURATION_PATH, a_configuration())
        api.put(f"{SECRETS}/{SECRET}", an_empty_secret())
        process = await a_process(
            WEBHOOK_KUBECONFIG=api.kubeconfig(tmp_path),
            WEBHOOK_ADDRESS=f"127.0.0.1:{port}",
            NSM_HEALTH_ADDRESS=f"127.0.0.1:{health}",
        )
        await ready(health)
        assert "patch" in await api.admit(port, POD)
        process.send_signal(signal.SIGTERM)
        _, log = await process.communicate()
        assert process.returncode == 0
        assert b"pod reviewed" in log
        assert b"PRIVATE" not in log
        assert base64.b64encode(b"-----BEGIN") not in log


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"WEBHOOK_KUBECONFIG": "/nowhere"}, b"name one that exists"),
        ({"NSM_LOG_LEVEL": "loud"}, b"NSM_LOG_LEVEL"),
    ],
)
async def test_what_is_missing_is_named_and_ends_the_process(environ, said):
    process = await a_process(**environ)
    _, log = await process.communicate()
    assert process.returncode == 1
    assert said in log
