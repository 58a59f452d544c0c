"""Small things the commands share."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cli import labs
from cli.labs import duration_seconds, in_child
from cli.problems import Problem
from lab.layout import Layout


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("0.02", 0.02), ("30s", 30), ("500ms", 0.5), ("1m30s", 90), ("1h", 3600)],
)
def test_durations_are_read_as_kubernetes_writes_them(text, seconds):
    assert duration_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "1x", "1s2", "-1s", "one"])
def test_what_is_no_duration_is_refused_with_an_example(text):
    with pytest.raises(Problem, match="30s"):
        duration_seconds(text)


def test_a_problem_in_a_child_is_told_and_gives_its_exit_code(capfd):
    def fail() -> int:
        raise Problem("the thing: the reason; the remedy", exit_code=3)

    assert in_child(fail) == 3
    assert capfd.readouterr().err == "nsm: the thing: the reason; the remedy\n"
    assert in_child(lambda: 7) == 7


def test_a_reader_who_left_is_exit_code_141_and_no_traceback(tmp_path):
    code = (
        "import sys; from cli.labs import in_child\n"
        "sys.exit(in_child(lambda: print('x' * 10) or 0))"
    )
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_only_the_bus_of_the_running_lab_is_the_labs(monkeypatch, tmp_path):
    monkeypatch.setattr(labs, "layout", lambda: Layout(tmp_path))
    assert not labs.is_bus_of_lab("nats://127.0.0.1:4222")
    monkeypatch.setattr(
        labs, "running", lambda: (None, SimpleNamespace(nats_url="nats://127.0.0.1:4222"))
    )
    assert labs.is_bus_of_lab("nats://127.0.0.1:4222")
    assert not labs.is_bus_of_lab("nats://127.0.0.1:4223")
