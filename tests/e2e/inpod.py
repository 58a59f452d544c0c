"""What the stories of links do inside a Pod: `python inpod.py VERB …`. Needs nothing but Python, and says JSON.

Times are those of the machine's monotonic clock, which every process of a lab shares.
"""

import contextlib
import ipaddress
import json
import os
import re
import signal
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

PORT = 7000
TUNNEL_PORT = 14789
_BULK = 300_000
_PROBE = 3  # IP_PMTUDISC_PROBE: never fragment, whatever is believed of the path
_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_REPAIRED_SECONDS = 15.0


def serve() -> None:
    """Echo TCP, and answer datagrams with our name, on every address."""

    class Echo(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while data := self.request.recv(1 << 16):
                self.request.sendall(data)

    class Server(socketserver.ThreadingTCPServer):
        address_family = socket.AF_INET6
        daemon_threads = True
        allow_reuse_address = True

    threading.Thread(target=Server(("::", PORT), Echo).serve_forever, daemon=True).start()
    name = os.environ["HOSTNAME"].encode()
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asked:
        asked.bind(("::", PORT))
        while True:
            try:
                _, who = asked.recvfrom(2048)
                asked.sendto(name, who)
            except OSError:
                continue  # whoever asked cannot be reached any more


def meet(ends: list[dict[str, Any]]) -> None:
    """What each end can do: first ping, a packet of exactly its MTU, one more byte, TCP with full segments."""
    say([_met(end) for end in ends])


def _met(end: dict[str, Any]) -> dict[str, Any]:
    own, peer, mtu = end["own"], end["peer"], end["mtu"]
    headers = 28 if ":" not in peer else 48
    return {
        **end,
        "first_ping": _ping(own, peer, 8),
        "full_ping": _ping(own, peer, mtu - headers),
        "longer_ping": _ping(own, peer, mtu - headers + 1),
        **_tcp(own, peer),
    }


def _ping(own: str, peer: str, size: int, *, seconds: float = 1.0) -> str:
    """One echo with so many bytes, never in fragments: `answered`, or why not."""
    family = 6 if ":" in peer else 4
    kind, protocol = (128, socket.IPPROTO_ICMPV6) if family == 6 else (8, socket.IPPROTO_ICMP)
    with socket.socket(_af(peer), socket.SOCK_DGRAM, protocol) as pinging:
        pinging.setsockopt(*_MTU_DISCOVER[family], _PROBE)
        pinging.settimeout(seconds)
        try:
            pinging.bind((own, 0))
            pinging.sendto(struct.pack("!BBHHH", kind, 0, 0, 0, 1) + b"." * size, (peer, 0))
            pinging.recv(1 << 16)
        except OSError as exc:
            return "no answer" if isinstance(exc, TimeoutError) else str(exc.strerror)
    return "answered"


def _tcp(own: str, peer: str) -> dict[str, Any]:
    """Bulk to the other end and back at once."""
    sent, received = os.urandom(_BULK), bytearray()
    with socket.socket(_af(peer), socket.SOCK_STREAM) as stream:
        stream.settimeout(10)
        stream.bind((own, 0))
        stream.connect((peer, PORT))
        writing = threading.Thread(target=stream.sendall, args=(sent,))
        writing.start()
        while len(received) < _BULK and (data := stream.recv(1 << 16)):
            received += data
        writing.join()
        segment = stream.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    return {"echoed": bytes(received) == sent, "segment": segment}


def hold(peer: str, own: str = "") -> None:
    """Keep one TCP connection busy until INT; how often it answered, and its longest silence."""
    counts = {"answered": 0, "longest_seconds": 0.0, "problem": ""}
    with socket.socket(_af(peer), socket.SOCK_STREAM) as stream:
        stream.settimeout(20)
        stream.bind((own, 0))
        stream.connect((peer, PORT))
        say({"held": stream.getsockname()[0]})
        until_stopped(lambda: _hold(stream, counts))
    say(counts)


def _hold(stream: socket.socket, counts: dict[str, Any]) -> None:
    began = time.monotonic()
    try:
        stream.sendall(b"x" * 100)
        left = 100
        while left:
            data = stream.recv(left)
            if not data:
                raise ConnectionResetError("it was closed")
            left -= len(data)
    except OSError as exc:
        counts["problem"] = str(exc)
        raise StopIteration from exc
    counts["answered"] += 1
    counts["longest_seconds"] = max(counts["longest_seconds"], time.monotonic() - began)
    time.sleep(0.01)


def who(peer: str) -> None:
    """Ask who is there, all the while until INT; a line for each change: when it was, and the name."""
    known = [""]

    def ask() -> None:
        with socket.socket(_af(peer), socket.SOCK_DGRAM) as asking:
            asking.settimeout(0.02)
            try:
                asking.connect((peer, PORT))
                asking.send(b"who")
                name = asking.recv(256).decode()
            except OSError:
                time.sleep(0.002)
                return
        if name != known[0]:
            known[0] = name
            say({"at": time.monotonic(), "name": name})
        time.sleep(0.002)

    until_stopped(ask)


def damage(interface: str, own: str, peer: str, commands: list[str]) -> None:
    """Do each damage, and wait until the interface is as before and the other end answers: when, and how long."""
    times = {}
    for command in commands:
        before = _looks(interface)
        at, began = time.time(), time.monotonic()
        subprocess.run(command.split(), check=True)
        while _looks(interface) != before:
            if time.monotonic() - began > _REPAIRED_SECONDS:
                say({"never": command, "before": before, "now": _looks(interface)})
                return
            time.sleep(0.002)
        looks = time.monotonic() - began
        while _ping(own, peer, 8, seconds=0.05) != "answered":
            assert time.monotonic() - began < _REPAIRED_SECONDS, command
            time.sleep(0.002)
        answers = time.monotonic() - began
        times[command] = {"at": at, "looks": round(looks, 3), "answers": round(answers, 3)}
    say(times)


def _looks(interface: str) -> list[str]:
    """Everything of an interface but its number, in words."""
    found = []
    for words in (
        ["-o", "link", "show", "dev", interface],
        ["-o", "address", "show", "dev", interface, "scope", "global"],
        ["-4", "route", "show", "table", "all", "dev", interface],
        ["-6", "route", "show", "table", "all", "dev", interface],
        ["neigh", "show", "dev", interface, "nud", "permanent"],
    ):
        done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
        found += [_without_number(line) for line in done.stdout.splitlines()]
    return sorted(line for line in found if "fe80::" not in line and "ff00::/8" not in line)


def _without_number(line: str) -> str:
    head, colon, rest = line.partition(": ")
    line = rest if colon and head.isdigit() else line
    return re.sub(r"@\S+", "", line)  # nor that of the other end


def listen(port: str) -> None:
    """Say every datagram until INT."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as hearing:
        hearing.bind(("::", int(port)))
        hearing.settimeout(0.1)
        say({"listening": port})

        def hear() -> None:
            try:
                say({"heard": hearing.recv(2048).decode()})
            except TimeoutError:
                return

        until_stopped(hear)


def inject(target: dict[str, Any]) -> None:
    """Say `text` to a client through somebody's tunnel: an own packet of VXLAN, from this network."""
    source, destination = (
        ipaddress.IPv4Address(target[field]).packed for field in ("source", "destination")
    )
    text = target["text"].encode()
    datagram = struct.pack("!HHHH", 9, target["port"], 8 + len(text), 0) + text
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0, source, destination
    )
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    macs = bytes.fromhex((target["to_mac"] + target["from_mac"]).replace(":", ""))
    frame = macs + b"\x08\x00" + header + datagram
    tunnel = struct.pack("!II", 0x08 << 24, target["vni"] << 8)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending:
        for _ in range(target.get("times", 1)):
            # A node with tunnels of its own refuses itself to speak to one that is no peer.
            with contextlib.suppress(PermissionError):
                sending.sendto(tunnel + frame, (target["node"], TUNNEL_PORT))


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def until_stopped(step: Callable[[], None]) -> None:
    """Again and again, until INT or until it stops by itself."""
    stopped = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    while not stopped.is_set():
        try:
            step()
        except StopIteration:
            return


def say(what: Any) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _af(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


if __name__ == "__main__":
    verb, *words = sys.argv[1:]
    verbs: dict[str, Callable[..., None]] = {
        each.__name__: each for each in (serve, meet, hold, who, damage, listen, inject)
    }
    verbs[verb](*(json.loads(word) if word[:1] in "[{" else word for word in words))
