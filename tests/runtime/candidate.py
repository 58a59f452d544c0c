"""A candidate for ipam's leadership in a process of its own: says `leading`, writes on, says `deposed`."""

import asyncio
import itertools
import sys

from services._runtime import streams
from services._runtime.bus import Bus
from services._runtime.leading import Term, lead
from services._runtime.mirror import Mirror
from tests.builders import a_connection


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def main(url: str, holder: str) -> None:
    bus = await Bus.connect(url, name="ipam")
    own = Mirror(bus, streams.GRANT, ["nsm.>"], on_change=lambda *_: None)

    async def decide(term: Term) -> None:
        say(f"leading {holder} after {len(own.items)}")
        try:
            for number in itertools.count():
                await term.publish(a_connection(f"{holder}-{number % 100}", revision=number))
                await asyncio.sleep(0.002)
        finally:
            say(f"deposed {holder}")

    async with asyncio.TaskGroup() as group:
        group.create_task(own.run())
        group.create_task(lead(bus, "ipam", own, decide, holder=holder))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
