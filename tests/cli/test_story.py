"""What tells the demo: it waits without using the processor, and says what did not come."""

import pytest

from cli.story import PAUSE_SECONDS, Failed, Story


def test_waiting_leaves_the_processor_to_what_is_waited_for(tmp_path):
    slept: list[float] = []
    Story(tmp_path, sleep=slept.append).until("it comes", lambda: len(slept) == 3)
    assert slept == [PAUSE_SECONDS] * 3


def test_what_does_not_come_is_told(tmp_path):
    with pytest.raises(Failed, match="expected that it comes within 0 s"):
        Story(tmp_path).until("it comes", lambda: False, seconds=0)
