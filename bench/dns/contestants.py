"""The servers that are compared, each a process on loopback; one that is not installed says so."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_HOST = "127.9.0."
_LETTERS = "abcde"
_START_SECONDS = 10.0


class Setting(NamedTuple):
    """What is measured."""

    upstreams: int = 2
    pods: int = 1
    cache: int = 0  # entries


class Running(NamedTuple):
    """A server that answers."""

    pid: int
    ports: list[int]


class Missing(Exception):
    """It is not on this machine, or does not do what is asked; the text says which."""


@contextlib.contextmanager
def upstreams(setting: Setting, *, core: int | None) -> Iterator[Running]:
    """They answer on one port, from `_HOST`2 on. SIGUSR1: the last one is deaf, or hears again."""
    count = setting.upstreams
    port = _free_port()
    endings = ",".join(str(n) for n in range(2, 2 + count))
    letters = ",".join(_LETTERS[:count])
    command = [sys.executable, "-m", "bench.dns.upstreams", endings, _HOST, str(port), letters]
    with _process(command, core) as process:
        _first_line(process)
        yield Running(process.pid, [port])


@contextlib.contextmanager
def ours(setting: Setting, port: int, *, core: int | None) -> Iterator[Running]:
    """Our answerers, one per Pod."""
    servers = ",".join(_addresses(setting))
    command = [sys.executable, "-m", "bench.dns.ours", servers, str(port)]
    with _process([*command, str(setting.pods), str(setting.cache)], core) as process:
        yield Running(process.pid, [int(text) for text in _first_line(process).split()])


@contextlib.contextmanager
def floor(setting: Setting, port: int, *, core: int | None) -> Iterator[Running]:
    """The same packets by a bare loop, without any thought: what is left for thinking."""
    if setting.cache:
        raise Missing("asks for every query")
    command = [sys.executable, "-m", "bench.dns.floor", ",".join(_addresses(setting)), str(port)]
    with _process([*command, str(setting.pods)], core) as process:
        yield Running(process.pid, [int(text) for text in _first_line(process).split()])


@contextlib.contextmanager
def dnsmasq(setting: Setting, port: int, *, core: int | None) -> Iterator[Running]:
    """`--all-servers`: it asks all, too, and gives the first answer, whatever that is."""
    own = _free_port()
    command = [
        *(_found("dnsmasq"), "-k", "-C", "/dev/null", "--no-resolv", "--no-hosts"),
        *("--all-servers", f"--cache-size={min(setting.cache, 10_000)}", f"--port={own}"),
        *("--listen-address=127.0.0.1", "--bind-interfaces", "--dns-forward-max=10000"),
        *("--user=", "--pid-file="),
        *(f"--server={address}#{port}" for address in _addresses(setting)),
    ]
    with _alone(setting, command, own, core) as running:
        yield running


@contextlib.contextmanager
def unbound(setting: Setting, port: int, *, core: int | None) -> Iterator[Running]:
    """It asks one upstream per name: less work, and wrong for names that the other one knows."""
    own = _free_port()
    forwards = "\n".join(f"  forward-addr: {a}@{port}" for a in _addresses(setting))
    size = "16m" if setting.cache else "0"
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "unbound.conf")
        config.write_text(
            f"server:\n  interface: 127.0.0.1@{own}\n  port: {own}\n  do-daemonize: no\n"
            f'  chroot: ""\n  username: ""\n  pidfile: ""\n  directory: "{directory}"\n'
            "  use-syslog: no\n  num-threads: 1\n  do-not-query-localhost: no\n"
            '  module-config: "iterator"\n  verbosity: 0\n  outgoing-range: 4096\n'
            f"  num-queries-per-thread: 2048\n  msg-cache-size: {size}\n"
            f"  rrset-cache-size: {size}\n"
            f'remote-control:\n  control-enable: no\nforward-zone:\n  name: "."\n{forwards}\n'
        )
        command = [_found("unbound"), "-d", "-c", str(config)]
        with _alone(setting, command, own, core) as running:
            yield running


CONTESTANTS = {
    "ours": ours,
    "dnsmasq --all-servers": dnsmasq,
    "unbound": unbound,
    "floor": floor,
}


@contextlib.contextmanager
def _alone(setting: Setting, command: list[str], port: int, core: int | None) -> Iterator[Running]:
    if setting.pods > 1:
        raise Missing("is one resolver per process")
    with _process(command, core) as process:
        _until_answers(port)
        yield Running(process.pid, [port])


@contextlib.contextmanager
def _process(command: list[str], core: int | None) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            if core is not None:
                os.sched_setaffinity(process.pid, {core})
            yield process
        finally:
            process.kill()


def _first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise Missing(f"did not start: {process.args!r}")
    return line


def _addresses(setting: Setting) -> list[str]:
    return [f"{_HOST}{n}" for n in range(2, 2 + setting.upstreams)]


def _found(name: str) -> str:
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    path = shutil.which(name, path=places)
    if path is None:
        raise Missing(f"is not installed (apt install {name.replace('dnsmasq', 'dnsmasq-base')})")
    return path


def _free_port() -> int:
    """For UDP and, as servers of DNS want both, TCP."""
    while True:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as streams,
            contextlib.suppress(OSError),
        ):
            datagrams.bind(("127.0.0.1", 0))
            streams.bind(datagrams.getsockname())
            return int(datagrams.getsockname()[1])


def _until_answers(port: int) -> None:
    query = b"\0\1\1\0\0\1\0\0\0\0\0\0\7000000a\7service\4corp\7example\0\0\1\0\1"
    until = time.monotonic() + _START_SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.2)
        sock.connect(("127.0.0.1", port))
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                sock.send(query)
                sock.recv(512)
                return
            time.sleep(0.05)
    raise Missing("did not answer")
