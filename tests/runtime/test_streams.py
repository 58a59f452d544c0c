"""Settings of the streams: who may change them, and that a change is counted. On a real nats-server."""

import hashlib
import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from lab.nats import NatsServer
from services._runtime import streams
from services._runtime.bus import Bus

# Edition → digest of its settings. Whoever changes a setting adds a line, and lets the others be.
EDITIONS = {1: "c4eb164cda36e275", 2: "17932d6b507a231c"}


def test_a_change_of_settings_is_a_new_edition() -> None:
    settings = [{**each, "metadata": {}} for each in streams.configs(1)]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    assert max(EDITIONS) == streams.EDITION
    assert EDITIONS[streams.EDITION] == digest, "add one to EDITION, and a line to EDITIONS"


async def sizes(bus: Bus) -> set[tuple[int, int]]:
    """(edition, size) of the streams that hold the truth."""
    found = [(await bus.api(f"STREAM.INFO.{each}"))["config"] for each in streams.TRUTH]
    return {(streams.edition_of(each), each["max_bytes"]) for each in found}


async def test_two_versions_do_not_undo_each_others_settings(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = [await Bus.connect(nats_server.url, name="ipam") for _ in range(2)]
    await old.ensure_streams()
    before, own = await sizes(old), streams.EDITION
    assert {edition for edition, _ in before} == {own}

    with monkeypatch.context() as newer:
        newer.setattr(streams, "EDITION", own + 1)
        newer.setattr(streams, "_MIB", 1 << 19)
        await new.ensure_streams()
        settings = await sizes(new)
        assert {edition for edition, _ in settings} == {own + 1}
        assert settings != before

    with capture_logs() as logs:
        for _ in range(2):
            incarnations = await old.ensure_streams()
    assert incarnations == new.incarnations
    assert await sizes(old) == settings
    (told,) = [each for each in logs if each["log_level"] == "warning"]  # not of every stream
    assert (told["edition"], told["own"]) == (own + 1, own)

    with monkeypatch.context() as newer, capture_logs() as logs:
        newer.setattr(streams, "EDITION", own + 1)
        newer.setattr(streams, "_MIB", 1 << 19)
        await new.ensure_streams()
    assert logs == []  # nothing to correct: nobody undid it
    await old.close()
    await new.close()


async def test_streams_of_a_version_that_counted_no_editions_are_corrected(bus: Bus) -> None:
    for config in streams.configs(1):
        plain: dict[str, Any] = {k: v for k, v in config.items() if k != "metadata"}
        info = await bus.api(f"STREAM.UPDATE.{config['name']}", plain)
        assert streams.edition_of(info["config"]) == 0
    await bus.ensure_streams()
    assert {edition for edition, _ in await sizes(bus)} == {streams.EDITION}
    with capture_logs() as logs:
        await bus.ensure_streams()
    assert logs == []  # what the server adds to the metadata is no difference


async def test_a_stream_that_is_stored_elsewhere_is_used_as_it_is(nats_server: NatsServer) -> None:
    """Edition 1 had NSM_LIVE in memory, and no server moves a stream."""
    bus = await Bus.connect(nats_server.url, name="ipam")
    (live,) = [each for each in streams.configs(1) if each["name"] == streams.LIVE]
    old = {**live, "storage": "memory", "metadata": {}}
    created = (await bus.api(f"STREAM.CREATE.{streams.LIVE}", old))["created"]
    with capture_logs() as logs:
        assert (await bus.ensure_streams())[streams.LIVE] == created
    assert not [each for each in logs if each["log_level"] == "warning"]
    config = (await bus.api(f"STREAM.INFO.{streams.LIVE}"))["config"]
    assert (config["storage"], streams.edition_of(config)) == ("memory", streams.EDITION)
    await bus.close()
