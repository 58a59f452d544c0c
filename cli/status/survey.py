"""What the bus shows of the whole system at one moment. Asks, judges nothing.

Who is there is read off the streams' consumers: every service follows streams under its own name, standbys too,
and the server knows whether anybody still listens to a consumer.
"""

import re
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec

from cli.bus import Reader, reading
from cli.problems import Problem
from schemas import codec, subjects
from schemas.subjects import Key
from services._runtime import streams
from services.watcher.model import NetworkServiceEndpoint

_KINDS = (
    subjects.RequestKey,
    subjects.EndpointKey,
    subjects.PrefixKey,
    subjects.ConnectionKey,
    subjects.RefusalKey,
    subjects.PoolKey,
    subjects.StatusKey,
    subjects.NodeKey,
    subjects.ResolverKey,
    subjects.LeaseKey,
    subjects.AliveKey,
)
_FOLLOWED = streams.TRUTH  # by services; the rest is for people, or read message by message
_PROCESS = re.compile(r"(?P<process>(?P<role>[a-z]+)(?:-(?P<node>.+))?-[0-9a-f]{8})-\d+")
_ROLES = frozenset({"watcher", "ipam", "plumber", "dns"})
_FRACTION = re.compile(r"\.(\d{1,6})\d*")
_NO_SUCH_STREAM = 10059


class Told(msgspec.Struct, frozen=True):
    """What a subject holds, and since when (Unix seconds, by the server's clock)."""

    key: Key
    message: Any
    at: float


class Follower(msgspec.Struct, frozen=True, kw_only=True):
    """A consumer of one of our services."""

    process: str  # the name of its connection
    role: str
    node: str
    stream: str
    since: float
    bound: bool  # somebody listens to it
    pending: int = 0  # messages it has not got yet
    version: str = ""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """A stream on one server."""

    server: str
    leads: bool = False
    current: bool = True
    offline: bool = False
    lag: int = 0


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream, or why nothing is known of it."""

    name: str
    problem: str = ""
    missing: bool = False
    messages: int = 0
    bytes: int = 0
    max_bytes: int = 0
    drops_old: bool = False  # a full one forgets its past instead of refusing
    replicas: int = 1
    copies: tuple[Copy, ...] = ()
    consumers: int = 0
    max_consumers: int = 0


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `followers` is None where the bus does not tell them to us."""

    url: str
    server: str  # name and version
    role: str  # we look as; empty: the bus asks nobody who he is
    login_seconds: float
    now: float  # by the server's clock
    told: tuple[Told, ...]
    streams: tuple[Stream, ...]
    followers: tuple[Follower, ...] | None
    malformed: tuple[str, ...] = ()
    endpoints: tuple[NetworkServiceEndpoint, ...] = ()  # where nobody offers what is asked for


async def look(url: str, shown: str) -> Sight:
    """Raises Problem where the bus is not to be reached or does not let us in."""
    started = time.monotonic()
    async with reading(url) as reader:
        login_seconds = time.monotonic() - started
        found = [await _stream(reader, name) for name in (*streams.TRUTH, *_OTHERS)]
        now = max((at for _, at in found), default=0.0) or time.time()
        followers = await followers_of(reader, _FOLLOWED)
        silent = {each.name for each, _ in found if each.problem}
        told, malformed = await read_all(reader, (f for f in _filters() if f[0] not in silent))
        info = reader.client._server_info  # noqa: SLF001  nats-py shows it nowhere else
        return Sight(
            url=shown,
            server=f"{info.get('server_name', '')} {info.get('version', '')}".strip(),
            role=reader.access.role,
            login_seconds=login_seconds,
            now=now,
            told=tuple(told),
            streams=tuple(each for each, _ in found),
            followers=followers,
            malformed=tuple(malformed),
        )


_OTHERS = (streams.LIVE, streams.LOG)


