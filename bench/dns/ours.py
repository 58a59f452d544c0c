"""Our resolver in a process of its own: the real answerers, one per Pod, but with all sockets on loopback."""

import asyncio
import socket
import sys

from prometheus_client import CollectorRegistry

from schemas.state import Upstream
from services._runtime import logs
from services.dns.model import Limits, Profile
from services.dns.service.answering import Answerer, Engine
from services.dns.service.process import freeze_garbage, raise_file_limit


def _open(family: int, kind: int, *, upstream: str) -> socket.socket:  # noqa: ARG001
    return socket.socket(family, kind)


async def serve(servers: list[str], port: int, pods: int, cache: int) -> None:
    """The first server is the cluster's, each other one a network service's for every name. For ever."""
    raise_file_limit()
    engine = Engine(CollectorRegistry(), limits=Limits(cached=cache))
    services = [
        Upstream(name=f"s{n}", servers=(server,), interface=f"nsm-{n}")
        for n, server in enumerate(servers[1:])
    ]
    profile = Profile(upstreams=(Upstream(name="cluster", servers=(servers[0],)), *services))
    ports = []
    for _ in range(pods):
        answerer = Answerer(_open, engine=engine, profile=profile, upstream_port=port)
        ports.append(answerer.open())
    freeze_garbage()
    print(*ports, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    logs.configure("bench", form="console", level="warning")
    asyncio.run(serve(sys.argv[1].split(","), *(int(text) for text in sys.argv[2:5])))
