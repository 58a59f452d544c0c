"""Logins with tokens on a real nats-server with the accounts of identity: made, renewed, refused, ended."""

import asyncio
import itertools
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services._runtime import streams
from services._runtime.access import Access
from services._runtime.bus import Bus
from services._runtime.errors import Refused
from services._runtime.login import WAIT_FOR_TOKEN_UNTIL
from tests.builders import a_connection, a_status
from tests.runtime.callout import GuardedNats, Responder, Tokens, a_certificate, answering
from tests.runtime.helpers import Leading, mirroring, running, until

LIFE = 5.0  # the server counts whole seconds


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[GuardedNats]:
    with GuardedNats(tmp_path / "guarded") as server:
        yield server


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path)


@pytest.fixture
async def responder(guarded: GuardedNats, tokens: Tokens) -> AsyncIterator[Responder]:
    async with answering(guarded, tokens) as responder:
        yield responder


@pytest.fixture
async def ipam(guarded: GuardedNats, tokens: Tokens, responder: Responder) -> AsyncIterator[Bus]:
    bus = await Bus.connect(guarded.url, name="ipam", access=tokens.write("ipam"))
    await bus.ensure_streams()
    yield bus
    await bus.close()


async def a_plumber(server: GuardedNats, access: Access) -> Bus:
    async with asyncio.timeout(30):
        return await Bus.connect(server.url, name="plumber-node1", access=access)


@pytest.mark.parametrize(
    ("role", "api", "inbox"),
    [
        ("watcher", "$JS.API", "_INBOX"),
        ("ipam", "$JS.API", "_INBOX"),
        ("admin", "$JS.API", "_INBOX"),
        ("plumber", "NSM.API", "_nodes"),
        ("dns", "NSM.API", "_nodes"),
        ("viewer", "NSM.API", "_view"),
    ],
)
def test_the_account_follows_from_the_role_and_only_with_a_token(
    role: str, api: str, inbox: str
) -> None:
    access = Access.of(role, token_file="/a/token")
    assert (access.api, access.inbox) == (api, inbox)
    plain = Access.of(role)
    assert (plain.api, plain.inbox) == ("$JS.API", "_INBOX")


async def test_a_node_publishes_reads_and_follows_from_its_own_account(
    guarded: GuardedNats, tokens: Tokens, ipam: Bus
) -> None:
    plumber = await a_plumber(guarded, tokens.write("plumber"))
    try:
        sequence = await plumber.publish(a_status())
        assert await plumber.read(a_status().key) == (a_status(), sequence)
        assert await plumber.read(a_status("other").key) is None
        await ipam.publish(a_connection(revision=1))
        async with mirroring(plumber, streams.GRANT, ["nsm.connection.node1.>"]) as (mirror, _):
            assert mirror.items[a_connection().key].revision == 1
            await mirror.reached(await ipam.publish(a_connection(revision=2)))
            assert mirror.items[a_connection().key].revision == 2
    finally:
        await plumber.close()


async def test_a_node_follows_many_messages_under_flow_control(
    guarded: GuardedNats, tokens: Tokens, ipam: Bus
) -> None:
    count = 3000
    for first in range(0, count, 500):
        async with asyncio.TaskGroup() as group:
            for number in range(first, first + 500):
                group.create_task(ipam.publish(a_connection(f"pod-{number}")))
    plumber = await a_plumber(guarded, tokens.write("plumber"))
    try:
        async with mirroring(plumber, streams.GRANT, ["nsm.connection.node1.>"]) as (mirror, _):
            assert len(mirror.items) == count
    finally:
        await plumber.close()


async def test_a_renewal_interrupts_nothing(
    guarded: GuardedNats, tokens: Tokens, responder: Responder, ipam: Bus
) -> None:
    leader = await Bus.connect(guarded.url, name="ipam", access=tokens.write("ipam", seconds=LIFE))
    plumber = await a_plumber(guarded, tokens.write("plumber", seconds=LIFE))
    ends = time.monotonic() + LIFE
    leading = Leading(leader, "ipam", streams.GRANT, "ipam-0")
    slowest = 0.0
    filters = ["nsm.connection.node1.>", "nsm.leader.ipam.guard"]
    try:
        with capture_logs() as logs:
            async with (
                mirroring(plumber, streams.GRANT, filters) as (mirror, _),
                running(leading.run(), leader.keep_login(), plumber.keep_login()),
            ):
                async with asyncio.timeout(3):
                    await leading.leads.wait()
                tokens.write("ipam")
                tokens.write("plumber")
                for revision in itertools.count(1):
                    began = time.monotonic()
                    await leading.terms[0].publish(a_connection(revision=revision))
                    await plumber.publish(a_status(revision=revision))
                    await until(lambda: mirror.items[a_connection().key].revision == revision)  # noqa: B023
                    slowest = max(slowest, time.monotonic() - began)
                    if time.monotonic() > ends + 1:
                        break
                assert len(leading.terms) == 1
    finally:
        await plumber.close()
        await leader.close()
    assert (leader.reconnects, plumber.reconnects) == (1, 1)
    assert slowest < 1.0
    assert [entry for entry in logs if entry["log_level"] in ("warning", "error")] == []


