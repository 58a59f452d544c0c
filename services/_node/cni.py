"""The CNI's result files: the earliest place that names a Pod's UID, network namespace and addresses.

libcni keeps one JSON file (`cniCacheV1`) per attachment, `<network>-<container id>-<interface>`, written
when the interface is there and removed when it is gone. We read them as they are on a real node; the
lab writes the same.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import msgspec
import structlog

log = structlog.get_logger()

_IN_MOVED_FROM, _IN_MOVED_TO, _IN_CLOSE_WRITE, _IN_DELETE = 0x40, 0x80, 0x8, 0x200
_IN_DELETE_SELF, _IN_MOVE_SELF, _IN_IGNORED, _IN_Q_OVERFLOW = 0x400, 0x800, 0x8000, 0x4000
_FILES = _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CLOSE_WRITE | _IN_DELETE
_DIRECTORY = _IN_DELETE_SELF | _IN_MOVE_SELF
_EVENT = struct.Struct("iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class CniResult(msgspec.Struct, frozen=True, kw_only=True):
    """One attachment of a Pod's sandbox. `ips` are addresses with their length, `10.244.1.5/24`."""

    uid: str
    namespace: str
    name: str
    container_id: str  # of the sandbox: another one means another namespace
    netns: str  # path
    interface: str = "eth0"
    network: str = "cni"
    ips: tuple[str, ...] = ()
    written_at: int = 0  # nanoseconds, from the file system

    @property
    def file_name(self) -> str:
        return f"{self.network}-{self.container_id}-{self.interface}"


class _Address(msgspec.Struct):
    address: str


class _Interface(msgspec.Struct):
    name: str = ""
    sandbox: str = ""


class _Result(msgspec.Struct):
    interfaces: list[_Interface] | None = None
    ips: list[_Address] | None = None


class _Cache(msgspec.Struct, rename="camel"):
    """The fields of libcni's cache file that we need. Older ones (containerd 1.6) have no `netns`."""

    container_id: str = ""
    if_name: str = ""
    network_name: str = ""
    netns: str = ""
    cni_args: list[tuple[str, str]] | None = None
    result: _Result | None = None

    @property
    def place(self) -> str:
        """Path of the namespace that the interface is in; empty where nobody says."""
        found = (self.result.interfaces if self.result else None) or []
        named = (each.sandbox for each in found if each.name == self.if_name and each.sandbox)
        return self.netns or next(named, "")


def parse(data: bytes, *, written_at: int = 0, name: str = "") -> CniResult | None:
    """The attachment that a file describes; None if it is none of a Pod, or half written.

    A file that nobody who means well writes is told in the log, by `name`.
    """
    try:
        cache = msgspec.json.decode(data, type=_Cache)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    except RecursionError:
        log.warning("CNI result ignored: it is nested too deeply", file=name)
        return None
    place = cache.place
    if "\0" in place:
        log.warning("CNI result ignored: its netns contains a NUL", file=name)
        return None
    args = dict(cache.cni_args or [])
    if not args.get("K8S_POD_UID") or not place or cache.if_name == "lo":
        return None
    ips = (cache.result.ips if cache.result else None) or []
    return CniResult(
        uid=args["K8S_POD_UID"],
        namespace=args.get("K8S_POD_NAMESPACE", ""),
        name=args.get("K8S_POD_NAME", ""),
        container_id=cache.container_id,
        netns=place,
        interface=cache.if_name,
        network=cache.network_name,
        ips=tuple(ip.address for ip in ips),
        written_at=written_at,
    )


