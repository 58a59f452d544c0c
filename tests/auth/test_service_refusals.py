"""What nobody may do, tried on a real nats-server: each row names who does what to whom.

A row passes if the server refuses, or if nothing of anybody else changed or came to light. Deeds that are
allowed in themselves, but name a victim as reply or deliver subject, are judged by the victim's state alone.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import nats.errors
import pytest
import pytest_asyncio
from nats.aio.client import Client

from schemas.codec import encode
from schemas.live import Alive, Lease
from schemas.state import NodeFacts, Resolver
from schemas.subjects import (
    AliveKey,
    ConnectionKey,
    LeaderKey,
    LeaseKey,
    NodeKey,
    PoolKey,
    RefusalKey,
    RequestKey,
    ResolverKey,
    SeenKey,
    StatusKey,
)
from services._runtime import streams
from services._runtime.streams import GRANT, INTENT, LIVE, LOG, STATE
from tests.auth.shipped import ShippedServers
from tests.auth.world import World, a_world
from tests.builders import a_connection, a_leader, a_refusal, a_request, a_status
from tests.manifests.bus import BASE, PRODUCTION
from tests.runtime.helpers import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Three servers take the same table in `make soak`: what every service may do there is tried by test_service_shipped.
SHIPPED = {"one server": BASE}
if os.environ.get("NSM_SOAK"):
    SHIPPED["three servers"] = PRODUCTION
API, NODE_API = "$JS.API", "NSM.API"
MINE = StatusKey("node1", "default", "client", "nsm-vpn").subject
THEIRS = StatusKey("node2", "default", "client", "nsm-vpn").subject
THEIR_GRANT = ConnectionKey("node2", "default", "client", "nsm-vpn").subject
THEIR_RESOLVER = ResolverKey("node2", "default", "client").subject
MY_GRANTS, ALL = ConnectionKey.all("node1"), "nsm.>"
GUARD, LEASE = LeaderKey("ipam").subject, LeaseKey("ipam").subject
HISTORY = f"{streams.HISTORY_ROOT}.{THEIR_GRANT}"


class Deed(msgspec.Struct, frozen=True, kw_only=True):
    """`{me}` is the connection's own name, `{other}` that of another node's, `{ipam}` ipam's."""

    who: str
    what: str
    subject: str
    body: Any = b"x"
    headers: dict[str, str] = {}
    reply: str = ""
    subscribe: str = ""

    def __str__(self) -> str:
        return f"{self.who} {self.what}".replace(" ", "-")


def consumer(stream: str, *, name: str | None = "{me}-1", **config: Any) -> dict[str, Any]:
    usual: dict[str, Any] = {
        "name": name,
        "ack_policy": "none",
        "deliver_policy": "last_per_subject",
    }
    usual |= {"mem_storage": True, "num_replicas": 1, "inactive_threshold": 600_000_000_000}
    usual |= {"deliver_subject": "{inbox}.d", "idle_heartbeat": 100_000_000, "flow_control": True}
    merged = {k: v for k, v in (usual | config).items() if v is not None}
    return {"stream_name": stream, "config": merged, "action": "create"}


def published() -> Iterator[Deed]:
    """Plain writes of what belongs to somebody else."""
    others = {
        "plumber": (
            ("another node's status", THEIRS),
            ("another node's facts", NodeKey("node2").subject),
            ("another node's prefixes", SeenKey("node2").subject),
            ("another node's heartbeat", AliveKey("node2").subject),
            ("a resolver of its own node", ResolverKey("node1", "default", "client").subject),
            ("a grant of its own node", ConnectionKey("node1", "default", "c", "i").subject),
            ("a request", RequestKey("default", "client", "nsm-vpn").subject),
        ),
        "dns": (
            ("another node's resolver", THEIR_RESOLVER),
            ("a status of its own node", MINE),
            ("facts of its own node", NodeKey("node1").subject),
            ("a heartbeat of its own node", AliveKey("node1").subject),
            ("a grant", THEIR_GRANT),
        ),
        "watcher": (
            ("a grant", THEIR_GRANT),
            ("a refusal", RefusalKey("default", "client", "nsm-vpn").subject),
            ("a status", THEIRS),
            ("ipam's history", HISTORY),
        ),
        "ipam": (
            ("a request", RequestKey("default", "client", "nsm-vpn").subject),
            ("the watcher's guard", LeaderKey("watcher").subject),
            ("the watcher's lease", LeaseKey("watcher").subject),
            ("a status", THEIRS),
        ),
        "viewer": (
            ("a grant", THEIR_GRANT),
            ("a status", THEIRS),
            ("a pool", PoolKey("default", "vpn").subject),
        ),
    }
    for who, rows in others.items():
        yield from (Deed(who=who, what=f"writes {what}", subject=subject) for what, subject in rows)
    for who in ("plumber", "dns", "watcher", "viewer"):
        yield Deed(who=who, what="writes ipam's guard", subject=GUARD)
        yield Deed(who=who, what="writes ipam's lease", subject=LEASE)
    for who in ("plumber", "dns", "viewer"):
        yield Deed(who=who, what="writes history", subject=HISTORY)
        yield Deed(who=who, what="writes the log", subject=f"log.{THEIR_GRANT}")


