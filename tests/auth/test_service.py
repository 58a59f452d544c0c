"""Auth on a real nats-server: every role can do what its code does; who may come in, and what failures change."""

import asyncio
import contextlib
import json
import time
from typing import Any

import aiohttp
import nats.errors
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from schemas.live import Alive
from schemas.state import NodeFacts, Resolver, SeenPrefixes
from schemas.subjects import ConnectionKey, Key, LeaderKey, NodeKey, ResolverKey, StatusKey
from services._runtime import streams
from services._runtime.bus import Bus
from services._runtime.client import Client
from services._runtime.mirror import LAG_SECONDS, Mirror
from services.auth.core import layout
from services.auth.service.judging import Judge
from services.auth.settings import Settings
from tests.auth.world import Denials, World
from tests.builders import a_connection, a_request, a_status
from tests.runtime.helpers import Leading, mirroring, running, until


def test_stream_names_are_those_of_the_runtime():
    assert set(layout.STREAMS) == {config["name"] for config in streams.configs(1)}
    assert f"{streams.HISTORY_ROOT}.nsm" == layout.HISTORY


def permission_errors(*buses: Bus) -> float:
    return float(sum(bus.metrics.permission_errors._value.get() for bus in buses))


async def leading(world: World, role: str, stream: str) -> tuple[Bus, Leading]:
    bus = await world.bus(role)
    await bus.ensure_streams()
    return bus, Leading(bus, role, stream, f"{role}-1")


async def test_every_service_can_do_what_its_code_does(world: World):
    watcher, leads_intent = await leading(world, "watcher", streams.INTENT)
    ipam, leads_grant = await leading(world, "ipam", streams.GRANT)
    plumber, dns = await world.bus("plumber"), await world.bus("dns")
    async with running(leads_intent.run(), leads_grant.run()):
        for each in (leads_intent, leads_grant):
            async with asyncio.timeout(30):
                await each.leads.wait()
        await leads_intent.terms[0].publish(a_request())
        await leads_grant.terms[0].publish(a_connection())
        for each in (leads_intent, leads_grant):
            await each.terms[0].declare_complete()
        async with asyncio.timeout(LAG_SECONDS + 20):
            await plumber_works(plumber)
            await dns_works(dns)
        async with mirroring(ipam, streams.STATE) as (states, _):
            await until(lambda: {NodeKey("node1"), a_status().key} <= states.items.keys())
        async with mirroring(watcher, streams.GRANT) as (grants, _):
            await until(lambda: a_connection().key in grants.items)
        # What a leader committed reaches the log, too.
        viewer = await world.login("viewer")
        logged = await followed(viewer, streams.LOG, f"history.{a_connection().key.subject}")
        assert b"172.16.1" in logged
    assert permission_errors(watcher, ipam, plumber, dns) == 0


async def stored(bus: Bus, key: Key) -> object:
    """What a subject holds; of several servers one that is behind may answer first."""
    while (found := await bus.read(key)) is None:
        await asyncio.sleep(0.01)
    return found


async def plumber_works(plumber: Bus) -> None:
    status = a_status()
    for message in (status, NodeFacts(node="node1"), SeenPrefixes(node="node1")):
        await plumber.publish(message)
        assert await stored(plumber, message.key)
    await plumber.publish(Alive(node="node1"), ttl=10)
    assert await stored(plumber, Alive(node="node1").key)
    await plumber.bury(StatusKey("node1", "default", "other", "nsm-vpn"))
    filters = [LeaderKey("ipam").subject, ConnectionKey.all("node1")]
    async with mirroring(plumber, streams.GRANT, filters) as (grants, _):
        await until(lambda: a_connection().key in grants.items)
        # Where there are several servers, a replica is given time to catch up first.
        await until(lambda: grants.complete(a_connection().key), LAG_SECONDS + 10)
    own = [NodeKey("node1").subject, StatusKey.all("node1")]
    async with mirroring(plumber, streams.STATE, own) as (said, _):
        await until(lambda: status.key in said.items)


