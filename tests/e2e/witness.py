"""The independent checker on a lab's bus: at the end of every story nothing that stands may conflict."""

import asyncio
import json
import os
import time
from unittest import mock

from cli import connecting
from tests import checker
from tests.checker.reading import read
from tests.e2e.cluster import Cluster

SETTLED_SECONDS = 60.0
_PAUSE_SECONDS = 0.3


def picture(lab: Cluster) -> checker.Picture:
    """What the lab's bus holds now."""
    return asyncio.run(_picture(lab))


def testify(lab: Cluster) -> None:
    """Wait until all has settled; what remains is a conflict. A double grant is one at any moment."""
    deadline = time.monotonic() + SETTLED_SECONDS
    while True:
        seen = picture(lab)
        doubled = checker.double_grants(seen)
        assert not doubled, _told("granted twice", doubled)
        found = checker.conflicts(seen, late=lab.late)
        if not found:
            return
        assert time.monotonic() < deadline, _told(f"after {SETTLED_SECONDS:.0f} s", found)
        time.sleep(_PAUSE_SECONDS)  # the bus is asked anew, there is no event for "settled"


async def _picture(lab: Cluster) -> checker.Picture:
    with mock.patch.dict(os.environ, lab.environment):
        state = json.loads((lab.directory / "lab.json").read_text())
        client = await connecting.connect(state["nats_url"], name="checker")
        try:
            return await read(client)
        finally:
            await client.close()


def _told(when: str, found: list[str]) -> str:
    return "\n".join([f"{when}, the bus holds what conflicts:", *found[:40]])