def asked() -> Iterator[Deed]:
    """Requests to the server's API, under both its names."""
    for who, api in (
        ("plumber", NODE_API),
        ("plumber", API),
        ("viewer", NODE_API),
        ("watcher", API),
    ):
        told = "" if api == NODE_API or who == "watcher" else " under its plain name"
        for verb, body in (
            ("STREAM.PURGE", b""),
            ("STREAM.DELETE", b""),
            ("STREAM.MSG.DELETE", {"seq": 1}),
            ("STREAM.SNAPSHOT", {"deliver_subject": "x"}),
        ):
            subject = f"{api}.{verb}.{STATE}"
            yield Deed(who=who, what=f"asks for {verb}{told}", subject=subject, body=body)
    update = {"name": STATE, "subjects": [ALL], "deny_purge": False}
    for who, api in (("plumber", NODE_API), ("plumber", API), ("viewer", NODE_API), ("dns", API)):
        at = f" by {api}"
        yield Deed(
            who=who,
            what=f"updates a stream{at}",
            subject=f"{api}.STREAM.UPDATE.{STATE}",
            body=update,
        )
        yield Deed(
            who=who,
            what=f"creates a stream{at}",
            subject=f"{api}.STREAM.CREATE.X",
            body={"name": "X"},
        )
        yield Deed(
            who=who,
            what=f"reads a raw message{at}",
            subject=f"{api}.STREAM.MSG.GET.{STATE}",
            body={"seq": 1},
        )
    for verb in (
        "STREAM.INFO.NSM_STATE",
        "STREAM.NAMES",
        "STREAM.LIST",
        "INFO",
        "CONSUMER.LIST.NSM_STATE",
    ):
        yield Deed(who="plumber", what=f"asks for {verb}", subject=f"{NODE_API}.{verb}")
        yield Deed(who="plumber", what=f"asks for plain {verb}", subject=f"{API}.{verb}")
    reads = f"{NODE_API}.DIRECT.GET"
    of_others: tuple[tuple[str, str, Any], ...] = (
        ("reads another node's status", f"{reads}.{STATE}.{THEIRS}", b""),
        ("reads another node's grant", f"{reads}.{GRANT}.{THEIR_GRANT}", b""),
        ("reads a lease", f"{reads}.{LIVE}.{LEASE}", b""),
        ("reads any status by sequence", f"{reads}.{STATE}", {"seq": 1}),
        ("reads any status by sequence in the body", f"{reads}.{STATE}.{MINE}", {"seq": 1}),
        (
            "reads all by many subjects in the body",
            f"{reads}.{STATE}.{MINE}",
            {"multi_last": [ALL]},
        ),
        (
            "reads the next of all in the body",
            f"{reads}.{STATE}.{MINE}",
            {"next_by_subj": ALL, "batch": 9},
        ),
    )
    for what, subject, asked_for in of_others:
        yield Deed(who="plumber", what=what, subject=subject, body=asked_for)
    yield Deed(
        who="dns",
        what="reads a status of its own node",
        subject=f"{reads}.{STATE}.{MINE}",
        body=b"",
    )


