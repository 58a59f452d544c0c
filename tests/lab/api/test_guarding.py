"""A server without a token answers its owner's own programs, and nobody else on loopback."""

import asyncio
import json
import os
import socket

import aiohttp
import pytest

from lab.api.guarding import guard
from lab.api.kinds import PODS
from lab.api.server import LabApi
from lab.peers import Peers
from tests.lab.api.builders import a_pod

NOBODY = 65534


@pytest.fixture
def peers():
    opened = Peers()
    yield opened
    opened.close()


@pytest.fixture
async def guarded(store, peers):
    server = LabApi(store, middlewares=[guard(peers.is_trusted)])
    await server.start()
    yield server
    await server.stop()


def a_strangers_socket() -> socket.socket:
    os.seteuid(NOBODY)
    try:
        return socket.socket()
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
async def test_another_user_is_forbidden_to_do_anything(guarded, store):
    body = json.dumps(a_pod("evil"))
    host = guarded.url.removeprefix("http://")
    sock = a_strangers_socket()
    await asyncio.to_thread(sock.connect, ("127.0.0.1", int(host.rsplit(":", 1)[1])))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(
        f"POST /api/v1/namespaces/default/pods HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    head, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()

    assert head.startswith(b"HTTP/1.1 403 ")
    status = json.loads(answer)
    assert (status["kind"], status["reason"], status["code"]) == ("Status", "Forbidden", 403)
    assert store.find(PODS, "default", "evil") is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_whose_a_socket_is_does_not_change_when_it_is_closed(peers):
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = server.getsockname()
        client = a_strangers_socket()
        client.connect(here)
        accepted, peer = server.accept()
        with accepted:
            assert not peers.is_trusted(peer, here)
            client.close()  # from here on the kernel shows it as root's
            assert not peers.is_trusted(peer, here)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_our_own_sockets_are_trusted_also_through_ipv6(peers, family):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(family) as client:
        host, port = server.getsockname()
        client.connect((host if family == socket.AF_INET else f"::ffff:{host}", port))
        accepted, peer = server.accept()
        with accepted:
            assert peers.is_trusted(peer, (host, port))


def test_a_socket_that_is_nowhere_is_not_trusted(peers):
    assert not peers.is_trusted(("127.0.0.1", 1), ("127.0.0.1", 2))


@pytest.mark.parametrize(
    ("method", "headers", "code"),
    [
        ("GET", {}, 200),
        ("GET", {"Host": "localhost:{port}"}, 200),
        ("GET", {"Host": "evil.example:{port}"}, 403),
        ("GET", {"Host": "127.0.0.1"}, 403),
        ("GET", {"Origin": "http://evil.example"}, 403),
        ("POST", {"Content-Type": "application/json"}, 201),
        ("POST", {"Content-Type": "text/plain"}, 415),
        ("POST", {"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ("POST", {}, 415),
    ],
    ids=str,
)
async def test_no_web_page_can_use_the_owners_browser(guarded, method, headers, code):
    port = guarded.url.rsplit(":", 1)[1]
    named = {name: value.format(port=port) for name, value in headers.items()}
    body = json.dumps(a_pod("web")).encode() if method == "POST" else None
    url = f"{guarded.url}/api/v1/namespaces/default/pods"
    async with (
        aiohttp.ClientSession(skip_auto_headers=["Content-Type"]) as session,
        session.request(method, url, headers=named, data=body) as response,
    ):
        assert response.status == code
        assert (await response.json())["kind"] in ("PodList", "Pod", "Status")


async def test_a_connection_is_looked_up_once(store):
    asked = []

    def is_trusted(*ends):
        asked.append(ends)
        return True

    server = LabApi(store, middlewares=[guard(is_trusted)])
    url = await server.start()
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.get(f"{url}/version") as response:
                assert response.status == 200
    await server.stop()
    assert len(asked) == 1
