"""The client between the bus and nats-py, where nats-py has a trap that no login is needed for."""

import asyncio
from typing import Any

import pytest
from nats.aio.client import Client as NatsClient

from lab.nats import NatsServer
from services._runtime.client import Client


@pytest.mark.parametrize("step", ["_connect_to_server", "_process_connect_init"])
@pytest.mark.parametrize("error", [None, OSError("connection refused")])
async def test_who_is_cancelled_while_connecting_ends(
    step: str,
    error: Exception | None,
    nats_server: NatsServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The cancellation comes with an answer or an error, where Python 3.11's wait_for forgets it."""
    original = getattr(NatsClient, step)
    calls = 0

    async def forgetful(self: NatsClient, *args: Any) -> None:
        nonlocal calls
        calls += 1
        await original(self, *args)
        if calls > 1:
            pytest.fail("tried again, though cancelled")
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if error is not None:
                raise error from None

    monkeypatch.setattr(NatsClient, step, forgetful)
    client = Client()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(client.connect(nats_server.url, max_reconnect_attempts=-1))  # noqa: TID251
    await client.close()