def followed() -> Iterator[Deed]:
    """Consumers of what a node may not see, or of somebody else."""
    create = f"{NODE_API}.CONSUMER.CREATE"
    mine, theirs = "{me}-1", "{other}-1"
    rows: tuple[tuple[str, str, dict[str, Any] | None, str | None], ...] = (
        (
            "another node's grants",
            f"{create}.{GRANT}.{mine}.{ConnectionKey.all('node2')}",
            {"filter_subject": ConnectionKey.all("node2")},
            mine,
        ),
        ("all grants", f"{create}.{GRANT}.{mine}.{ALL}", {"filter_subject": ALL}, mine),
        (
            "its own grants, all in the body",
            f"{create}.{GRANT}.{mine}.{MY_GRANTS}",
            {"filter_subject": ALL},
            mine,
        ),
        ("its own grants, none in the body", f"{create}.{GRANT}.{mine}.{MY_GRANTS}", {}, mine),
        (
            "its own grants, many in the body",
            f"{create}.{GRANT}.{mine}.{MY_GRANTS}",
            {"filter_subjects": [MY_GRANTS, ConnectionKey.all("node2")]},
            mine,
        ),
        ("without a filter", f"{create}.{GRANT}.{mine}", {}, mine),
        ("without a name", f"{create}.{GRANT}", {"filter_subject": ALL}, None),
        (
            "in the durable form",
            f"{NODE_API}.CONSUMER.DURABLE.CREATE.{GRANT}.{mine}",
            {"durable_name": mine},
            mine,
        ),
        ("of intent", f"{create}.{INTENT}.{mine}.{ALL}", {"filter_subject": ALL}, mine),
        ("of leases", f"{create}.{LIVE}.{mine}.{ALL}", {"filter_subject": ALL}, mine),
        ("of the log", f"{create}.{LOG}.{mine}.>", {"filter_subject": ">"}, mine),
        (
            "of resolvers",
            f"{create}.{STATE}.{mine}.{ResolverKey.all('node1')}",
            {"filter_subject": ResolverKey.all("node1")},
            mine,
        ),
        (
            "under another's name",
            f"{create}.{GRANT}.{theirs}.{MY_GRANTS}",
            {"filter_subject": MY_GRANTS},
            theirs,
        ),
        (
            "under a name of its own making",
            f"{create}.{GRANT}.mine.{MY_GRANTS}",
            {"filter_subject": MY_GRANTS},
            "mine",
        ),
        ("of another stream in the body", f"{create}.{GRANT}.{mine}.{MY_GRANTS}", None, mine),
    )
    for what, subject, config, name in rows:
        body = (
            consumer(GRANT, name=name, **config)
            if config is not None
            else consumer(STATE, filter_subject=MY_GRANTS)
        )
        yield Deed(who="plumber", what=f"follows {what}", subject=subject, body=body)
    yield Deed(
        who="plumber",
        what="deletes another's consumer",
        subject=f"{NODE_API}.CONSUMER.DELETE.{GRANT}.{theirs}",
        body=b"",
    )
    yield Deed(
        who="plumber",
        what="asks about another's consumer",
        subject=f"{NODE_API}.CONSUMER.INFO.{GRANT}.{theirs}",
        body=b"",
    )
    yield Deed(
        who="viewer",
        what="deletes another's consumer",
        subject=f"{NODE_API}.CONSUMER.DELETE.{GRANT}.{theirs}",
        body=b"",
    )
    yield Deed(
        who="viewer",
        what="follows under another's name",
        subject=f"{create}.{GRANT}.{theirs}.{MY_GRANTS}",
        body=consumer(GRANT, name=theirs, filter_subject=MY_GRANTS),
    )
    yield Deed(
        who="plumber",
        what="pulls from another's consumer",
        subject=f"{NODE_API}.CONSUMER.MSG.NEXT.{GRANT}.{theirs}",
        body=b"1",
    )
    yield Deed(
        who="plumber",
        what="pauses another's consumer",
        subject=f"{NODE_API}.CONSUMER.PAUSE.{GRANT}.{theirs}",
        body={"pause_until": "2099-01-01T00:00:00Z"},
    )


REFUSED = [*published(), *asked(), *followed()]


