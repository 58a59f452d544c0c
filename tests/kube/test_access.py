"""Access: what is written down is read again when it may have changed, and no more often than that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from lab.api.listening import Listener
from services._kube import Access, NoCluster, access
from services._runtime.errors import Unavailable

LIMITS = aiohttp.ClientTimeout(total=10)


class Counted(Access):
    reads = 0

    async def _read(self):
        self.reads += 1
        return await super()._read()


class Doorkeeper:
    """Lets in who has the token."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.token = "first"
        self.url = ""

    def write(self, token: str) -> None:
        self.path.write_text(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n"
            f"clusters: [{{name: c, cluster: {{server: '{self.url}'}}}}]\n"
            "contexts: [{name: c, context: {cluster: c, user: u}}]\n"
            f"users: [{{name: u, user: {{token: {token}}}}}]\n"
        )

    async def answer(self, request: web.Request) -> web.Response:
        known = request.headers.get("Authorization") == f"Bearer {self.token}"
        return web.Response(status=200 if known else 401)

    @asynccontextmanager
    async def served(self) -> AsyncIterator["Doorkeeper"]:
        app = web.Application()
        app.router.add_get("/", self.answer)
        listener = await Listener.open(app, shutdown_timeout=0.1)
        self.url = f"http://127.0.0.1:{listener.port}"
        self.write("first")
        try:
            yield self
        finally:
            await listener.close()


@pytest.fixture
async def door(tmp_path):
    async with Doorkeeper(tmp_path / "kubeconfig").served() as door:
        yield door


async def ask(found: Access) -> int:
    async with found.request("GET", "/", limits=LIMITS) as response:
        return response.status


async def test_a_new_token_goes_into_the_next_request(door, monkeypatch):
    monkeypatch.setattr(access, "_LOOK_SECONDS", 0.0)
    async with Access(str(door.path), name="test") as found:
        assert await ask(found) == 200
        door.token = "second"
        assert await ask(found) == 401
        door.write("second")
        assert await ask(found) == 401
        assert await ask(found) == 200


async def test_a_hundred_refusals_are_one_look(door, monkeypatch):
    monkeypatch.setattr(access, "_LOOK_SECONDS", 3600.0)
    async with Counted(str(door.path), name="test") as found:
        door.token = "second"
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(found)) for _ in range(100)]
        assert {each.result() for each in asked} == {401}
        assert found.reads == 2  # one of them when it was opened


async def test_a_hundred_without_a_connection_are_one_look(tmp_path, monkeypatch):
    monkeypatch.setattr(access, "_LOOK_SECONDS", 3600.0)
    async with Doorkeeper(tmp_path / "kubeconfig").served() as door:
        pass
    async with Counted(str(door.path), name="test") as found:
        for _ in range(100):
            with pytest.raises(Unavailable, match="GET /: "):
                await ask(found)
        assert found.reads == 2


@pytest.mark.parametrize("text", ["", "{half a file", "kind: Config"])
async def test_what_names_no_cluster_is_told_with_the_remedy(tmp_path, text):
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(NoCluster, match="name one that exists"):
        async with Access(str(path), name="test"):
            pass


async def test_a_password_for_this_host_does_not_get_into_the_way_of_the_token(
    door, tmp_path, monkeypatch
):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with Access(str(door.path), name="test") as found:
        assert await ask(found) == 200


async def test_the_proxy_is_that_of_the_environment(door, monkeypatch):
    for name in ("http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", door.url)
    door.url = "http://api.example"
    door.write("first")
    async with Access(str(door.path), name="test") as found:
        assert await ask(found) == 200


async def test_an_address_that_is_none_any_more_is_not_taken(door, monkeypatch):
    monkeypatch.setattr(access, "_LOOK_SECONDS", 0.0)
    async with Access(str(door.path), name="test") as found:
        url, door.url = door.url, "http://[::1"
        door.write("first")
        door.token = "second"
        assert await ask(found) == 401  # looks again
        door.url = url
        door.write("second")
        assert await ask(found) == 401
        assert await ask(found) == 200
