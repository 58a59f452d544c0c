"""The bus as a person looks at it: what every subject holds now. Reads only."""

import asyncio
import itertools
import os
import re
import secrets
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from cli import labs
from cli.persons import Person, person
from cli.problems import Problem
from schemas import codec, subjects
from schemas.codec import Tombstone
from services._runtime import streams
from services._runtime.access import IMPORTED_API, VIEWER, Access, role_of
from services._runtime.client import Client, is_about_login
from services._runtime.consumer import positions
from services._runtime.streams import told_subject

_TIMEOUT_SECONDS = 5.0
_LOOK_AGAIN_SECONDS = 1.0
_RETRY_SECONDS = 0.1
_LOGINS = 2  # a server that was just started may answer before auth is back
_SERVICES = frozenset({"watcher", "ipam", "plumber", "dns"})  # rights of their own work alone


def url() -> str:
    """The NATS server of NSM_NATS_URL (a service's Pod has it), else that of the lab that runs here. Raises Problem."""
    chosen = os.environ.get("NSM_NATS_URL", "")
    if chosen:
        return chosen
    try:
        here, state = labs.running()
    except Problem as exc:
        raise Problem(f"{exc}; a cluster's bus: --url and NSM_TOKEN_FILE") from exc
    if not state.nats_url:
        raise Problem(f"the lab in {here.root} was started without nats")
    return state.nats_url


async def connect(server: str, *, name: str) -> Client:
    """A connection that survives the server's restarts. Raises Problem when nobody listens now."""
    return await _connect(server, person(server, name))


async def _connect(server: str, who: Person) -> Client:
    await _knock(server)
    access = who.access
    try:
        tls = access.tls()
    except OSError as exc:
        raise Problem(f"NSM_TLS_CA={access.tls_ca}: {exc}") from exc
    refused: list[Exception] = []
    try:
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            while len(refused) < _LOGINS:
                try:
                    return await _log_in(server, who, tls)
                except (OSError, nats.errors.Error) as exc:
                    if is_about_login(exc):
                        refused.append(exc)
                await asyncio.sleep(_RETRY_SECONDS)
    except TimeoutError:
        pass
    reason = str(refused[0]) if refused else "no answer"
    raise Problem(f"NATS at {shown(server)} does not let us in: {reason}; {who.remedy}")


async def _log_in(server: str, who: Person, tls: ssl.SSLContext | None) -> Client:
    """One attempt; what was let in once comes back after every cut. Raises OSError, nats.errors.Error."""

    async def show(problem: Exception) -> None:
        if "permissions violation" in str(problem).lower():
            print(f"nsm: the bus does not permit this: {problem}", file=sys.stderr, flush=True)

    access = who.access
    client = Client(hesitate=bool(access.token_file), insist_on_tls=bool(access.tls_ca))
    try:
        await client.connect(
            server.split(","),
            name=who.name,
            token=who.token if access.token_file else None,
            tls=tls,
            inbox_prefix=f"{access.inbox}.{who.name}",
            allow_reconnect=False,
            max_reconnect_attempts=-1,
            reconnect_time_wait=_RETRY_SECONDS,  # type: ignore[arg-type]  # slept as a float
            error_cb=show,
        )
    except BaseException:
        await client.close()
        raise
    client.options["allow_reconnect"] = True
    return client


async def _knock(servers: str) -> None:
    """Whether anybody listens at one of these at all. Raises Problem."""
    reasons = []
    for server in servers.split(","):
        try:
            place = urlsplit(server if "://" in server else f"nats://{server}")
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                _, writer = await asyncio.open_connection(place.hostname, place.port or 4222)
            writer.close()
        except (OSError, TimeoutError, ValueError) as exc:
            reasons.append(getattr(exc, "strerror", None) or str(exc) or "no answer")
        else:
            return
    raise Problem(
        f"NATS at {shown(servers)}: {reasons[0]}; is it running? "
        "(nsm lab ps; on a cluster: is the port forwarded?)"
    )


