"""What tells the demo: it waits without using the processor, and says what did not come."""

import time

import pytest

from cli.story import Failed, Story


def test_waiting_leaves_the_processor_to_what_is_waited_for(tmp_path):
    before = time.process_time()
    with pytest.raises(Failed, match="expected that it comes within 0 s"):
        Story(tmp_path).until("it comes", lambda: False, seconds=0.4)
    assert time.process_time() - before < 0.2
