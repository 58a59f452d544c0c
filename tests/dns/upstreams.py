"""Real DNS servers with a script, and real clients: sockets on loopback, packets by dnslib."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any, NamedTuple

import dnslib as untyped_dnslib

from schemas.state import Upstream
from services.dns.model import Profile

dnslib: Any = untyped_dnslib

Reply = bytes | None


class Seen(NamedTuple):
    at: float
    name: str
    kind: str
    transport: str
    raw: bytes
    client: Any


Script = Callable[
    [Any, str], Reply | tuple[float, Reply]
]  # (query, transport) -> reply, or (delay, reply)


class Server:
    """Answers on one address, UDP and TCP, by its script; remembers what it saw."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Seen] = []
        self.came = asyncio.Event()
        self.send_datagram: Callable[[bytes, Any], None]

    @property
    def names(self) -> list[str]:
        return [seen.name for seen in self.seen]

    async def seen_one(self) -> Seen:
        async with asyncio.timeout(20):
            while not self.seen:
                await self.came.wait()
        return self.seen[0]

    def _act(
        self, packet: bytes, transport: str, send: Callable[[bytes], None], client: Any
    ) -> None:
        try:
            query = dnslib.DNSRecord.parse(packet)
        except (
            dnslib.DNSError,
            UnicodeDecodeError,
        ):  # asked on as it came, and more than dnslib reads
            return
        loop = asyncio.get_running_loop()
        self.seen.append(
            Seen(
                loop.time(),
                str(query.q.qname),
                dnslib.QTYPE[query.q.qtype],
                transport,
                packet,
                client,
            )
        )
        self.came.set()
        found = self.script(query, transport)
        delay, reply = found if isinstance(found, tuple) else (0.0, found)
        if reply is not None:
            loop.call_later(delay, send, reply)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: Server) -> None:
        self._server = server

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._server.send_datagram = transport.sendto

    def datagram_received(self, data: bytes, addr: Any) -> None:
        def send(reply: bytes) -> None:
            if not self._transport.is_closing():
                self._transport.sendto(reply, addr)

        self._server._act(data, "udp", send, addr)


class _Streams(asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        self._server = server
        self._read = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read += data
        while len(self._read) >= 2 + int.from_bytes(self._read[:2], "big"):
            end = 2 + int.from_bytes(self._read[:2], "big")
            message, self._read = self._read[2:end], self._read[end:]
            self._server._act(message, "tcp", self._send, None)

    def _send(self, reply: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(len(reply).to_bytes(2, "big") + reply)


@contextlib.asynccontextmanager
async def serving(address: str, port: int, script: Script) -> AsyncIterator[Server]:
    loop, server = asyncio.get_running_loop(), Server(script)
    datagrams, _ = await loop.create_datagram_endpoint(
        lambda: _Datagrams(server), local_addr=(address, port)
    )
    streams = await loop.create_server(lambda: _Streams(server), address, port)
    try:
        yield server
    finally:
        datagrams.close()
        streams.close()
        await asyncio.sleep(0)


def a_free_port() -> int:
    """One that UDP and TCP can have on any loopback address."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as first,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as second,
        ):
            first.bind(("0.0.0.0", 0))
            try:
                second.bind(first.getsockname())
            except OSError:
                continue
            return int(first.getsockname()[1])


# --- scripts -----------------------------------------------------------------------------------------------


def says(*records: str, rcode: str = "NOERROR", after: float = 0.0, aa: int = 1) -> Script:
    """The same records for every question; `@` is the name asked."""

    def script(query: Any, _: str) -> tuple[float, bytes]:
        reply = query.reply(ra=1, aa=aa)
        reply.header.rcode = getattr(dnslib.RCODE, rcode)
        for line in records:
            reply.add_answer(*dnslib.RR.fromZone(line.replace("@", str(query.q.qname))))
        return after, bytes(reply.pack())

    return script


def silent(_query: Any, _transport: str) -> None:
    return None


# --- what is asked and answered ----------------------------------------------------------------------------


def cluster(*servers: str, search_domains: tuple[str, ...] = ()) -> Upstream:
    return Upstream(name="cluster", servers=servers, search_domains=search_domains)


def service(name: str, *servers: str, domains: tuple[str, ...] = (), **more: Any) -> Upstream:
    return Upstream(name=name, servers=servers, domains=domains, interface="nsm-" + name, **more)


def a_profile(*upstreams: Upstream) -> Profile:
    return Profile(upstreams=upstreams)


def a_query(
    name: str, kind: str = "A", *, edns: int = 0, options: Any = (), number: int = 0
) -> bytes:
    record = dnslib.DNSRecord.question(name, kind)
    if number:
        record.header.id = number
    if edns:
        record.add_ar(dnslib.EDNS0(udp_len=edns, opts=list(options)))
    return bytes(record.pack())


def parsed(packet: bytes) -> Any:
    return dnslib.DNSRecord.parse(packet)


def outcome(packet: bytes) -> tuple[str, list[str]]:
    """Code and data of the answers."""
    reply = parsed(packet)
    return dnslib.RCODE[reply.header.rcode], [str(rr.rdata) for rr in reply.rr]


async def ask(port: int, packet: bytes, *, host: str = "127.0.0.1", seconds: float = 6.0) -> bytes:
    """One query over UDP."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((host, port))
        await loop.sock_sendall(sock, packet)
        async with asyncio.timeout(seconds):
            return await loop.sock_recv(sock, 65535)


async def ask_tcp(port: int, *packets: bytes, host: str = "127.0.0.1") -> list[bytes]:
    """Queries on one connection, sent at once; the replies as they come."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(b"".join(len(p).to_bytes(2, "big") + p for p in packets))
        replies = []
        async with asyncio.timeout(6):
            for _ in packets:
                length = int.from_bytes(await reader.readexactly(2), "big")
                replies.append(await reader.readexactly(length))
        return replies
    finally:
        writer.close()
        await writer.wait_closed()
