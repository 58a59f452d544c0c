"""The demo is the README's first command: it must hold wherever the tests run."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_the_demo_tells_the_whole_story_and_leaves_nothing():
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "demo"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All of it held" in done.stdout
