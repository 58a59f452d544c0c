"""One line per message; what is gone says so."""

import asyncio
import json
from datetime import UTC, datetime

import nats
import pytest

from cli.output import OutputFormat
from cli.problems import Problem
from cli.tap import _tap, render, tap

NOW = datetime(2030, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
SUBJECT = "nsm.request.default.app.nsm-1"


def test_a_message_is_time_subject_and_json():
    line = render(SUBJECT, b'{"a": 1}', NOW, OutputFormat.TABLE)
    assert line == f'03:04:05.678  {SUBJECT}  {{"a":1}}'


def test_a_tombstone_is_shown_as_one():
    assert render(SUBJECT, b"", NOW, OutputFormat.TABLE).endswith(f"{SUBJECT}  (gone)")
    released = render(SUBJECT, b'{"released":"uid"}', NOW, OutputFormat.TABLE)
    assert released.endswith('(gone) {"released":"uid"}')


def test_what_is_no_json_is_shown_as_it_is():
    assert '"junk' in render(SUBJECT, b"junk\xff", NOW, OutputFormat.TABLE)


def test_json_lines_have_everything():
    line = json.loads(render(SUBJECT, b'{"released":"u"}', NOW, OutputFormat.JSON))
    assert line == {
        "time": "2030-01-02T03:04:05.678+00:00",
        "subject": SUBJECT,
        "gone": True,
        "message": {"released": "u"},
    }


@pytest.mark.parametrize("subject", ["", "a b", "nsm..x", "nsm."])
def test_what_is_no_subject_is_told(subject):
    with pytest.raises(Problem, match="joined by dots"):
        tap(subject, url="nats://127.0.0.1:1")


async def test_what_leaders_committed_is_shown_under_the_subject_it_is_about(nats_server, capsys):
    client = await nats.connect(nats_server.url)
    async with asyncio.TaskGroup() as tasks:
        tapping = tasks.create_task(_tap("history.nsm.>", nats_server.url, 1, OutputFormat.JSON))
        while not tapping.done():
            await client.publish(f"history.{SUBJECT}", b"{}")
            await client.flush()
            await asyncio.wait({tapping}, timeout=0.02)
    await client.close()
    assert json.loads(capsys.readouterr().out.splitlines()[0])["subject"] == SUBJECT


async def test_one_subject_is_shown_alone(nats_server, capsys):
    client = await nats.connect(nats_server.url)
    other = SUBJECT.replace("nsm-1", "nsm-2")
    async with asyncio.TaskGroup() as tasks:
        tapping = tasks.create_task(_tap(SUBJECT, nats_server.url, 2, OutputFormat.JSON))
        while not tapping.done():
            for subject in (other, SUBJECT):
                await client.publish(subject, b"{}")
            await client.flush()
            await asyncio.wait({tapping}, timeout=0.02)
    await client.close()
    shown = [json.loads(line)["subject"] for line in capsys.readouterr().out.splitlines()]
    assert shown == [SUBJECT, SUBJECT]