def render(result: CniResult) -> bytes:
    """The file of an attachment, as libcni writes it."""
    content: dict[str, Any] = {
        "kind": "cniCacheV1",
        "containerId": result.container_id,
        "config": "",
        "ifName": result.interface,
        "networkName": result.network,
        "netns": result.netns,
        "cniArgs": [
            ["IgnoreUnknown", "1"],
            ["K8S_POD_NAMESPACE", result.namespace],
            ["K8S_POD_NAME", result.name],
            ["K8S_POD_INFRA_CONTAINER_ID", result.container_id],
            ["K8S_POD_UID", result.uid],
        ],
        "result": {
            "cniVersion": "1.0.0",
            "interfaces": [{"name": result.interface, "sandbox": result.netns}],
            "ips": [{"interface": 0, "address": address} for address in result.ips],
        },
    }
    return msgspec.json.encode(content)


def write(directory: str | os.PathLike[str], result: CniResult) -> Path:
    """Write the file in place, as libcni does: readers must bear a half-written one."""
    place = Path(directory, result.file_name)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(render(result))
    return place


def remove(directory: str | os.PathLike[str], result: CniResult) -> None:
    """Remove the file; one that is not there is no error."""
    Path(directory, result.file_name).unlink(missing_ok=True)


def read(path: Path) -> CniResult | None:
    """The attachment of one file; None if the file is gone or describes none."""
    try:
        with path.open("rb") as file:
            written_at = os.fstat(file.fileno()).st_mtime_ns
            return parse(file.read(), written_at=written_at, name=path.name)
    except (FileNotFoundError, IsADirectoryError):
        return None


def read_all(directory: str | os.PathLike[str]) -> dict[str, CniResult]:
    """Every attachment, by file name; empty if the directory is not there."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 names, not paths, are the keys
    except FileNotFoundError:
        return {}
    found = ((name, read(Path(directory, name))) for name in names)
    return {name: result for name, result in found if result is not None}


def by_uid(results: dict[str, CniResult]) -> dict[str, CniResult]:
    """The newest attachment of each Pod: its primary one (`eth0`) if there are several."""
    newest: dict[str, CniResult] = {}
    for result in sorted(results.values(), key=_preference):
        newest[result.uid] = result
    return newest


def _preference(result: CniResult) -> tuple[bool, int, str]:
    return result.interface == "eth0", result.written_at, result.container_id


async def watch(directory: str | os.PathLike[str]) -> AsyncGenerator[dict[str, CniResult], None]:
    """Every attachment by file name: at once, then anew after each burst of changes, for ever.

    The watch stands before the first look, so nothing falls between. A directory that is not there
    is made; one that is replaced is watched anew.
    """
    while True:
        os.makedirs(directory, exist_ok=True)  # noqa: PTH103
        notifier = _Notifier(directory)
        try:
            results = read_all(directory)
            yield dict(results)
            while (names := await notifier.changed()) is not None:
                for name in names:
                    _update(results, Path(directory, name))
                yield dict(results)
        finally:
            notifier.close()


def _update(results: dict[str, CniResult], path: Path) -> None:
    result = read(path)
    if result is not None:
        results[path.name] = result
    elif not path.exists():  # one that is being written anew is not gone
        results.pop(path.name, None)


class _Notifier:
    """One inotify descriptor on one directory."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify: the limit max_user_instances is reached?")
        place = os.fsencode(os.fspath(directory))
        if _libc.inotify_add_watch(self._fd, place, _FILES | _DIRECTORY) < 0:
            code = ctypes.get_errno()
            self.close()
            raise OSError(code, f"inotify: {os.strerror(code)}", os.fspath(directory))

    async def changed(self) -> set[str] | None:
        """Names of changed files; None: look at everything again."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._fd)
        return self._names(os.read(self._fd, 65536))

    def close(self) -> None:
        os.close(self._fd)

    @staticmethod
    def _names(data: bytes) -> set[str] | None:
        names: set[str] = set()
        at = 0
        while at < len(data):
            _, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = data[at : at + length].rstrip(b"\0")
            at += length
            if mask & (_DIRECTORY | _IN_IGNORED | _IN_Q_OVERFLOW):
                return None
            if name:
                names.add(os.fsdecode(name))
        return names