async def dns_works(dns: Bus) -> None:
    resolver = Resolver(node="node1", namespace="default", pod="client", uid="u", state="serving")
    await dns.publish(resolver)
    assert await stored(dns, resolver.key)
    filters = [LeaderKey("ipam").subject, ConnectionKey.all("node1")]
    async with mirroring(dns, streams.GRANT, filters) as (grants, _):
        await until(lambda: a_connection().key in grants.items)
    async with mirroring(dns, streams.STATE, [ResolverKey.all("node1")]) as (said, _):
        await until(lambda: resolver.key in said.items)


async def followed(client: Client, stream: str, subject_filter: str) -> bytes:
    """The first message that a consumer of ours delivers."""
    name = f"{client.options['name']}-1"
    inbox = await client.subscribe(client.new_inbox())
    config: dict[str, Any] = {
        "name": name,
        "deliver_subject": inbox.subject,
        "filter_subject": subject_filter,
    }
    config |= {"ack_policy": "none", "deliver_policy": "last_per_subject", "mem_storage": True}
    body = json.dumps({"stream_name": stream, "config": config, "action": "create"}).encode()
    api = f"NSM.API.CONSUMER.CREATE.{stream}.{name}.{subject_filter}"
    answer = json.loads((await client.request(api, body, timeout=2)).data)
    assert "error" not in answer, answer
    message = await inbox.next_msg(timeout=2)
    gone = await client.request(f"NSM.API.CONSUMER.DELETE.{stream}.{name}", timeout=2)
    assert json.loads(gone.data)["success"]
    return message.data


async def test_a_viewer_reads_everything(world: World):
    owner = await world.bus("watcher")
    await owner.ensure_streams()
    ipam, plumber = await world.bus("ipam"), await world.bus("plumber")
    await ipam.publish(a_connection())
    await plumber.publish(a_status())
    viewer = await world.login("viewer")
    for stream, key in ((streams.GRANT, a_connection().key), (streams.STATE, a_status().key)):
        assert await followed(viewer, stream, "nsm.>")
        async with asyncio.timeout(30):
            headers: Any = {}
            while headers.get("Nats-Subject") != key.subject:  # a server that is behind may answer
                asked = f"NSM.API.DIRECT.GET.{stream}.{key.subject}"
                headers = (await viewer.request(asked, timeout=2)).headers or {}
        info = await viewer.request(f"NSM.API.STREAM.INFO.{stream}", timeout=2)
        assert b'"error"' not in info.data
        listed = await viewer.request(f"NSM.API.CONSUMER.LIST.{stream}", timeout=2)
        assert b'"consumers"' in listed.data
    assert await followed(viewer, streams.LOG, f"log.{a_status().key.subject}")
    assert world.errors[viewer] == []