async def listen(client: Client, subject: str, callback: Callable[[Msg], Awaitable[None]]) -> None:
    """Call `callback` with what passes on `subject` from now on.

    A viewer may not listen to subjects themselves: it is shown what NSM_LOG stored of them, under their names.
    """
    name = str(client.options["name"])
    _refuse_services(role_of(name))
    if role_of(name) != VIEWER:
        await _listen_widely(client, subject, callback)
        return

    async def show(message: Msg) -> None:
        if subject.startswith(f"{subjects.ROOT}."):
            message.subject = told_subject(message.subject)
        await callback(message)

    roots: tuple[str, ...] = ("",)
    if subject.startswith(f"{subjects.ROOT}."):
        roots = (subjects.LOG_ROOT.removesuffix(subjects.ROOT), f"{streams.HISTORY_ROOT}.")
    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=show, pending_msgs_limit=0, pending_bytes_limit=0)

    async def follow() -> None:
        for number, root in enumerate(roots, 1):
            await _follow_log(client, f"{name}-{number}", root + subject, inbox)

    await follow()
    client._reconnected_cb = follow  # noqa: SLF001  a restarted server forgot the consumers


def _refuse_services(role: str) -> None:
    """Raises Problem for a role that may follow what it needs for its work, and nothing else."""
    if role in _SERVICES:
        raise Problem(
            f"a token of role {role} may follow only what {role} itself needs; "
            "use the token of nsm-viewer or nsm-admin"
        )


async def _listen_widely(
    client: Client, subject: str, callback: Callable[[Msg], Awaitable[None]]
) -> None:
    # Never to a literal subject: the server would deliver there what a consumer of another account names as its
    # deliver subject, and the stream behind it would store that.
    async def pick(message: Msg) -> None:
        if message.subject == subject:
            await callback(message)

    is_literal = "." in subject and not {"*", ">"} & set(subject.split("."))
    await client.subscribe(
        f"{subject.rpartition('.')[0]}.*" if is_literal else subject,
        cb=pick if is_literal else callback,
        pending_msgs_limit=0,
        pending_bytes_limit=0,
    )
    await client.flush()


async def _follow_log(client: Client, name: str, pattern: str, inbox: str) -> None:
    place = f"{streams.LOG}.{name}"
    config = {
        "name": name,
        "deliver_subject": inbox,
        "deliver_policy": "new",
        "filter_subject": pattern,
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": int(_TIMEOUT_SECONDS * 2e9),
    }
    body = msgspec.json.encode({"stream_name": streams.LOG, "config": config})
    await client.request(f"{IMPORTED_API}.CONSUMER.DELETE.{place}", timeout=_TIMEOUT_SECONDS)
    created = await client.request(
        f"{IMPORTED_API}.CONSUMER.CREATE.{place}.{pattern}", body, timeout=_TIMEOUT_SECONDS
    )
    error = msgspec.json.decode(created.data).get("error")
    if error:
        raise Problem(
            f"{pattern}: {error.get('description')}; a viewer may look at log.> and nsm.>"
        )


def shown(server: str) -> str:
    """The address without what is secret in it."""
    return re.sub(r"(?<=//)[^/@\s]+@", "", server)


def snapshot(
    kinds: Sequence[str], *, server: str = "", tombstones: bool = False
) -> list[tuple[Any, Any]]:
    """(key, message) of every subject of these kinds that holds something, by subject. Raises Problem.

    `server`: default is the lab's. With `tombstones` what is gone is told, too.
    """
    found = asyncio.run(_snapshot(server or url(), kinds))
    return [each for each in found if tombstones or not isinstance(each[1], Tombstone)]


def leaders() -> list[tuple[Any, Any]]:
    """The guards of both streams that have one active writer."""
    found = asyncio.run(
        _read(url(), [(stream, subjects.LeaderKey.all()) for stream in streams.LEADERS])
    )
    return [each for each in found if not isinstance(each[1], Tombstone)]


