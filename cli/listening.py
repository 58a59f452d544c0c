"""What passes on the bus from now on, shown to who listens as far as the rights of a person go.

A viewer may not listen to subjects themselves: it is shown what NSM_LOG stored of them, under their names.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec
import nats.errors
from nats.aio.msg import Msg

from cli.bus import QUORUM, reason
from cli.persons import refuse_services
from cli.problems import Problem
from schemas import subjects
from services._runtime import streams
from services._runtime.access import IMPORTED_API, VIEWER, role_of
from services._runtime.client import Client
from services._runtime.streams import told_subject

_TIMEOUT_SECONDS = 5.0


async def listen(client: Client, subject: str, callback: Callable[[Msg], Awaitable[None]]) -> None:
    """Call `callback` with what passes on `subject` from now on. Raises Problem."""
    name = str(client.options["name"])
    refuse_services(role_of(name))
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
    try:
        await client.request(f"{IMPORTED_API}.CONSUMER.DELETE.{place}", timeout=_TIMEOUT_SECONDS)
        created = await client.request(
            f"{IMPORTED_API}.CONSUMER.CREATE.{place}.{pattern}", body, timeout=_TIMEOUT_SECONDS
        )
    except (TimeoutError, nats.errors.Error) as exc:
        raise Problem(f"stream {streams.LOG} cannot be read: {reason(exc)}; {QUORUM}") from exc
    error = msgspec.json.decode(created.data).get("error")
    if not error:
        return
    said = error.get("description")
    if error.get("code") == HTTPStatus.SERVICE_UNAVAILABLE:
        raise Problem(f"stream {streams.LOG} cannot be read: {said}; {QUORUM}")
    raise Problem(f"{pattern}: {said}; a viewer may look at log.> and nsm.>")