def reflected() -> Iterator[Deed]:
    """Allowed deeds that would make the server write where the doer may not."""
    own = {"plumber": MINE, "dns": ResolverKey("node1", "default", "client").subject}
    victims = (
        THEIR_GRANT,
        THEIRS,
        THEIR_RESOLVER,
        LEASE,
        GUARD,
        f"{API}.STREAM.PURGE.{STATE}",
        HISTORY,
    )
    for who, subject in own.items():
        for victim in victims:
            yield Deed(
                who=who, what=f"names {victim} as reply of a publish", subject=subject, reply=victim
            )
    for victim in victims:
        yield Deed(
            who="plumber",
            what=f"names {victim} as reply of a read",
            subject=f"{NODE_API}.DIRECT.GET.{STATE}.{MINE}",
            body=b"",
            reply=victim,
        )
        yield Deed(
            who="plumber",
            what=f"names {victim} as reply of a request",
            subject=f"{NODE_API}.CONSUMER.DELETE.{GRANT}.{{me}}-1",
            body=b"",
            reply=victim,
        )
        yield Deed(
            who="viewer",
            what=f"names {victim} as reply of a request",
            subject=f"{NODE_API}.STREAM.INFO.{STATE}",
            body=b"",
            reply=victim,
        )
        follow = consumer(STATE, filter_subject=StatusKey.all("node1"), deliver_subject=victim)
        create = f"{NODE_API}.CONSUMER.CREATE.{STATE}.{{me}}-1.{StatusKey.all('node1')}"
        yield Deed(
            who="plumber", what=f"lets {victim} be delivered to", subject=create, body=follow
        )
        yield Deed(
            who="viewer",
            what=f"lets {victim} be delivered to",
            subject=create,
            body=follow,
            subscribe=victim,
        )
    filter_mine = ConnectionKey.all("node1")
    yield Deed(
        who="plumber",
        what="names another's consumer in the body",  # the server heeds the subject
        subject=f"{NODE_API}.CONSUMER.CREATE.{GRANT}.{{me}}-1.{filter_mine}",
        body=consumer(GRANT, name="{other}-1", filter_subject=filter_mine),
    )
    for header, value in (("Nats-Rollup", "all"), ("Nats-Rollup", "sub")):
        yield Deed(
            who="plumber", what=f"sends {header} {value}", subject=MINE, headers={header: value}
        )
    yield Deed(
        who="plumber",
        what="sends a schedule",
        subject=MINE,
        headers={"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": THEIR_GRANT},
    )


LITERAL = f"lets {GUARD} be delivered to"
REFLECTED = [deed for deed in reflected() if deed.what != LITERAL]


