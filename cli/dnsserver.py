"""`nsm dns-server`: a small authoritative DNS server, to be the command of an endpoint Pod that provides DNS.

It answers from the records it was given, A and AAAA by their addresses; another name of its zones does not
exist, and every other name is refused. With --log it prints a line for each query that reached it.
"""

import asyncio
import contextlib
import functools
import ipaddress
import signal
import socket
import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import dnslib as untyped_dnslib
import msgspec
import typer

from cli import dnswire
from cli.problems import Problem

dnslib: Any = untyped_dnslib

PORT = 53
TTL_SECONDS = 5
_IDLE_SECONDS = 30
_CLIENT_IS_DONE = (TimeoutError, asyncio.IncompleteReadError, ConnectionError)
_PACKET = 65535
_UDP_SIZE = 1232
_V4_INFO, _V6_INFO = 8, 50  # IP_PKTINFO, IPV6_PKTINFO: Python 3.11 has no name for the first
_V6_RECEIVE_INFO = 49


def _hint(refused: OSError) -> str:
    if isinstance(refused, PermissionError):
        return "; low ports are for root: runAsUser: 0, or capability NET_BIND_SERVICE"
    return ""


class Zone(msgspec.Struct, frozen=True, kw_only=True):
    """What the server knows. Names in lower case, without the last dot: the root is empty."""

    zones: tuple[str, ...]
    records: Mapping[str, tuple[str, ...]]


def dns_server(  # noqa: PLR0917 options of a command
    zone: Annotated[
        list[str], typer.Option("--zone", help="A domain to answer for, `.` for all; repeatable.")
    ],
    record: Annotated[
        list[str] | None,
        typer.Option(
            "--record", metavar="NAME=ADDRESS", help="In the zone, unless it ends in a dot."
        ),
    ] = None,
    listen: Annotated[
        list[str] | None, typer.Option("--listen", help="Addresses; default: all.")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535)] = PORT,
    delay: Annotated[float, typer.Option("--delay", help="Milliseconds before each answer.")] = 0,
    log: Annotated[bool, typer.Option("--log", help="Print each query.")] = False,
) -> None:
    """Serve records of a zone over UDP and TCP until it is ended."""
    known = read_zone(zone, record or [])
    addresses = listen or ["0.0.0.0", "::"]  # noqa: S104 the addresses of an endpoint come and go
    server = _Server(known, delay_seconds=delay / 1000, is_logging=log)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve(addresses, port))


def read_zone(zones: Sequence[str], records: Sequence[str]) -> Zone:
    """Zones and records as typed. Raises Problem."""
    for zone in zones:
        _check_name(zone, f"--zone {zone!r}")
    domains = tuple(zone.rstrip(".").lower() for zone in zones)
    found: dict[str, tuple[str, ...]] = {}
    for text in records:
        name, equals, address = text.rpartition("=")
        try:
            address = str(ipaddress.ip_address(address))
        except ValueError:
            equals = ""
        if not equals or not name:
            raise Problem(f"--record {text!r}: write NAME=ADDRESS", exit_code=2)
        full = name.lower() if name.endswith(".") else f"{name.lower()}.{domains[0]}"
        full = full.removeprefix("@.").rstrip(".")
        _check_name(full or ".", f"--record {text!r}")
        found[full] = (*found.get(full, ()), address)
    return Zone(zones=domains, records=found)


def _check_name(name: str, option: str) -> None:
    if not name or not dnswire.is_name(name):
        raise Problem(f"{option}: {dnswire.NAME_FORM}", exit_code=2)


def answer(query: bytes, zone: Zone, *, datagram: bool) -> tuple[bytes, str] | None:
    """The reply on the wire and the query in words; None for what is no query."""
    try:
        request = dnslib.DNSRecord.parse(query)
    except (dnslib.DNSError, ValueError, struct.error, IndexError):
        return None
    if request.header.qr or not request.questions:
        return None
    question = request.questions[0]
    name = str(question.qname).rstrip(".").lower()
    reply = request.reply(aa=1, ra=0)
    ours = [z for z in zone.zones if not z or name == z or name.endswith(f".{z}")]
    if not ours:
        reply.header.aa, reply.header.rcode = 0, dnslib.RCODE.REFUSED
    else:
        _fill(reply, question, zone, name)
        if not reply.rr:
            of = f"{ours[0]}."
            reply.add_auth(dnslib.RR(of, dnslib.QTYPE.SOA, rdata=_soa(of), ttl=TTL_SECONDS))
    kind = dnslib.QTYPE.get(question.qtype)
    said = f"{kind} {name}. {dnslib.RCODE.get(reply.header.rcode)}"
    packed = bytes(reply.pack())
    if datagram and len(packed) > _room(request):
        packed = bytes(reply.truncate().pack())
    return packed, said


