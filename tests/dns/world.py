"""A bus, a CNI's results, servers and a dns: what the service's tests play on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from dnslib import QTYPE, RCODE, RR, A, DNSRecord
from prometheus_client import CollectorRegistry

from lab.nats import NatsServer
from schemas.codec import Tombstone
from schemas.grant import Connection, End
from schemas.intent import Dns as DnsSpec
from schemas.intent import PodRef
from schemas.state import Resolver
from schemas.subjects import ResolverKey
from services._runtime.bus import Bus
from services.dns.service import Dns
from services.dns.settings import Settings
from tests.dns.networks import DNS_V4
from tests.node.world import NodeWorld

NODE = "node1"
SERVER = "172.16.1.1"


def zone(records: dict[str, str]) -> Callable[[bytes], bytes]:
    """A server that knows these names, and says of others that they do not exist. TCP too."""

    def reply(data: bytes) -> bytes:
        streamed = data[:2] == (len(data) - 2).to_bytes(2, "big") and len(data) > 12
        query = DNSRecord.parse(data[2:] if streamed else data)
        name = str(query.q.qname).rstrip(".")
        answer = query.reply()
        if (address := records.get(name)) is None:
            answer.header.rcode = RCODE.NXDOMAIN
        elif query.q.qtype == QTYPE.A:
            answer.add_answer(RR(name, QTYPE.A, rdata=A(address), ttl=5))
        packed = bytes(answer.pack())
        return len(packed).to_bytes(2, "big") + packed if streamed else packed

    return reply


def question(name: str) -> bytes:
    return bytes(DNSRecord.question(name).pack())


def address_in(answer: bytes) -> str:
    """The address that an answer gives; else its code, `NXDOMAIN`."""
    if not answer:
        return "nothing"
    parsed = DNSRecord.parse(answer)
    found = [str(rr.rdata) for rr in parsed.rr if rr.rtype == QTYPE.A]
    return found[0] if found else str(RCODE[parsed.header.rcode])


def names_asked(asked: list[tuple[str, bytes]]) -> list[str]:
    return [str(DNSRecord.parse(data).q.qname).rstrip(".") for _, data in asked]


def a_grant(
    *, domains: tuple[str, ...] = ("corp.example",), dns: bool = True, **fields: Any
) -> Connection:
    """The client's connection to a server that provides DNS."""
    base = Connection(
        node=NODE,
        revision=1,
        network_service="vpn",
        network_service_namespace="default",
        endpoint="vpn-endpoint",
        endpoint_namespace="default",
        client=End(
            pod=PodRef(namespace="default", name="client", uid="uid-client", node=NODE),
            interface="nsm0",
            mac="02:00:00:00:01:01",
            addresses=("172.16.1.2/32",),
        ),
        server=End(
            pod=PodRef(namespace="default", name="server", uid="uid-server", node=NODE),
            interface="nse-1",
            mac="02:00:00:00:02:01",
            addresses=(f"{SERVER}/32",),
        ),
        dns=DnsSpec(servers=(SERVER,), domains=domains) if dns else None,
    )
    return msgspec.structs.replace(base, **fields)


class World(NodeWorld):
    """The test plays the servers, too."""

    def __init__(self, directory: Path, nats: NatsServer, bus: Bus) -> None:
        super().__init__(directory, nats, bus)
        self.settings = Settings(node=NODE, cni_results=str(self.results), cluster_servers=DNS_V4)

    async def resolver_is(self, state: str, reason: str = "", *, pod: str = "client") -> Resolver:
        def holds() -> Resolver | None:
            found = self.state.items.get(ResolverKey(NODE, "default", pod))
            matches = isinstance(found, Resolver) and (found.state, found.reason) == (state, reason)
            return found if matches else None

        found: Resolver = await self.until(holds)
        return found

    async def buried(self, pod: str = "client") -> Tombstone:
        key = ResolverKey(NODE, "default", pod)
        await self.until(lambda: self.told and key not in self.state.items)
        said = next(m for k, m in reversed(self.told) if k == key)
        assert isinstance(said, Tombstone)
        return said

    @asynccontextmanager
    async def dns(self, *, sweep_seconds: float = 0.3) -> AsyncIterator[Dns]:
        """A dns until the end of the block."""
        bus = await Bus.connect(self.nats.url, name=f"dns-{NODE}")
        dns = Dns(bus, self.settings, registry=CollectorRegistry(), sweep_seconds=sweep_seconds)
        try:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(dns.run())
                try:
                    yield dns
                finally:
                    task.cancel()
        finally:
            await bus.close()