async def test_a_token_that_was_not_replaced_yet_is_waited_for(
    guarded: GuardedNats, tokens: Tokens, responder: Responder, ipam: Bus
) -> None:
    life = 10.0
    plumber = await a_plumber(guarded, tokens.write("plumber", seconds=life))
    began = time.monotonic()
    try:
        async with running(plumber.keep_login()):
            await asyncio.sleep(life * 0.79)
            assert plumber.reconnects == 0
            tokens.write("plumber")
            await until(lambda: plumber.reconnects == 1, life)
        assert time.monotonic() - began < life * WAIT_FOR_TOKEN_UNTIL
        assert (await plumber._wire.login_seconds() or 0) > life
    finally:
        await plumber.close()


async def test_an_ended_login_is_a_lost_connection_and_no_end(
    guarded: GuardedNats, tokens: Tokens, ipam: Bus
) -> None:
    access = tokens.write("plumber", seconds=2)
    plumber = await a_plumber(guarded, access)
    try:
        async with mirroring(plumber, streams.GRANT, ["nsm.connection.node1.>"]) as (mirror, _):
            with capture_logs() as logs:
                await until(
                    lambda: any(e["event"].startswith("the bus does not let us in") for e in logs)
                )
                await asyncio.sleep(0.5)  # more refusals, told once
                publishing = asyncio.timeout(30)
                tokens.write("plumber")
                async with publishing:
                    await plumber.publish(a_status())
            await ipam.publish(a_connection(revision=3))
            await until(lambda: a_connection().key in mirror.items)
        assert not plumber.closed.is_set()
        (refused,) = [e for e in logs if e["event"].startswith("the bus does not let us in")]
        assert refused["token_file"] == access.token_file
        assert refused["role"] == "plumber"
        assert "nsm-plumber" in refused["remedy"]
        assert refused["reason"]
    finally:
        await plumber.close()


@pytest.mark.parametrize("state", ["missing", "empty", "refused"])
async def test_who_has_no_good_token_yet_waits_for_one(
    guarded: GuardedNats, tokens: Tokens, ipam: Bus, state: str
) -> None:
    access = tokens.put("plumber", "unknown" if state == "refused" else "")
    if state == "missing":
        Path(access.token_file).unlink()
    with capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            coming = group.create_task(a_plumber(guarded, access))
            await until(lambda: any(e["log_level"] == "error" for e in logs))
            tokens.write("plumber")
    plumber = coming.result()
    try:
        assert await plumber.publish(a_status()) == 1
    finally:
        await plumber.close()
    (said,) = [e for e in logs if e["log_level"] == "error"]
    assert said["token_file"] == access.token_file
    wanted = {"missing": "cannot be read", "empty": "is empty", "refused": "Violation|at the login"}
    assert re.search(wanted[state], said["reason"])


async def test_while_nobody_answers_for_tokens_what_stands_goes_on(
    guarded: GuardedNats, tokens: Tokens
) -> None:
    async with answering(guarded, tokens):
        ipam = await Bus.connect(guarded.url, name="ipam", access=tokens.write("ipam"))
        await ipam.ensure_streams()
        plumber = await a_plumber(guarded, tokens.write("plumber", seconds=8))
    try:
        tokens.write("plumber")
        with capture_logs() as logs:
            async with running(plumber.keep_login()):
                # A login for trial waits out the server's time-out.
                await until(lambda: any("renewed yet" in e["event"] for e in logs), 12)
                assert plumber.reconnects == 0
                assert await plumber.publish(a_status()) == 1
                async with answering(guarded, tokens):
                    await until(lambda: plumber.reconnects == 1)
                    assert await plumber.publish(a_status("other")) == 2
    finally:
        await plumber.close()
        await ipam.close()