async def _snapshot(server: str, kinds: Sequence[str]) -> list[tuple[Any, Any]]:
    keys = [subjects.KEYS[kind] for kind in kinds]
    return await _read(server, [(streams.stream_of_kind(key), key.all()) for key in keys])


async def _read(server: str, filters: Sequence[tuple[str, str]]) -> list[tuple[Any, Any]]:
    found: dict[str, bytes] = {}
    async with reading(server) as reader:
        for stream, pattern in filters:
            messages = await reader.last(stream, pattern)
            found |= {subject: message.data for subject, message in messages.items()}
    decoded = []
    for subject in sorted(found):
        try:
            decoded.append(codec.decode(subject, found[subject]))
        except codec.Malformed as exc:
            raise Problem(f"the bus holds what is no message: {exc}") from exc
    return decoded


class Reader:
    """Reads streams over one connection, as far as the rights of a person go."""

    def __init__(self, client: Client, access: Access) -> None:
        self.client = client
        self.access = access
        name = client.options["name"]
        self._consumers = (f"{name}-{number}" for number in itertools.count(1))

    async def last(self, stream: str, pattern: str) -> dict[str, Msg]:
        """What every subject holds, unordered; nothing of a stream that is not there. Raises Problem."""
        # Permissions name consumers exactly.
        config = ConsumerConfig(
            name=next(self._consumers), deliver_policy=DeliverPolicy.LAST_PER_SUBJECT
        )
        api = self.client.jetstream(prefix=self.access.api, timeout=_TIMEOUT_SECONDS)
        found: dict[str, Msg] = {}
        whole = asyncio.Event()

        async def take(message: Msg) -> None:
            # Three times as fast as asking for one message after the other.
            found[message.subject] = message
            if positions(message.reply)[2] == 0:
                whole.set()

        try:
            subscription = await api.subscribe(
                pattern,
                stream=stream,
                cb=take,
                ordered_consumer=True,
                config=config,
                pending_msgs_limit=0,
                pending_bytes_limit=0,
            )
            await _until_whole(subscription, whole, found)
            await subscription.unsubscribe()
        except NotFoundError:
            return found  # nobody wrote yet: the services are still starting
        except (TimeoutError, nats.errors.Error) as exc:
            raise Problem(f"stream {stream}: {exc or type(exc).__name__}; see: nsm status") from exc
        return found

    async def ask(self, operation: str, body: Any = None) -> dict[str, Any]:
        """What the server's API answers, errors too. Raises Problem when it does not."""
        data = b"" if body is None else msgspec.json.encode(body)
        try:
            answer = await self.client.request(
                f"{self.access.api}.{operation}", data, timeout=_TIMEOUT_SECONDS
            )
        except (TimeoutError, nats.errors.Error) as exc:
            raise Problem(f"{operation}: {exc or type(exc).__name__}") from exc
        decoded: dict[str, Any] = msgspec.json.decode(answer.data)
        return decoded


async def _until_whole(
    subscription: JetStreamContext.PushSubscription, whole: asyncio.Event, found: dict[str, Msg]
) -> None:
    """Until everything was delivered. Raises TimeoutError when nothing more comes."""
    info = await subscription.consumer_info()
    if not info.num_pending and not (info.delivered and info.delivered.consumer_seq):
        return
    quiet = 0
    while not whole.is_set():
        before = len(found)
        try:
            async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                await whole.wait()
        except TimeoutError:
            # What was to come last may have been superseded, or have expired.
            if not (await subscription.consumer_info()).num_pending:
                return
            quiet = quiet + 1 if len(found) == before else 0
            if quiet * _LOOK_AGAIN_SECONDS >= _TIMEOUT_SECONDS:
                raise


@asynccontextmanager
async def reading(server: str) -> AsyncIterator[Reader]:
    """A reader for the length of the block. Raises Problem."""
    who = person(server, f"nsm-cli-{secrets.token_hex(4)}")
    client = await _connect(server, who)
    try:
        _refuse_services(who.access.role)
        yield Reader(client, who.access)
    finally:
        await client.close()
