"""A nats-server is told of changed files, once for each change, and never of none."""

import os
import signal
from pathlib import Path

import pytest

from tools import reload_nats


@pytest.fixture
def told(monkeypatch):
    signals = []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    monkeypatch.setattr(reload_nats, "servers", lambda: [42])
    return signals


def mounted(directory: Path, version: str, content: str) -> None:
    """As a kubelet does it: files are links by way of `..data`, which changes all of them at once."""
    (directory / version).mkdir()
    (directory / version / "tls.crt").write_text(content)
    (directory / "new").symlink_to(version)
    (directory / "new").rename(directory / "..data")
    link = directory / "tls.crt"
    if not link.is_symlink():
        link.symlink_to("..data/tls.crt")


def test_a_change_is_told_once(tmp_path, told):
    mounted(tmp_path, "..1", "old")
    known = reload_nats.digest(tmp_path)
    assert reload_nats.look(tmp_path, known, spread=0) == known
    mounted(tmp_path, "..2", "old")
    assert reload_nats.look(tmp_path, known, spread=0) == known, "the same content"
    assert not told
    mounted(tmp_path, "..3", "new")
    now = reload_nats.look(tmp_path, known, spread=0)
    assert reload_nats.look(tmp_path, now, spread=0) == now != known
    assert told == [(42, signal.SIGHUP)]


def test_a_restart_of_the_container_forgets_nothing_and_invents_nothing(tmp_path, told):
    files, memory = tmp_path / "files", tmp_path / "memory"
    files.mkdir()
    mounted(files, "..1", "old")
    known = reload_nats.remembered(files, memory)
    assert known == reload_nats.digest(files)
    mounted(files, "..2", "new")  # while it was down
    assert reload_nats.remembered(files, memory) == known
    assert reload_nats.look(files, known, spread=0) != known
    assert told == [(42, signal.SIGHUP)]


def test_only_the_bus_is_a_server(tmp_path):
    for pid, name in (("7", "nats-server"), ("8", "python")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_text(f"{name}\n")
    (tmp_path / "9").mkdir()  # ended meanwhile
    assert reload_nats.servers(tmp_path) == [7]
