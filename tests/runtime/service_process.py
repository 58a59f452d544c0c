"""A service as a process, for the tests of `run`: what it does is told by its argument."""

import asyncio
import sys

import msgspec

from services._runtime.run import Runtime, run


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    word: str = "hello"
    password: str = "do-not-print"


async def start(runtime: Runtime) -> None:
    say(f"port {runtime.health.port}")
    if sys.argv[1] == "fail":
        raise ZeroDivisionError
    if sys.argv[1] == "closed":
        await runtime.bus._wire._client.close()
    if sys.argv[1] == "return":
        return
    runtime.health.expect("the thing")
    say("waiting")
    try:
        await asyncio.Event().wait()
    finally:
        say("cancelled")


if __name__ == "__main__":
    run("example", Settings(), start, node=sys.argv[2] if len(sys.argv) > 2 else "")