async def _stream(reader: Reader, name: str) -> tuple[Stream, float]:
    """A stream, and the server's clock."""
    try:
        answer = await reader.ask(f"STREAM.INFO.{name}")
    except Problem as exc:
        return Stream(name=name, problem=str(exc)), 0.0
    error = answer.get("error")
    if error:
        missing = error.get("err_code") == _NO_SUCH_STREAM
        return Stream(name=name, problem=str(error.get("description")), missing=missing), 0.0
    return stream_of(answer), seconds(answer.get("ts", ""))


def stream_of(answer: dict[str, Any]) -> Stream:
    """A stream as the server describes it."""
    config, state = answer["config"], answer["state"]
    cluster = answer.get("cluster") or {}
    others = tuple(
        Copy(
            server=each.get("name", ""),
            current=each.get("current", False),
            offline=each.get("offline", False),
            lag=each.get("lag", 0),
        )
        for each in cluster.get("replicas") or ()
    )
    leader = (Copy(server=cluster["leader"], leads=True),) if cluster.get("leader") else ()
    return Stream(
        name=config["name"],
        messages=state["messages"],
        bytes=state["bytes"],
        max_bytes=config["max_bytes"],
        drops_old=config["discard"] == "old",
        replicas=config["num_replicas"],
        copies=leader + others,
        consumers=state["consumer_count"],
        max_consumers=config["max_consumers"],
    )


async def followers_of(reader: Reader, names: Iterable[str]) -> tuple[Follower, ...] | None:
    """Who follows these streams; None: we may not ask, or the server does not answer."""
    found: list[Follower] = []
    for name in names:
        offset, total = 0, 1
        while offset < total:
            try:
                answer = await reader.ask(f"CONSUMER.LIST.{name}", {"offset": offset})
            except Problem:
                return None  # accounts of an older version do not let a viewer ask this
            page = answer.get("consumers") or []
            found += (each for one in page if (each := follower_of(name, one)) is not None)
            total = answer.get("total", 0) if page else 0
            offset += len(page)
    return tuple(found)


def follower_of(stream: str, consumer: dict[str, Any]) -> Follower | None:
    """A consumer as the server describes it; None if it is of none of our services."""
    match = _PROCESS.fullmatch(consumer.get("name", ""))
    if match is None or match["role"] not in _ROLES:
        return None
    metadata = consumer.get("config", {}).get("metadata") or {}
    return Follower(
        process=match["process"],
        role=match["role"],
        node=(match["node"] or "").replace("_", "."),
        stream=stream,
        since=seconds(consumer.get("created", "")),
        bound=bool(consumer.get("push_bound")),
        pending=consumer.get("num_pending", 0),
        version=metadata.get("version", ""),
    )


async def read_all(
    reader: Reader, filters: Iterable[tuple[str, str]]
) -> tuple[list[Told], list[str]]:
    """What these filters of streams hold, by subject; and what is no message."""
    told, malformed = [], []
    for stream, pattern in filters:
        for subject, message in (await reader.last(stream, pattern)).items():
            at = message.metadata.timestamp.timestamp()
            try:
                key, decoded = codec.decode(subject, message.data)
            except codec.Malformed as exc:
                malformed.append(str(exc))
            else:
                told.append(Told(key, decoded, at))
    return sorted(told, key=lambda each: each.key.subject), sorted(malformed)


def _filters() -> Iterator[tuple[str, str]]:
    for kind in _KINDS:
        yield streams.stream_of_kind(kind), kind.all()
    for stream in streams.LEADERS:
        yield stream, subjects.LeaderKey.all()


def of(told: Iterable[Told], kind: type[Any]) -> Iterator[Told]:
    """Those whose message is of a kind."""
    return (each for each in told if isinstance(each.message, kind))


def seconds(text: str) -> float:
    """RFC 3339, with nanoseconds as the server writes it, in Unix seconds; 0: none."""
    try:
        return datetime.fromisoformat(_FRACTION.sub(r".\1", text)).timestamp()
    except ValueError:
        return 0.0
