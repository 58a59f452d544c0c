"""What the bus alone takes between a Pod and its connection: request, grant and status, one after the other.

Each is sent when the one before was committed and heard. One process plays all roles, so nobody waits for another's
turn on the processor.
"""

import asyncio
import tempfile
import time
from pathlib import Path

from nats.aio.msg import Msg

from bench.servers import servers
from schemas import subjects
from schemas.codec import decode
from schemas.grant import Connection, End
from schemas.intent import PodRef, Request
from schemas.state import EndStatus, Status
from services._runtime.bus import Bus
from services._runtime.client import Client

_ROUNDS = 50


def bus_hops() -> list[float]:
    """Seconds of each round."""
    with (
        tempfile.TemporaryDirectory(prefix="nsm-bench-") as folder,
        servers(Path(folder) / "nats", 1) as url,
    ):
        return asyncio.run(_rounds(url))


async def _rounds(url: str) -> list[float]:
    bus = await Bus.connect(url, name="watcher")
    await bus.ensure_streams()
    listener = Client()
    await listener.connect(url)
    heard: asyncio.Queue[type] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        _, body = decode(message.subject, message.data)
        heard.put_nowait(type(body))

    await listener.subscribe(f"{subjects.LOG_ROOT}.>", cb=hear)
    await listener.flush()
    taken = []
    for number in range(_ROUNDS):
        began = time.perf_counter()
        for message in _story(number):
            async with asyncio.TaskGroup() as group:
                group.create_task(bus.publish(message))
                while await heard.get() is not type(message):
                    pass
        taken.append(time.perf_counter() - began)
    await listener.close()
    await bus.close()
    return taken


def _story(number: int) -> tuple[Request, Connection, Status]:
    pod = PodRef(namespace="bench", name=f"app-{number}", uid=f"uid-{number}", node="node1")
    gateway = PodRef(namespace="bench", name="gateway", uid="uid-gateway", node="node1")
    grant = Connection(
        node="node1",
        revision=1,
        network_service="vpn",
        network_service_namespace="bench",
        endpoint="vpn",
        endpoint_namespace="bench",
        client=End(pod=pod, interface="nsm-1", mac="02:00:00:00:00:01", addresses=("10.9.0.2/32",)),
        server=End(pod=gateway, interface="nse-1", mac="02:00:00:00:00:02"),
    )
    end = EndStatus(uid=pod.uid, state="ready", applied=grant)
    return (
        Request(pod=pod, interface="nsm-1", network_service="vpn"),
        grant,
        Status(
            node="node1",
            namespace="bench",
            pod=pod.name,
            interface="nsm-1",
            revision=1,
            client=end,
            server=end,
        ),
    )
