"""A lab's API server without a lab, as the lab that commands are about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from cli import labs
from lab.api.server import LabApi
from lab.api.store import Store
from lab.layout import State


@asynccontextmanager
async def lab_api(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LabApi]:
    """For the length of the block."""
    server = LabApi(Store())
    await server.start()
    state = State(
        launcher_pid=1,
        init_pid=1,
        daemon_pid=1,
        nodes=(),
        services=(),
        api_url=server.url,
        nats_url="",
        started="",
    )
    monkeypatch.setattr(labs, "running", lambda: (labs.layout(), state))
    yield server
    await server.stop()
