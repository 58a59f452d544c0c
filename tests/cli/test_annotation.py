"""`nsm annotation`: what an annotation means, or where it is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEED = "kernel://my-networkservice-1/nsm-1?app=foo&version=v1.1, kernel://my-networkservice-2"


def annotation(*words):
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "annotation", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_seeds_annotation_is_explained_as_a_table_and_as_json():
    table = annotation(SEED)
    assert table.returncode == 0
    assert "nsm-1" in table.stdout
    assert "app=foo,version=v1.1" in table.stdout

    first, second = json.loads(annotation(SEED, "-o", "json").stdout)
    assert first["interface"] == "nsm-1"
    assert first["labels"] == {"app": "foo", "version": "v1.1"}
    assert second["network_service"] == "my-networkservice-2"
    assert second["interface"].startswith("nsm-my-net-")


def test_a_wrong_one_is_pointed_at_and_ends_with_1():
    wrong = annotation("kernel://a, vfio://b")
    assert wrong.returncode == 1
    lines = wrong.stderr.splitlines()
    assert lines[0] == "kernel://a, vfio://b"
    assert lines[1] == " " * 12 + "^"
    assert lines[2].startswith("column 13: unknown mechanism 'vfio'; ")

    told = json.loads(annotation("kernel://a, vfio://b", "-o", "json").stdout)
    assert told["column"] == 13


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_one_asks_for_nothing(text):
    assert "asks for nothing" in annotation(text).stdout


def test_a_namespace_that_cannot_be_is_refused():
    assert annotation("svc", "-n", "NOPE_").returncode == 2