class Scene:
    """Everybody's truth on the bus, and the names that deeds speak of."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.truth: dict[str, tuple[str, bytes, int]] = {}
        self.names: dict[str, str] = {}

    async def set(self) -> None:
        self.ipam = await self.world.bus("ipam")
        await self.ipam.ensure_streams()
        watcher = await self.world.bus("watcher")
        plumber, dns = (
            await self.world.bus("plumber", node="node2"),
            await self.world.bus("dns", node="node2"),
        )
        await watcher.publish(a_request())
        resolver = Resolver(
            node="node2", namespace="default", pod="client", uid="u", state="serving"
        )
        for bus, messages in (
            (
                self.ipam,
                (
                    a_connection(node="node2"),
                    a_refusal("other"),
                    a_leader(),
                    Lease(service="ipam", holder="a"),
                ),
            ),
            (plumber, (a_status(node="node2"), NodeFacts(node="node2"), Alive(node="node2"))),
            (dns, (resolver,)),
        ):
            for message in messages:
                sequence = await bus.publish(message)
                stream = streams.stream_of(message.key)
                self.truth[message.key.subject] = (stream, encode(message), sequence)
        self.admin = await self.world.login("admin")
        self.names = {"other": plumber.name, "ipam": self.ipam.name}
        created = consumer(
            GRANT,
            name=f"{plumber.name}-1",
            filter_subject=ConnectionKey.all("node2"),
            deliver_subject="_nodes.x",
        )
        await self.admin.request(
            f"{API}.CONSUMER.CREATE.{GRANT}.{plumber.name}-1.{ConnectionKey.all('node2')}",
            json.dumps(created).encode(),
        )
        self.configs = await self.stream_configs()

    async def stream_configs(self) -> dict[str, Any]:
        answer = await self.admin.request(f"{API}.STREAM.LIST")
        return {s["config"]["name"]: s["config"] for s in json.loads(answer.data)["streams"]}

    async def has_changed(self) -> list[str]:
        """What is not as it was."""
        changed = []
        for subject, (stream, body, sequence) in self.truth.items():
            found = await self.admin.request(f"{API}.DIRECT.GET.{stream}.{subject}")
            headers = found.headers or {}
            if found.data != body or headers.get("Nats-Sequence") != str(sequence):
                changed.append(subject)
        if await self.stream_configs() != self.configs:
            changed.append("streams")
        info = await self.admin.request(f"{API}.CONSUMER.INFO.{GRANT}.{self.names['other']}-1")
        told = json.loads(info.data)
        if told.get("config", {}).get("deliver_subject") != "_nodes.x":
            changed.append("another's consumer")
        return changed


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SHIPPED.values(), ids=SHIPPED)
async def scene(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Scene]:
    """One for all deeds, as none of them changes anything; on the bus as it is shipped."""
    directory = tmp_path_factory.mktemp("world")
    async with a_world(directory, ShippedServers(directory / "nats", request.param)) as world:
        scene = Scene(world)
        await scene.set()
        async with asyncio.timeout(30):
            while await scene.has_changed():  # a replica that answers may be behind
                await asyncio.sleep(0.05)
        yield scene


def filled(scene: Scene, client: Client, text: str) -> str:
    name = str(client.options["name"])
    inbox = f"{client._inbox_prefix.decode()}"
    for word, value in {**scene.names, "me": name, "inbox": inbox}.items():
        text = text.replace(f"{{{word}}}", value)
    return text


async def done(scene: Scene, client: Client, deed: Deed) -> bytes | None:
    """The answer to a deed, None if there was none; errors of the API are an answer."""
    body = (
        deed.body
        if isinstance(deed.body, bytes)
        else filled(scene, client, json.dumps(deed.body)).encode()
    )
    subject = filled(scene, client, deed.subject)
    if deed.subscribe:
        with contextlib.suppress(nats.errors.Error):
            await client.subscribe(deed.subscribe)
    if deed.reply:
        await client.publish(subject, body, reply=deed.reply, headers=deed.headers or None)
        await client.flush()
        await asyncio.sleep(0.05)
        return None
    try:
        answer = await client.request(subject, body, timeout=0.25, headers=deed.headers or None)
    except (nats.errors.TimeoutError, nats.errors.NoRespondersError, TimeoutError):
        return None
    status = (answer.headers or {}).get("Status")
    return f'{{"error": {status}}}'.encode() if status else answer.data


@pytest.mark.parametrize("deed", REFUSED, ids=str)
async def test_it_is_refused(scene: Scene, deed: Deed):
    client = await scene.world.login(deed.who)
    answer = await done(scene, client, deed)
    assert answer is None or "error" in json.loads(answer), answer
    assert await scene.has_changed() == []


@pytest.mark.parametrize("deed", REFLECTED, ids=str)
async def test_it_changes_nothing_of_others(scene: Scene, deed: Deed):
    await reflect(scene, deed)
    assert await scene.has_changed() == []


@pytest.mark.parametrize("deed", [d for d in reflected() if d.what == LITERAL], ids=str)
@pytest.mark.asyncio(loop_scope="function")
async def test_no_heartbeat_is_stored_as_a_guard(tmp_path: Path, deed: Deed):
    async with a_world(tmp_path) as world:
        scene = Scene(world)
        await scene.set()
        await reflect(scene, deed)
        assert await scene.has_changed() == []


async def reflect(scene: Scene, deed: Deed) -> None:
    client = await scene.world.login(deed.who)
    if deed.who == "plumber":
        await client.request(MINE, encode(a_status()), timeout=2)
    await done(scene, client, deed)
    await asyncio.sleep(0.35)  # several heartbeats of the consumer, which nobody announces


@pytest.mark.parametrize(
    ("who", "subject"),
    [
        *(
            ("plumber", s)
            for s in (
                ALL,
                ">",
                THEIRS,
                MINE,
                "_nodes.>",
                "_INBOX.>",
                "$SYS.>",
                "$JS.>",
                "log.nsm.>",
            )
        ),
        *(("dns", s) for s in (ALL, "_nodes.{other}.>", "_INBOX.{ipam}.>", "NSM.API.>")),
        *(
            ("viewer", s)
            for s in (
                ALL,
                ">",
                THEIR_GRANT,
                "_view.>",
                "_nodes.>",
                "_INBOX.>",
                "$SYS.>",
                "log.nsm.>",
            )
        ),
        *(
            ("watcher", s)
            for s in (ALL, "_INBOX.>", "_INBOX.{ipam}.>", "_nodes.>", "$SYS.REQ.USER.AUTH")
        ),
        *(("admin", s) for s in ("$SYS.>", "$SYS.REQ.USER.AUTH", "_INBOX.>", "_nodes.>")),
    ],
)
async def test_nobody_listens_to_what_is_for_others(scene: Scene, who: str, subject: str):
    client = await scene.world.login(who)
    errors = scene.world.errors[client]
    await client.subscribe(filled(scene, client, subject))
    await until(lambda: any("permissions violation for subscription" in e.lower() for e in errors))


async def test_a_service_reaches_nothing_of_the_account_that_signs(scene: Scene):
    for who in ("watcher", "plumber", "viewer", "admin"):
        client = await scene.world.login(who)
        for subject in (
            "$SYS.REQ.USER.AUTH",
            "$SYS.REQ.SERVER.PING",
            "$SYS._INBOX.x",
            "self-check.x",
        ):
            with pytest.raises((nats.errors.TimeoutError, nats.errors.NoRespondersError)):
                await client.request(subject, b"", timeout=0.2)