async def test_after_a_restart_of_the_server_everybody_is_back_at_once(
    guarded: GuardedNats, tokens: Tokens, responder: Responder, ipam: Bus
) -> None:
    plumber = await a_plumber(guarded, tokens.write("plumber"))
    try:
        took = []
        for _ in range(3):
            guarded.kill()
            guarded.start()
            began = time.monotonic()
            async with asyncio.timeout(30):
                await ipam.ensure_streams()
                await plumber.publish(a_status())
            took.append(time.monotonic() - began)
        # Whoever were there before the responder would wait out the server's two seconds, each time.
        assert min(took) < 1.5
    finally:
        await plumber.close()


async def test_a_responder_that_comes_back_late_lets_everybody_in_again(
    guarded: GuardedNats, tokens: Tokens
) -> None:
    async with answering(guarded, tokens):
        ipam = await Bus.connect(guarded.url, name="ipam", access=tokens.write("ipam"))
        await ipam.ensure_streams()
    try:
        guarded.kill()
        guarded.start()
        with capture_logs() as logs:
            await until(lambda: any(e["event"].startswith("the bus does not let") for e in logs))
            async with answering(guarded, tokens), asyncio.timeout(30):
                await ipam.publish(a_connection())
        assert not ipam.closed.is_set()
    finally:
        await ipam.close()


async def test_what_is_not_permitted_is_counted_each_time_and_told_once(
    guarded: GuardedNats, tokens: Tokens, ipam: Bus
) -> None:
    plumber = await a_plumber(guarded, tokens.write("plumber"))
    try:
        with capture_logs() as logs:
            for _ in range(3):
                await plumber._wire._on_error(Exception('Permissions Violation for Publish to "x"'))
            await plumber._wire._on_error(Exception('Permissions Violation for Publish to "y"'))
        assert len(logs) == 2
        value = plumber.metrics.registry.get_sample_value("nsm_permission_errors_total")
        assert value == 4
    finally:
        await plumber.close()


async def test_tls_is_spoken_with_whom_the_ca_file_vouches_for(
    tmp_path: Path, tokens: Tokens
) -> None:
    with GuardedNats(tmp_path / "tls", tls=True) as server:
        async with answering(server, tokens):
            access = _with_ca(tokens.write("ipam"), server.certificate)
            bus = await Bus.connect(server.url, name="ipam", access=access)
            await bus.ensure_streams()
            await bus.close()


async def test_what_is_trusted_is_read_again_and_who_trusts_nobody_can_still_end(
    tmp_path: Path, tokens: Tokens
) -> None:
    with GuardedNats(tmp_path / "tls", tls=True) as server:
        good = server.certificate.read_bytes()
        async with answering(server, tokens):
            access = _with_ca(tokens.write("ipam"), tmp_path / "ca.pem")
            (tmp_path / "ca.pem").write_bytes(good)
            bus = await Bus.connect(server.url, name="ipam", access=access)
            (tmp_path / "other").mkdir()
            (tmp_path / "ca.pem").write_bytes(a_certificate(tmp_path / "other").read_bytes())
            with capture_logs() as logs:
                await bus._wire._client.force_reconnect()
                await until(lambda: any("CERTIFICATE" in str(e.get("reason")) for e in logs))
            (tmp_path / "ca.pem").write_bytes(good)
            async with asyncio.timeout(30):
                await bus._wire.reconnected(0)
            (tmp_path / "ca.pem").write_bytes((tmp_path / "other" / "cert.pem").read_bytes())
            with capture_logs() as logs:
                await bus._wire._client.force_reconnect()
                await until(lambda: any("CERTIFICATE" in str(e.get("reason")) for e in logs))
                async with asyncio.timeout(20):
                    await bus.close()


async def test_a_token_never_travels_in_the_clear_where_tls_is_wanted(
    guarded: GuardedNats, tokens: Tokens, responder: Responder
) -> None:
    access = _with_ca(tokens.write("plumber"), guarded.certificate)
    with capture_logs() as logs, pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await Bus.connect(guarded.url, name="plumber-node1", access=access)
    assert any("does not offer TLS" in e.get("reason", "") for e in logs)
    assert responder.logins == []


def _with_ca(access: Access, certificate: Path) -> Access:
    return Access.of(access.role, token_file=access.token_file, tls_ca=str(certificate))


async def test_a_ca_file_of_no_use_is_refused_by_name(guarded: GuardedNats, tmp_path: Path) -> None:
    with pytest.raises(Refused, match=r"no-such\.pem cannot be used.*NSM_TLS_CA"):
        await Bus.connect(
            guarded.url, name="x", access=Access.of("x", tls_ca=str(tmp_path / "no-such.pem"))
        )
