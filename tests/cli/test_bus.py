"""Looking at a bus that asks who looks."""

import asyncio
import base64
import contextlib
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from cli import bus, connecting, persons
from cli.listening import listen
from cli.output import OutputFormat
from cli.problems import Problem
from cli.tap import _tap
from schemas.codec import encode
from schemas.subjects import ConnectionKey
from services._runtime.access import Access
from services._runtime.bus import Bus
from tests.builders import a_connection
from tests.cli.test_main import nsm
from tests.runtime.callout import GuardedNats, Responder, Tokens, a_certificate, answering
from tests.runtime.clusters import Cluster


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
async def guarded(tmp_path: Path, tokens: Tokens) -> AsyncIterator[tuple[GuardedNats, Responder]]:
    """A guarded bus that holds two connections."""
    with GuardedNats(tmp_path / "guarded") as server:
        async with answering(server, tokens) as responder:
            ipam = await Bus.connect(server.url, name="ipam", access=tokens.write("ipam"))
            await ipam.ensure_streams()
            await ipam.publish(a_connection("one"))
            await ipam.publish(a_connection("two"))
            await ipam.close()
            yield server, responder


@pytest.mark.parametrize("role", ["viewer", "admin"])
async def test_people_read_with_their_token_under_their_role(
    guarded: tuple[GuardedNats, Responder],
    tokens: Tokens,
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, responder = guarded
    monkeypatch.setenv("NSM_TOKEN_FILE", tokens.write(role).token_file)
    found = await bus._snapshot(server.url, ["connection", "resolver"])
    assert [key for key, _ in found] == [
        ConnectionKey("node1", "default", pod, "nsm-vpn") for pod in ("one", "two")
    ]
    assert responder.logins[-1].startswith(f"{role}-")


@pytest.mark.parametrize("role", ["viewer", "admin"])
async def test_people_listen_with_their_token(
    guarded: tuple[GuardedNats, Responder],
    tokens: Tokens,
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, _ = guarded
    monkeypatch.setenv("NSM_TOKEN_FILE", tokens.write(role).token_file)
    client = await connecting.connect(server.url, name="nsm-tap")
    ipam = await Bus.connect(server.url, name="ipam", access=tokens.write("ipam"))
    heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        heard.put_nowait((message.subject, message.data))

    try:
        await listen(client, "nsm.>", hear)
        connection = a_connection("three")
        await ipam.publish(connection)
        async with asyncio.timeout(20):
            assert await heard.get() == (connection.key.subject, encode(connection))
        assert heard.empty()
    finally:
        await ipam.close()
        await client.close()


async def test_a_viewer_listens_on_after_a_restart_of_the_server(
    guarded: tuple[GuardedNats, Responder], tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = guarded
    monkeypatch.setenv("NSM_TOKEN_FILE", tokens.write("viewer").token_file)
    client = await connecting.connect(server.url, name="nsm-tap")
    heard: list[str] = []

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    ipam = await Bus.connect(server.url, name="ipam", access=tokens.write("ipam"))
    try:
        await listen(client, "log.nsm.>", hear)
        server.kill()
        server.start()
        async with asyncio.timeout(30):
            while not heard:
                await ipam.publish(a_connection("three"))
                await asyncio.sleep(0.05)
        assert heard[0] == f"log.{a_connection('three').key.subject}"
    finally:
        await ipam.close()
        await client.close()


async def test_who_listens_survives_a_rotated_authority(
    tmp_path: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted = tmp_path / "ca.pem"
    monkeypatch.setenv("NSM_TLS_CA", str(trusted))
    monkeypatch.setenv("NSM_TOKEN_FILE", tokens.write("viewer").token_file)
    access = tokens.write("ipam")
    access = Access.of("ipam", token_file=access.token_file, tls_ca=str(trusted))
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        heard.put_nowait(message.subject)

    with GuardedNats(tmp_path / "tls", tls=True) as server:
        trusted.write_bytes(server.certificate.read_bytes())
        async with answering(server, tokens):
            ipam = await Bus.connect(server.url, name="ipam", access=access)
            await ipam.ensure_streams()
            client = await connecting.connect(server.url, name="nsm-tap")
            await listen(client, "log.nsm.>", hear)
        try:
            server.kill()
            trusted.write_bytes(a_certificate(server.directory).read_bytes())
            server.start()
            async with answering(server, tokens), asyncio.timeout(30):
                while heard.empty():
                    await ipam.publish(a_connection("three"))
                    await asyncio.sleep(0.05)
        finally:
            await ipam.close()
            await client.close()


@pytest.mark.parametrize("is_set", [True, False])
async def test_a_certificate_that_is_not_trusted_is_named_and_no_token_is_blamed(
    tmp_path: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch, *, is_set: bool
) -> None:
    (tmp_path / "other").mkdir()
    wrong = a_certificate(tmp_path / "other")
    monkeypatch.setenv("NSM_TLS_CA", str(wrong) if is_set else "")
    monkeypatch.setenv("NSM_TOKEN_FILE", tokens.write("viewer").token_file)
    with GuardedNats(tmp_path / "tls", tls=True) as server, pytest.raises(Problem) as caught:
        await connecting.connect(server.url, name="nsm-tap")
    assert "its certificate is not trusted by" in str(caught.value)
    assert (f"NSM_TLS_CA={wrong}" if is_set else "NSM_TLS_CA is not set") in str(caught.value)
    assert "token" not in str(caught.value)


async def test_a_word_in_plain_where_tls_begins_is_no_question_of_trust_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connecting, "_TIMEOUT_SECONDS", 1.0)
    came = 0

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal came
        came += 1
        with contextlib.suppress(OSError):
            writer.write(b'INFO {"server_id":"x","max_payload":1,"tls_required":true}\r\n')
            await reader.read(1)  # it begins to speak TLS
            writer.write(b"-ERR 'maximum connections exceeded'\r\n")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Problem) as caught:
            await connecting.connect(f"nats://127.0.0.1:{port}", name="nsm-tap")
    assert "trusted" not in str(caught.value)
    assert "WRONG_VERSION_NUMBER" in str(caught.value)
    assert came > 2  # the first knocks


async def test_a_server_without_tls_is_told_where_tls_is_wanted(
    guarded: tuple[GuardedNats, Responder], tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = guarded
    monkeypatch.setenv("NSM_TLS_CA", str(server.certificate))
    monkeypatch.setenv("NSM_TOKEN_FILE", tokens.write("viewer").token_file)
    with pytest.raises(Problem, match="does not offer TLS, which NSM_TLS_CA asks for"):
        await connecting.connect(server.url, name="nsm-tap")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file"),
        ("", "is empty"),
        ("abc", "no token of a ServiceAccount"),
        ("e30.e30.x", "no token of a ServiceAccount"),
        ("e30.W10.x", "no token of a ServiceAccount"),
        ("e30.%%%.x", "no token of a ServiceAccount"),
    ],
)
def test_a_token_file_of_no_use_is_told_by_name(
    tmp_path: Path, text: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("NSM_TOKEN_FILE", str(path))
    with pytest.raises(Problem, match=said) as caught:
        persons.person("nats://127.0.0.1:4222", "nsm-cli")
    assert str(path) in str(caught.value)


async def test_who_is_not_let_in_is_told_why(
    guarded: tuple[GuardedNats, Responder], tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = guarded
    monkeypatch.setattr(connecting, "_TIMEOUT_SECONDS", 1.0)
    access = tokens.write("viewer", seconds=-1)
    monkeypatch.setenv("NSM_TOKEN_FILE", access.token_file)
    with pytest.raises(
        Problem, match=r"(Authorization Violation|at the login).*role viewer"
    ) as caught:
        await connecting.connect(server.url, name="nsm-tap")
    assert access.token_file in str(caught.value)
    assert "nsm lab logs auth" in str(caught.value)


async def test_a_refused_login_is_not_tried_on_and_on(
    guarded: tuple[GuardedNats, Responder], tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = guarded
    access = tokens.write("viewer", seconds=-1)
    monkeypatch.setenv("NSM_TOKEN_FILE", access.token_file)
    with pytest.raises(Problem):
        await connecting.connect(server.url, name="nsm-tap")
    assert 1 <= server.log.read_text().count("authentication error") <= 2


def test_a_connection_of_a_node_role_is_called_after_the_node_of_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = {
        "sub": "system:serviceaccount:nsm-system:nsm-dns",
        "kubernetes.io": {"node": {"name": "n1.example"}},
    }
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    path = tmp_path / "token"
    path.write_text(f"e30.{body}.x")
    monkeypatch.setenv("NSM_TOKEN_FILE", str(path))
    assert re.fullmatch(r"dns-n1_example-[0-9a-f]{8}", persons.person("nats://x", "nsm-cli").name)


@pytest.mark.parametrize("role", ["ipam", "watcher"])
async def test_a_token_of_a_service_is_refused_with_whose_to_use(
    guarded: tuple[GuardedNats, Responder],
    tokens: Tokens,
    role: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server, _ = guarded
    monkeypatch.setenv("NSM_TOKEN_FILE", tokens.write(role).token_file)
    with pytest.raises(Problem, match="token of nsm-viewer or nsm-admin") as caught:
        await _tap(None, server.url, 1, OutputFormat.TABLE)
    assert caught.value.exit_code == 1
    with pytest.raises(Problem, match="token of nsm-viewer or nsm-admin"):
        await bus._snapshot(server.url, ["connection"])


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three servers that hold the streams."""
    cluster = Cluster(tmp_path / "three")
    try:
        owner = await Bus.connect(",".join(cluster.urls), name="ipam", replicas=3)
        async with asyncio.timeout(60):
            await owner.ensure_streams()
        await owner.close()
        yield cluster
    finally:
        cluster.stop()


async def test_without_most_servers_commands_say_that_and_what_to_do(
    three: Cluster, tmp_path: Path
) -> None:
    url = ",".join(three.urls)
    lab = str(tmp_path / "none")
    done = await asyncio.to_thread(nsm, "ipam", "--url", url, lab=lab)
    assert done.returncode == 0, done.stderr
    three.kill(1)
    three.kill(2)
    async with asyncio.timeout(60):
        while done.returncode == 0:  # until the one that is left has noticed
            done = await asyncio.to_thread(nsm, "ipam", "--url", url, lab=lab)
    said = "more than half of its NATS servers have to run; see: nsm status"
    assert said in done.stderr
    assert done.stderr.startswith("nsm: stream NSM_GRANT cannot be read: ")
    assert "Error" not in done.stderr
    assert "Traceback" not in done.stderr