async def test_an_admin_listens_to_everything_and_uses_the_whole_api(world: World):
    owner = await world.bus("watcher")
    await owner.ensure_streams()
    admin = await world.login("admin")
    heard = await admin.subscribe("nsm.>")
    await admin.flush()
    plumber = await world.bus("plumber")
    message = None
    while message is None:  # that somebody listens reaches other servers a little later
        await plumber.publish(a_status())
        with contextlib.suppress(nats.errors.TimeoutError):
            message = await heard.next_msg(timeout=0.5)
    assert message.subject == a_status().key.subject
    names = await admin.request("$JS.API.STREAM.NAMES", timeout=2)
    assert b"NSM_GRANT" in names.data
    assert world.errors[admin] == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"token": "-"}, "TokenInvalid"),
        ({"token": "garbage.of.three"}, "TokenInvalid"),
        ({"seconds": -10}, "TokenInvalid"),
        ({"audience": "https://kubernetes.default.svc"}, "WrongAudience"),
        ({"namespace": "default"}, "UnknownRole"),
        ({"account": "nsm-auth"}, "UnknownRole"),
        ({"account": "default"}, "UnknownRole"),
        ({"node": ""}, "NoNode"),
        ({"name": "plumber-node2-0123abcd"}, "WrongConnectionName"),
        ({"name": "plumber-node1"}, "WrongConnectionName"),
        ({"name": "plumber-node1-0123abcd0"}, "WrongConnectionName"),
        ({"name": "plumber-node1-*"}, "WrongConnectionName"),
        ({"name": "plumber-node1->-01234567"}, "WrongConnectionName"),
        ({"name": "watcher-0123abcd"}, "WrongConnectionName"),
        ({"name": "dns-node1-0123abcd"}, "WrongConnectionName"),
        ({"name": ""}, "WrongConnectionName"),
    ],
    ids=str,
)
@pytest.mark.parametrize("hangs", [False, True], ids=["review", "offline"])
async def test_nobody_else_comes_in(
    world: World, options: dict[str, Any], reason: str, hangs: bool
):
    world.api.away = hangs
    fields: dict[str, Any] = dict(options)
    name = str(fields.pop("name", "plumber-node1-0123abcd")) or " "
    token = str(fields.pop("token", "")) or world.api.token(**fields)
    with pytest.raises(Denials, match="Authorization Violation"):
        await world.login("plumber", token=token, name=name)
    expected = {reason}
    if hangs and "seconds" in options:
        expected = {"TokenExpired"}
    assert world.figure(outcome=next(iter(expected)), by="keys" if hangs else "review") == 1


async def test_nobody_comes_in_without_a_token(world: World):
    tries: tuple[dict[str, Any], ...] = ({}, {"token": ""}, {"user": "a", "password": "b"})
    for options in tries:
        client = Client()
        with pytest.raises(Exception, match="Authorization Violation"):
            await client.connect(world.server.url, allow_reconnect=False, **options)
        await client.close()
    assert world.figure(outcome="NoToken") == 3