def _fill(reply: Any, question: Any, zone: Zone, name: str) -> None:
    exists = any(known == name or known.endswith(f".{name}") for known in zone.records)
    if not exists and name not in zone.zones:
        reply.header.rcode = dnslib.RCODE.NXDOMAIN
        return
    for address in zone.records.get(name, ()):
        kind = "AAAA" if ":" in address else "A"
        code = getattr(dnslib.QTYPE, kind)
        if question.qtype in (code, dnslib.QTYPE.ANY):
            data = getattr(dnslib, kind)(address)
            reply.add_answer(dnslib.RR(question.qname, code, rdata=data, ttl=TTL_SECONDS))


def _soa(zone: str) -> Any:
    times = (1, 7200, 1800, 86400, TTL_SECONDS)
    below = zone.lstrip(".")
    return dnslib.SOA(mname=f"ns.{below}", rname=f"hostmaster.{below}", times=times)


def _room(request: Any) -> int:
    sizes = [int(rr.rclass) for rr in request.ar if rr.rtype == dnslib.QTYPE.OPT]
    return max(512, min(sizes[0], _UDP_SIZE)) if sizes else 512


class _Server:
    """The zone on sockets."""

    def __init__(self, zone: Zone, *, delay_seconds: float, is_logging: bool) -> None:
        self._zone = zone
        self._delay = delay_seconds
        self._is_logging = is_logging

    async def serve(self, addresses: Sequence[str], port: int) -> None:
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        for address in addresses:
            try:
                datagrams, stream = _open(address, port)
            except OSError as exc:
                if address == "::":  # this machine has no IPv6
                    continue
                raise Problem(
                    f"--listen {address} port {port}: {exc.strerror}{_hint(exc)}"
                ) from exc
            loop.add_reader(datagrams, self._on_datagrams, datagrams)
            await asyncio.start_server(self._talk, sock=stream)
            zones = ", ".join(zone or "." for zone in self._zone.zones)
            print(f"serving {zones} on {address} port {port}", flush=True)
        await ended.wait()

    def _on_datagrams(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while True:
                # The address it came to is the one to answer from: there may be several.
                data, ancillary, _, peer = sock.recvmsg(_PACKET, 256)
                found = answer(data, self._zone, datagram=True)
                if found is None:
                    continue
                self._print(found[1], peer[0], "udp")
                send = functools.partial(_send, sock, found[0], _origin(ancillary), peer)
                if self._delay:
                    asyncio.get_running_loop().call_later(self._delay, send)
                else:
                    send()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = writer.get_extra_info("peername")[0]
        with contextlib.closing(writer), contextlib.suppress(*_CLIENT_IS_DONE):
            while True:
                async with asyncio.timeout(_IDLE_SECONDS):
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    query = await reader.readexactly(length)
                found = answer(query, self._zone, datagram=False)
                if found is None:
                    return
                self._print(found[1], peer, "tcp")
                await asyncio.sleep(self._delay)
                writer.write(struct.pack("!H", len(found[0])) + found[0])
                await writer.drain()

    def _print(self, said: str, peer: str, transport: str) -> None:
        if self._is_logging:
            now = datetime.now(UTC).strftime("%H:%M:%S.%f")
            print(f"{now} {said} from {peer} {transport}", flush=True)


def _open(address: str, port: int) -> tuple[socket.socket, socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = []
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        sock = socket.socket(family, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((address, port))
        opened.append(sock)
    if family == socket.AF_INET6:
        opened[0].setsockopt(socket.IPPROTO_IPV6, _V6_RECEIVE_INFO, 1)
    else:
        opened[0].setsockopt(socket.IPPROTO_IP, _V4_INFO, 1)
    return opened[0], opened[1]


def _origin(ancillary: Sequence[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """What makes the reply leave from where the query came to; by which interface is routing's matter."""
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _V4_INFO):
            return [(level, kind, struct.pack("=i4s4s", 0, data[4:8], bytes(4)))]
        if (level, kind) == (socket.IPPROTO_IPV6, _V6_INFO):
            return [(level, kind, data[:16] + struct.pack("=I", 0))]
    return []


def _send(
    sock: socket.socket, data: bytes, origin: list[tuple[int, int, bytes]], peer: Any
) -> None:
    with contextlib.suppress(OSError):  # who asked is gone, or its network is full: it asks again
        sock.sendmsg([data], origin, 0, peer)
