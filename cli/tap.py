"""`nsm tap`: watch the system think. Every message on the bus as it passes, readable.

`nsm.>` shows what is published, attempts that the server refuses included; `log.nsm.>` shows only what was
stored, removals by the server included; `history.nsm.>` shows what the leaders committed, under the subjects
it is about.
"""

import asyncio
import sys
from datetime import datetime
from typing import Annotated

import msgspec
import typer
from nats.aio.msg import Msg

from cli import bus
from cli.output import OutputFormat
from cli.problems import Problem
from schemas import subjects
from services._runtime.streams import HISTORY_ROOT, told_subject

_GONE = "(gone)"


def tap(
    subject: Annotated[
        str, typer.Argument(help="With wildcards, as NATS takes it; log.nsm.> for what was stored.")
    ] = f"{subjects.ROOT}.>",
    url: Annotated[
        str, typer.Option("--url", help="A NATS server; default: the lab's.", show_default=False)
    ] = "",
    count: Annotated[
        int, typer.Option("--count", "-c", help="End after so many messages; 0: never.")
    ] = 0,
    output: Annotated[OutputFormat, typer.Option("--output", "-o")] = OutputFormat.TABLE,
) -> None:
    """Print messages of the bus as they pass, like `nats sub`."""
    if not _is_subject(subject):
        raise Problem(f"subject {subject!r}: words joined by dots, such as nsm.>", exit_code=2)
    asyncio.run(_tap(subject, url or bus.url(), count, output))


def _is_subject(text: str) -> bool:
    return all(text.split(".")) and not any(sign.isspace() for sign in text)


async def _tap(subject: str, server: str, count: int, output: OutputFormat) -> None:
    client = await bus.connect(server, name="nsm-tap")
    done = asyncio.Event()
    tells_history = subject.startswith(f"{HISTORY_ROOT}.")
    seen = 0

    async def show(message: Msg) -> None:
        nonlocal seen
        seen += 1
        if not done.is_set():
            about = told_subject(message.subject) if tells_history else message.subject
            print(render(about, message.data, datetime.now().astimezone(), output))
            sys.stdout.flush()
        if seen == count:
            done.set()

    try:
        await client.subscribe(subject, cb=show, pending_msgs_limit=0, pending_bytes_limit=0)
        await client.flush()
        print(f"listening to {subject} on {bus.shown(server)}", file=sys.stderr, flush=True)
        await done.wait()
    finally:
        await client.close()


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
