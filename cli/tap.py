"""`nsm tap`: watch the system think. Every message on the bus as it passes, readable.

`nsm.>` shows what is published, attempts that the server refuses included; `log.nsm.>` shows only what was
stored, removals by the server included; `history.nsm.>` shows what the leaders committed, under the subjects
it is about.
"""

import asyncio
import os
import sys
from datetime import datetime
from typing import Annotated

import msgspec
import typer
from nats.aio.msg import Msg

from cli import bus, connecting
from cli.listening import listen
from cli.options import Output, Url
from cli.output import OutputFormat
from cli.problems import Problem
from schemas import subjects
from services._runtime.streams import HISTORY_ROOT, told_subject

_GONE = "(gone)"
_ALL = f"{subjects.ROOT}.>"
# Every second, whether anything happens or not: shown to who asks for them.
_BEATS = (
    f"{subjects.ROOT}.{subjects.LeaseKey.kind}.",
    f"{subjects.ROOT}.{subjects.AliveKey.kind}.",
)


def tap(
    subject: Annotated[
        str | None,
        typer.Argument(
            help="With wildcards, as NATS takes it; log.nsm.> for what was stored. "
            f"Default: {_ALL} without leases and heartbeats.",
            show_default=False,
        ),
    ] = None,
    url: Url = "",
    count: Annotated[
        int, typer.Option("--count", "-c", help="End after so many messages; 0: never.")
    ] = 0,
    output: Output = OutputFormat.TABLE,
) -> None:
    """Print messages of the bus as they pass, like `nats sub`."""
    if subject is not None and not _is_subject(subject):
        raise Problem(f"subject {subject!r}: words joined by dots, such as nsm.>", exit_code=2)
    if not asyncio.run(_tap(subject, url or bus.url(), count, output)):
        # Python flushes once more at its end; nobody reads that either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(141)


def _is_subject(text: str) -> bool:
    return all(text.split(".")) and not any(sign.isspace() for sign in text)


async def _tap(asked: str | None, server: str, count: int, output: OutputFormat) -> bool:
    """Until enough was shown; whether anybody still reads us."""
    subject = asked or _ALL
    client = await connecting.connect(server, name="nsm-tap")
    done = asyncio.Event()
    is_read = True
    tells_history = subject.startswith(f"{HISTORY_ROOT}.")
    seen = 0

    async def show(message: Msg) -> None:
        nonlocal seen, is_read
        if done.is_set() or (asked is None and message.subject.startswith(_BEATS)):
            return
        seen += 1
        about = told_subject(message.subject) if tells_history else message.subject
        try:
            print(render(about, message.data, datetime.now().astimezone(), output), flush=True)
        except BrokenPipeError:  # nats-py would swallow it, and we would listen for ever
            is_read = False
        if seen == count or not is_read:
            done.set()

    try:
        await listen(client, subject, show)
        print(f"listening to {subject} on {connecting.shown(server)}", file=sys.stderr, flush=True)
        await done.wait()
    finally:
        await client.close()
    return is_read


def render(subject: str, data: bytes, now: datetime, output: OutputFormat) -> str:
    """One line for one message. What says that a thing is gone says so first."""
    try:
        body = msgspec.json.decode(data) if data else None
    except msgspec.DecodeError:
        body = data.decode(errors="replace")
    gone = not data or (isinstance(body, dict) and "released" in body)
    if output is OutputFormat.JSON:
        line = {"time": now.isoformat(timespec="milliseconds"), "subject": subject}
        return msgspec.json.encode(line | {"gone": gone, "message": body}).decode()
    text = msgspec.json.encode(body).decode() if data else ""
    said = f"{_GONE} {text}".rstrip() if gone else text
    return f"{now.strftime('%H:%M:%S.%f')[:-3]}  {subject}  {said}"
