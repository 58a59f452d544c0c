"""The real nats-server that the lab and these tests run."""

from pathlib import Path

import pytest

from lab import nats, natsconfig
from lab.nats import NatsFailed, NatsServer
from services._runtime.bus import Bus
from tests.builders import a_connection


async def test_the_port_and_the_store_outlive_a_restart(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    url = server.url
    bus = await Bus.connect(url, name="owner")
    await bus.ensure_streams()
    sequence = await bus.publish(a_connection())
    server.restart()
    assert server.url == url
    assert await bus.read(a_connection().key) == (a_connection(), sequence)
    await bus.close()
    server.stop()


async def test_a_wipe_forgets_everything_and_wants_the_server_down(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        bus = await Bus.connect(server.url, name="owner")
        before = await bus.ensure_streams()
        with pytest.raises(NatsFailed, match="before wiping"):
            server.wipe()
        server.stop()
        server.wipe()
        server.start()
        assert await bus.ensure_streams() != before
        await bus.close()


def test_a_taken_port_is_an_error_that_names_the_log(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "one") as one:
        two = NatsServer(tmp_path / "two", port=one.port)
        with pytest.raises(NatsFailed, match=r"nats\.log"):
            two.start()


def test_the_configuration_syncs_each_second_and_has_no_monitoring(tmp_path: Path) -> None:
    text = natsconfig.write_config(tmp_path, port=4333).read_text()
    assert 'sync_interval: "1s"' in text
    assert "http" not in text
    assert '"127.0.0.1:4333"' in text
    assert nats.command(tmp_path / "nats.conf")[1:] == ["--config", str(tmp_path / "nats.conf")]