async def test_a_token_signed_by_another_key_is_refused_while_the_api_server_is_away(world: World):
    world.api.away = True
    forged = world.api.token(key=ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(Denials):
        await world.login("plumber", token=forged)
    others: tuple[dict[str, Any], ...] = (
        {"iss": "https://evil"},
        {"sub": "system:serviceaccount:nsm-system:nsm-ipam"},
    )
    for claims in others:
        with pytest.raises(Denials):
            await world.login("plumber", token=world.api.token(**claims))
    assert world.figure(outcome="TokenInvalid", by="keys") == 3


async def test_a_token_counts_while_the_api_server_hangs(world: World):
    world.api.hang = True
    client = await world.login("plumber")
    assert client.is_connected
    assert world.figure(outcome="allowed", by="keys") == 1


async def test_a_refused_token_stays_refused_while_the_api_server_is_away(world: World):
    world.api.deleted.add("nsm-plumber-node1")
    token = world.api.token()
    with pytest.raises(Denials):
        await world.login("plumber", token=token)
    world.api.away = True
    with pytest.raises(Denials):
        await world.login("plumber", token=token)
    world.api.away = False
    world.api.deleted.clear()
    assert (await world.login("plumber", token=token)).is_connected


async def test_a_good_token_is_remembered_for_a_minute_and_a_refused_one_is_not(world: World):
    now, later = time.time(), 0
    judge = Judge(ApiOf(world), Settings(keys_file=""), clock=lambda: now + later)
    token, bad = world.api.token(), world.api.token(namespace="default")
    asked = world.api.reviews
    assert [(await judge.judge(token)).by for _ in range(3)] == ["review", "memory", "memory"]
    assert [(await judge.judge(bad)).by for _ in range(2)] == ["review", "review"]
    later = 61
    assert (await judge.judge(token)).by == "review"
    assert world.api.reviews >= asked + 4


class ApiOf:
    """The world's API server, as the judge asks it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def review(self, token: str, audience: str) -> bytes:
        url = f"http://127.0.0.1:{self._world.api.port}/apis/authentication.k8s.io/v1/tokenreviews"
        async with aiohttp.ClientSession() as session:
            body = {"spec": {"token": token, "audiences": [audience]}}
            async with session.post(url, json=body) as response:
                return await response.read()

    async def public_keys(self) -> tuple[str, bytes]:
        raise AssertionError("the API server answers: nobody needs its keys")


async def test_many_logins_at_once_are_all_answered(world: World):
    clients = await asyncio.gather(
        *(world.login(role, node=f"node{n}") for n in range(25) for role in ("plumber", "dns"))
    )
    assert all(client.is_connected for client in clients)


async def test_a_user_ends_with_its_token(world: World):
    client = await world.login("plumber", token=world.api.token(seconds=4))
    told = json.loads((await client.request("$SYS.REQ.USER.INFO", timeout=2)).data)["data"]
    assert told["account"] == "NODES"
    assert 0 < told["expires"] <= 4_000_000_000, told
    await until(lambda: client.is_closed)  # nats-py says nothing about it


async def test_a_user_ends_after_an_hour_at_most(world: World):
    client = await world.login("ipam", token=world.api.token("nsm-ipam", node="", seconds=90_000))
    told = json.loads((await client.request("$SYS.REQ.USER.INFO", timeout=2)).data)["data"]
    assert 3_500e9 < told["expires"] <= 3_600e9


async def test_without_a_responder_connections_go_on_and_new_logins_wait(tmp_path):
    world = World(tmp_path)
    async with world.api.served():
        with world.server:
            async with world.answering():
                owner, plumber = await world.bus("watcher"), await world.bus("plumber")
                await owner.ensure_streams()
                ipam_mirror = Mirror(owner, streams.STATE, ["nsm.>"], on_change=lambda *_: None)
            async with running(ipam_mirror.run()):
                await plumber.publish(a_status())
                await until(lambda: a_status().key in ipam_mirror.items)
                with pytest.raises(Denials):
                    await world.login("dns")
            async with world.answering(registry=type(world.metrics)().registry):
                assert (await world.login("dns")).is_connected
            await world.close()


async def test_after_a_restart_of_the_server_everybody_is_back_at_once(world: World):
    owner, plumber = await world.bus("watcher"), await world.bus("plumber")
    await owner.ensure_streams()
    loop = asyncio.get_running_loop()
    world.server.kill()
    world.server.start()
    started = loop.time()
    async with asyncio.timeout(30):
        await owner.ensure_streams()
        await plumber.publish(a_status())
    assert loop.time() - started < 20


async def test_renewal_with_rotated_tokens_leaves_no_gap(world: World):
    owner = await world.bus("watcher")
    await owner.ensure_streams()
    plumber = await world.bus("plumber", seconds=3)
    token_file = max(world.directory.glob("token-plumber-*"))
    async with mirroring(owner, streams.STATE) as (states, _), running(plumber.keep_login()):
        revision = 0
        while plumber.reconnects < 2:
            revision += 1
            world.write_token(token_file, "plumber", node="node1", seconds=3)
            await plumber.publish(a_status(revision=revision))
            await asyncio.sleep(0.05)
        await until(lambda: states.items[a_status().key].revision == revision)
    assert not plumber.closed.is_set()
    assert permission_errors(plumber) == 0


async def test_readiness_tells_that_the_api_server_hangs(world: World):
    assert world.health.ready
    world.api.away = True
    await until(lambda: world.health.awaited == ["TokenReview answers"])
    world.api.away = False
    await until(lambda: world.health.ready)


async def test_readiness_tells_that_the_bus_is_gone(world: World):
    world.server.kill()
    await until(lambda: world.health.awaited == ["bus connected"])
    world.server.start()
    await until(lambda: world.health.ready)
