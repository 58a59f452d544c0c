"""The cluster's DNS server: 10.96.0.10 port 53 in every node's network, UDP and TCP, answered from the API.

<service>.<namespace>.svc.cluster.local      A: its ClusterIP; headless: the addresses of its ready Pods
<a-b-c-d>.<namespace>.pod.cluster.local      A: a.b.c.d
anything else below cluster.local            NXDOMAIN
every other name                             REFUSED: a lab knows no outside

Each query is a line of the log `clusterdns`, so that one sees which names came here.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path
from typing import Any, cast

import dnslib as untyped_dnslib
import structlog

from lab.network import CLUSTER_DOMAIN, DNS_ADDRESS
from services._node import netns

PORT = 53
TTL_SECONDS = 5
_IDLE_SECONDS = 30
_CLIENT_IS_DONE = (TimeoutError, asyncio.IncompleteReadError, ConnectionError)
_LOG_BYTES = 8 << 20
dnslib: Any = untyped_dnslib

_SOA = dnslib.SOA(
    mname=f"ns.dns.{CLUSTER_DOMAIN}.",
    rname=f"hostmaster.{CLUSTER_DOMAIN}.",
    times=(1, 7200, 1800, 86400, TTL_SECONDS),
)

# The addresses of a Service, (name, namespace) -> addresses; None: there is no such Service.
Services = Callable[[str, str], Sequence[str] | None]

log = structlog.get_logger()


def answer(query: bytes, services: Services, *, datagram: bool) -> bytes | None:
    """The reply to a query as bytes on the wire; None for what is no query."""
    try:
        request = dnslib.DNSRecord.parse(query)
    except (dnslib.DNSError, ValueError, struct.error, IndexError):
        return None
    if request.header.qr or not request.questions:
        return None
    reply = request.reply(aa=1, ra=0)
    question = request.questions[0]
    name = str(question.qname).rstrip(".").lower()
    addresses = _addresses(name, services)
    if not _is_ours(name):
        reply.header.aa = 0
        reply.header.rcode = dnslib.RCODE.REFUSED
        return bytes(reply.pack())
    if addresses is None:
        reply.header.rcode = dnslib.RCODE.NXDOMAIN
    elif question.qtype in (dnslib.QTYPE.A, dnslib.QTYPE.ANY):
        for address in addresses:
            reply.add_answer(
                dnslib.RR(question.qname, dnslib.QTYPE.A, rdata=dnslib.A(address), ttl=TTL_SECONDS)
            )
    if not reply.rr:
        reply.add_auth(dnslib.RR(CLUSTER_DOMAIN, dnslib.QTYPE.SOA, rdata=_SOA, ttl=TTL_SECONDS))
    packed = bytes(reply.pack())
    return _truncated(reply) if datagram and len(packed) > _room(request) else packed


def _is_ours(name: str) -> bool:
    return name == CLUSTER_DOMAIN or name.endswith("." + CLUSTER_DOMAIN)


def _addresses(name: str, services: Services) -> Sequence[str] | None:
    """Addresses of a name below the cluster domain; None: the name does not exist."""
    labels = name.removesuffix(CLUSTER_DOMAIN).rstrip(".").split(".")
    match labels:
        case [""] | ["svc"] | ["pod"]:
            return ()
        case [service, namespace, "svc"]:
            return services(service, namespace)
        case [dashed, _, "pod"]:
            try:
                return (str(IPv4Address(dashed.replace("-", "."))),)
            except AddressValueError:
                return None
    return None


def _room(request: Any) -> int:
    """How many bytes a datagram may have: EDNS says more than 512."""
    sizes = [int(rr.rclass) for rr in request.ar if rr.rtype == dnslib.QTYPE.OPT]
    return max(512, min(sizes[0], 1232)) if sizes else 512


def _truncated(reply: Any) -> bytes:
    reply.rr.clear()
    reply.auth.clear()
    reply.header.tc = 1
    return bytes(reply.pack())


def told(query: bytes) -> str:
    """A query in words: `A kubernetes.default.svc.cluster.local.`"""
    question = dnslib.DNSRecord.parse(query).questions[0]
    return f"{dnslib.QTYPE.get(question.qtype)} {str(question.qname).lower()}"


class QueryLog:
    """A line per query. A file that has grown large is begun anew: a benchmark must not fill a disk."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("w", buffering=1)
        self._room = _LOG_BYTES

    def close(self) -> None:
        self._file.close()

    def add(self, query: bytes, peer: str, transport: str) -> None:
        now = datetime.now(UTC).strftime("%H:%M:%S.%f")
        line = f"{now} {told(query)} from {peer} {transport}\n"
        self._room -= len(line)
        if self._room < 0:
            self._file.seek(0)
            self._file.truncate()
            self._room = _LOG_BYTES
        self._file.write(line)


class ClusterDns:
    """Serves on sockets opened inside the nodes' namespaces; the process itself stays outside."""

    def __init__(self, services: Services, queries: QueryLog) -> None:
        self._services = services
        self._queries = queries

    async def serve(self, node: str, path: Path) -> None:
        """Start answering on a node; ends with the loop."""
        loop = asyncio.get_running_loop()
        datagrams, stream = await asyncio.to_thread(_open_sockets, path)
        await loop.create_datagram_endpoint(
            lambda: _Datagrams(self._services, self._queries), sock=datagrams
        )
        await asyncio.start_server(self._talk, sock=stream)
        log.info("cluster DNS serves", node=node, address=DNS_ADDRESS)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")
        with contextlib.closing(writer), contextlib.suppress(*_CLIENT_IS_DONE):
            while True:
                async with asyncio.timeout(_IDLE_SECONDS):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    query = await reader.readexactly(length)
                reply = answer(query, self._services, datagram=False)
                if reply is None:
                    return
                self._queries.add(query, peer[0], "tcp")
                writer.write(struct.pack("!H", len(reply)) + reply)
                await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, services: Services, queries: QueryLog) -> None:
        self._services = services
        self._queries = queries
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own datagram transport is no subclass of the class meant for it before Python 3.12.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        reply = answer(data, self._services, datagram=True)
        if reply is not None and self._transport is not None:
            self._queries.add(data, addr[0], "udp")
            self._transport.sendto(reply, addr)


def _open_sockets(path: Path) -> tuple[socket.socket, socket.socket]:
    opened = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        sock = netns.open_socket(path, socket.AF_INET, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setblocking(False)
        sock.bind((DNS_ADDRESS, PORT))
        opened.append(sock)
    return opened[0], opened[1]
