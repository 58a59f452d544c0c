"""`nsm tap`: watch the system think. Every message on the bus as it passes, readable.

`nsm.>` shows what is published, attempts that the server refuses included; `log.nsm.>` shows only what was
stored, removals by the server included.
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

_GONE = "(gone)"


def tap(
    subject: Annotated[
        str, typer.Argument(help="With wildcards, as NATS takes it; log.nsm.> for what was stored.")
    ] = "nsm.>",
    url: Annotated[
        str, typer.Option("--url", help="A NATS server; default: the lab's.", show_default=False)
    ] = "",
    count: Annotated[
        int, typer.Option("--count", "-c", help="End after so many messages; 0: never.")
    ] = 0,
    output: Annotated[OutputFormat, typer.Option("--output", "-o")] = OutputFormat.TABLE,
) -> None:
    """Print messages of the bus as they pass, like `nats sub`."""
    asyncio.run(_tap(subject, url or bus.url(), count, output))


async def _tap(subject: str, server: str, count: int, output: OutputFormat) -> None:
    client = await bus.connect(server, name="nsm-tap")
    done = asyncio.Event()
    seen = 0

    async def show(message: Msg) -> None:
        nonlocal seen
        seen += 1
        if not done.is_set():
            print(render(message.subject, message.data, datetime.now().astimezone(), output))
            sys.stdout.flush()
        if seen == count:
            done.set()

    try:
        await client.subscribe(subject, cb=show, pending_msgs_limit=0, pending_bytes_limit=0)
        await client.flush()
        print(f"listening to {subject} on {server}", file=sys.stderr, flush=True)
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
