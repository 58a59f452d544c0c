"""A nats-server that can be killed, wiped and started again on its port."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.nats import NatsServer


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    server.start()
    yield server
    server.stop()


def wipe(nats: NatsServer) -> None:
    """Everything on the bus is gone at once."""
    nats.kill()
    nats.wipe()
    nats.start()
