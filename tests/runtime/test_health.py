"""Health ports are open to the cluster: what a service tells of its Pods is not."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from services._node import netns
from services._runtime.health import Health
from tests.node.sandboxes import Pod, ensure_namespaces_allowed

NODE, STRANGER = "192.0.2.1", "192.0.2.2"


@pytest.fixture
def in_network(tmp_path: Path) -> Any:
    """Runs a function in a network that has both addresses."""
    ensure_namespaces_allowed(tmp_path)
    pod = Pod(tmp_path, "node", NODE)
    pod.add_address(STRANGER)
    yield lambda action: netns.in_netns(pod.netns, action)
    pod.end()


async def asked(path: str, *, at: str, source: str) -> tuple[int, Any]:
    async def explain(_question: Mapping[str, str]) -> dict[str, str]:
        return {"secret": "10.0.0.1"}

    health = Health(CollectorRegistry())
    health.answer("/explain", explain)
    await health.start(f"{at}:0")
    try:
        connector = aiohttp.TCPConnector(local_addr=(source, 0))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"http://{at}:{health.port}{path}") as answer,
        ):
            return answer.status, await answer.text()
    finally:
        await health.stop()


@pytest.mark.parametrize(
    ("path", "at", "source", "status"),
    [
        ("/explain", "127.0.0.1", "127.0.0.1", 200),
        ("/explain", NODE, NODE, 200),
        ("/explain", NODE, STRANGER, 403),
        ("/livez", NODE, STRANGER, 200),
        ("/metrics", NODE, STRANGER, 200),
        ("/nothing", NODE, STRANGER, 404),
    ],
)
def test_only_its_own_machine_may_ask_a_service_about_its_pods(
    path: str,
    at: str,
    source: str,
    status: int,
    in_network: Callable[[Callable[[], Any]], Any],
) -> None:
    found, body = in_network(lambda: asyncio.run(asked(path, at=at, source=source)))

    assert found == status
    assert ("secret" in body) == (path == "/explain" and status == 200)
    assert ("kubectl exec" in body) == (status == 403)
