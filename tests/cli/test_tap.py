"""One line per message; what is gone says so."""

import json
from datetime import UTC, datetime

from cli.output import OutputFormat
from cli.tap import render

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
