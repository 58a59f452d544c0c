"""A store of the other kind is gone before a server reads it; real servers made both kinds."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab.nats import NatsServer, binary
from services._runtime.bus import Bus
from tests.manifests.manifests import K8S, rendered
from tests.runtime.clusters import Cluster
from tools import start_nats

OVERLAYS = {"single": K8S, "several": K8S / "overlays/production"}
OTHER = {"single": "several", "several": "single"}


def configured(folder: Path, kind: str) -> Path:
    """What the ConfigMap gives a server of that kind."""
    (shipped,) = [
        each
        for each in rendered(OVERLAYS[kind])
        if each["kind"] == "ConfigMap" and each["metadata"]["name"] == "nsm-nats"
    ]
    folder.mkdir()
    for name, text in shipped["data"].items():
        (folder / name).write_text(text)
    return folder


async def made_by(kind: str, folder: Path, alone: NatsServer) -> Path:
    """A store with streams in it; its server has ended."""
    if kind == "single":
        bus = await Bus.connect(alone.url, name="ipam")
        await bus.ensure_streams()
        await bus.close()
        alone.stop()
        return alone.directory / "store"
    cluster = Cluster(folder)
    try:
        async with asyncio.timeout(60):
            bus = await Bus.connect(",".join(cluster.urls), name="ipam", replicas=3)
            await bus.ensure_streams()
            await bus.close()
    finally:
        cluster.stop()
    return folder / "n0/store"


@pytest.mark.parametrize("kind", OVERLAYS)
async def test_only_a_store_of_the_other_kind_is_removed(kind, nats_server, tmp_path):
    store = await made_by(kind, tmp_path / "servers", nats_server)
    same = configured(tmp_path / "same", kind)
    other = configured(tmp_path / "other", OTHER[kind])
    assert (store / "jetstream").is_dir()
    assert not start_nats.clear(same, store)
    assert (store / "jetstream").is_dir()
    assert start_nats.clear(other, store)
    assert list(store.iterdir()) == []
    assert not start_nats.clear(other, store)


def test_what_a_removal_left_that_was_cut_short_goes_too(tmp_path):
    (tmp_path / "jetstream.old/NSM").mkdir(parents=True)
    assert not start_nats.clear(configured(tmp_path / "conf", "single"), tmp_path)
    assert not (tmp_path / "jetstream.old").exists()


def test_the_process_becomes_the_server(tmp_path):
    """Signals of the kubelet reach it, and who looks for a nats-server finds it."""
    (tmp_path / "cluster.conf").write_text("# One server.\n")
    (tmp_path / "nats.conf").write_text("no such setting {\n")
    path = f"{Path(binary()).parent}:{os.environ['PATH']}"
    command = [sys.executable, "-m", "tools.start_nats", str(tmp_path), str(tmp_path)]
    ended = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    assert ended.returncode == 1
    assert "nats-server:" in ended.stderr
    assert "Parse error on line 1" in ended.stderr
