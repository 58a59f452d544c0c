"""Certificates, credentials and addresses that change under a running watcher, over real TLS."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from lab.api.kinds import PODS
from services._kube import access
from services._runtime.errors import Unavailable
from services.watcher import model
from services.watcher.adapters import Informer, Kube, Resource
from tests.kube import secure as secured
from tests.kube.secure import NEW, OLD, Secure, until
from tests.runtime.helpers import running
from tests.watcher.builders import a_pod


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[Secure]:
    found = Secure(tmp_path)
    yield found
    await found.stop()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_LOOK_SECONDS", 0.0)


VERSION = "/version"


def answers(kube: Kube) -> Callable[[], Awaitable[bool]]:
    return secured.answers(lambda: kube.get(VERSION))


@pytest.mark.parametrize("inline", [False, True], ids=["file", "data"])
async def test_a_rotated_authority_is_believed_once_it_is_written_down_and_not_before(
    secure, inline
):
    await secure.start(OLD)
    async with Kube(str(secure.kubeconfig(OLD, inline=inline))) as kube:
        assert await kube.get(VERSION)
        await secure.start(NEW)
        for _ in range(3):
            with pytest.raises(Unavailable, match="certificate verify failed"):
                await kube.get(VERSION)
        secure.kubeconfig(NEW, inline=inline)
        await until(answers(kube))


async def test_a_rotated_client_certificate_is_shown(secure, tmp_path):
    own = tmp_path / "client.pem"
    user = {"client-certificate": str(own), "client-key": str(own)}
    own.write_bytes(OLD.issue("watcher"))
    await secure.start(OLD, clients=OLD)
    async with Kube(str(secure.kubeconfig(OLD, user=user))) as kube:
        assert await kube.get(VERSION)
        await secure.start(OLD, clients=NEW)
        assert not await answers(kube)()
        own.write_bytes(NEW.issue("watcher"))
        await until(answers(kube))


async def test_a_server_that_moved_is_found(secure):
    await secure.start(OLD)
    async with Kube(str(secure.kubeconfig(OLD))) as kube:
        assert await kube.get(VERSION)
        before, secure.port = secure.port, 0
        await secure.start(OLD)
        assert secure.port != before
        assert not await answers(kube)()
        secure.kubeconfig(OLD)
        await until(answers(kube))


async def test_half_a_kubeconfig_changes_nothing_and_the_whole_one_does(secure):
    await secure.start(OLD)
    async with Kube(str(secure.kubeconfig(OLD))) as kube:
        assert await kube.get(VERSION)
        await secure.start(NEW)
        for half in (b"", b"-----BEGIN CERTIFICATE-----\nMII"):
            (secure.folder / "ca.crt").write_bytes(half)
            assert not await answers(kube)()
        for text in ("", "{half a file"):
            (secure.folder / "kubeconfig").write_text(text)
            assert not await answers(kube)()
        secure.kubeconfig(NEW)
        await until(answers(kube))


async def test_an_informer_goes_on_where_it_was(secure):
    await secure.start(OLD)
    secure.store.create(PODS, a_pod("before"))
    async with Kube(str(secure.kubeconfig(OLD))) as kube:
        changed = asyncio.Event()
        resource = Resource(kind=model.Pod, path="/api/v1/pods")
        informer = Informer(kube, resource, lambda *_: changed.set(), backoff_seconds=(0.01, 0.05))
        async with running(informer.run()):
            await informer.synced.wait()
            await secure.start(NEW)
            changed.clear()
            secure.store.create(PODS, a_pod("after"))
            secure.kubeconfig(NEW)
            async with asyncio.timeout(30):
                await changed.wait()
            assert {name for _, name in informer.items} == {"before", "after"}
