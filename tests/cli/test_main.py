"""The command line: its help, its mistakes, its speed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli import lazy, main
from cli.ipam import IPAM


def nsm(*words: str, lab: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *words],
        env={**os.environ, "NSM_LAB_DIR": lab, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("group", [main.NSM, main.LAB, IPAM])
def test_every_command_can_be_imported_and_says_what_it_does(group):
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        assert command is not None, name
        assert command.help, f"nsm {name} has no help"


def test_help_lists_every_command(tmp_path):
    done = nsm("lab", "--help", lab=str(tmp_path))
    assert done.returncode == 0
    for name in main.LAB_COMMANDS:
        assert f" {name} " in done.stdout


def test_a_mistyped_command_is_refused_with_the_one_meant(tmp_path):
    done = nsm("lab", "gett", lab=str(tmp_path))
    assert done.returncode == 2
    assert "get" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["lab", "get", "pods"],
        ["lab", "get", "connections"],
        ["lab", "exec", "p", "--", "true"],
        ["lab", "ps"],
        ["lab", "kill", "nats"],
        ["lab", "down"],
        ["lab", "kubeconfig"],
        ["lab", "wait", "pod/p"],
        ["lab", "delete", "pod", "p"],
        ["lab", "interfaces", "p"],
        ["ping", "p", "10.0.0.1"],
        ["tap"],
        ["ipam"],
        ["ipam", "-n", "default"],
        ["ipam", "explain", "172.16.1.5"],
    ],
    ids=" ".join,
)
def test_without_a_lab_every_command_says_how_to_start_one(tmp_path, words):
    done = nsm(*words, lab=str(tmp_path / "none"))
    assert done.returncode == 1
    assert done.stderr.startswith("nsm: ") and "nsm lab up" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_command_imports_only_what_it_needs():
    code = (
        "import sys; from cli import main; main.NSM.get_command(None, 'annotation');"
        "print([m for m in ('nats', 'aiohttp', 'pyroute2', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_name_is_no_command():
    group = lazy.group("g", {"a": "cli.annotation:annotation"}, help_text="x")
    assert group.get_command(None, "b") is None


def test_operations_name_commands_and_metrics_that_exist():
    docs = Path(__file__).parent.parent.parent / "docs"
    text = (docs / "operations.md").read_text()
    reference = (docs / "reference" / "metrics.md").read_text()
    for command in set(re.findall(r"\bnsm ([a-z]+)", text)) - {"itself"}:
        assert command in main.COMMANDS, f"nsm {command}"
    for command in set(re.findall(r"\bnsm lab ([a-z]+)", text)):
        assert command in main.LAB_COMMANDS, f"nsm lab {command}"
    metrics = set(re.findall(r"\b(nsm_[a-z_]+)", text)) - {"nsm_tunnels"}
    assert metrics
    for metric in metrics:
        assert f"`{metric}" in reference, metric
