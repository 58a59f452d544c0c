"""Fixtures for everyone: a real nats-server per test, and buses on it."""

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from lab.nats import NatsServer
from services._runtime.bus import Bus


def pytest_configure() -> None:
    """No example has a deadline: how long one takes is the machine's affair.

    Tracebacks are as plain as in production: with colours and local variables each takes a second or more.
    In the background of a script SIGINT is ignored, which commands that are ended by Ctrl-C would inherit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    hypothesis.settings.register_profile("nsm", deadline=None)
    hypothesis.settings.load_profile("nsm")
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    processors = structlog.get_config()["processors"]
    structlog.configure(processors=[*processors[:-1], plain])


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A nats-server with an empty store."""
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """An owner's bus: the streams are there."""
    bus = await Bus.connect(nats_server.url, name="owner")
    await bus.ensure_streams()
    yield bus
    await bus.close()


@pytest.fixture
async def node_bus(bus: Bus, nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A node's bus: it may not ask for streams."""
    node_bus = await Bus.connect(nats_server.url, name="plumber-node1")
    yield node_bus
    await node_bus.close()
