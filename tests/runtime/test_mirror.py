"""The mirror's rules, each on a real nats-server."""

import asyncio
import time

import pytest
from nats.aio.msg import Msg

from lab.nats import NatsServer
from schemas.codec import Tombstone, encode
from schemas.intent import Leader
from services._runtime import streams
from services._runtime.bus import Bus
from services._runtime.consumer import Consumer, Events
from services._runtime.mirror import Mirror
from tests.builders import a_connection, a_leader, a_request, a_status, node_facts
from tests.runtime.helpers import Changes, Proxy, mirroring, running, until

NODE_FILTERS = ["nsm.connection.node1.>", "nsm.leader.ipam.guard"]


async def the_leader(bus: Bus, *, complete: bool) -> Leader:
    """ipam's leader message for the streams as they are."""
    incarnations = await bus.ensure_streams()
    return a_leader(incarnations=incarnations, complete=complete)


async def test_snapshot_holds_the_last_message_of_every_subject(bus: Bus) -> None:
    for revision in range(3):
        await bus.publish(a_connection(revision=revision))
    await bus.publish(a_connection("other"))

    async with mirroring(bus, streams.GRANT) as (mirror, changes):
        assert mirror.items[a_connection().key].revision == 2
        assert len(changes.all) == 2


async def test_an_empty_stream_is_synced_at_once(bus: Bus) -> None:
    took = []
    for _ in range(3):
        started = time.monotonic()
        async with mirroring(bus, streams.GRANT):
            took.append(time.monotonic() - started)
    assert min(took) < 0.5  # a heartbeat comes after a second


async def test_follows_changes_and_tombstones_and_does_not_report_equal_ones(bus: Bus) -> None:
    async with mirroring(bus, streams.GRANT) as (mirror, changes):
        connection = a_connection()
        await bus.publish(connection)
        await bus.publish(connection)
        last = await bus.bury(connection.key, Tombstone(released="u", revision=4))
        await mirror.reached(last)

        assert changes.of(connection.key) == [connection, Tombstone(released="u", revision=4)]
        assert connection.key not in mirror.items


async def test_a_tombstone_in_the_snapshot_is_reported(bus: Bus) -> None:
    await bus.bury(a_connection().key, Tombstone(released="u"))
    async with mirroring(bus, streams.GRANT) as (_, changes):
        assert changes.of(a_connection().key) == [Tombstone(released="u")]


async def test_a_node_sees_only_what_it_filters(bus: Bus, node_bus: Bus) -> None:
    await bus.publish(a_connection())
    await bus.publish(a_connection(node="node2"))
    async with mirroring(node_bus, streams.GRANT, NODE_FILTERS) as (mirror, _):
        assert list(mirror.items) == [a_connection().key]


async def test_a_malformed_message_leaves_the_item_and_is_logged_once(
    bus: Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = a_connection()
    await bus.publish(connection)
    async with mirroring(bus, streams.GRANT) as (mirror, changes):
        for body in (b"{nonsense", b'{"node":1}', encode(a_connection("other"))):
            last = await bus.store(connection.key, body)
        await mirror.reached(last)
        assert mirror.items[connection.key] == connection
        assert len(changes.of(connection.key)) == 1

        mirror.resync("test")
        last = await bus.publish(a_connection("third"))
        await until(lambda: a_connection("third").key in mirror.items)
        assert mirror.items[connection.key] == connection
    assert capsys.readouterr().out.count("malformed message") == 1
    count = bus.metrics.registry.get_sample_value(
        "nsm_messages_total", {"kind": "connection", "outcome": "malformed"}
    )
    assert count is not None
    assert count >= 3


async def test_a_receiver_that_raises_ends_the_mirror(bus: Bus) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError

    await bus.publish(a_connection())
    with pytest.raises(ZeroDivisionError):
        async with asyncio.timeout(20):
            await Mirror(bus, streams.GRANT, ["nsm.>"], on_change=bug).run()


async def test_nothing_is_lost_while_the_loop_is_blocked(bus: Bus, nats_server: NatsServer) -> None:
    count = 20_000
    other = await Bus.connect(nats_server.url, name="writer")
    async with mirroring(bus, streams.INTENT) as (mirror, changes):
        inbox = mirror._consumers[0]._subscription
        # Sent without waiting for acknowledgements; then the loop stands still while they are delivered.
        for number in range(count):
            message = a_request(f"p{number}")
            await other.tell(message.key.subject, encode(message))
        time.sleep(4.5)
        await until(lambda: len(mirror.items) == count, 30)
        assert len(changes.all) == count
        assert mirror._consumers[0]._subscription is inbox, "something was dropped and read again"
    await other.close()


async def test_a_node_waits_until_the_streams_exist(nats_server: NatsServer) -> None:
    node = await Bus.connect(nats_server.url, name="plumber-node1")
    owner = await Bus.connect(nats_server.url, name="owner")
    mirror = Mirror(node, streams.GRANT, NODE_FILTERS, on_change=lambda *_: None)
    async with running(mirror.run()):
        await asyncio.sleep(0.2)
        assert not mirror.synced.is_set()
        await owner.ensure_streams()
        async with asyncio.timeout(3):
            await mirror.synced.wait()
    await node.close()
    await owner.close()


@pytest.mark.parametrize("filters", [["nsm.>"], NODE_FILTERS], ids=["owner", "node"])
async def test_resumes_at_once_when_only_the_connection_is_cut(
    bus: Bus, nats_server: NatsServer, filters: list[str]
) -> None:
    proxy = Proxy(nats_server.port)
    await proxy.start()
    cut = await Bus.connect(proxy.url, name="plumber-node1")
    if filters == ["nsm.>"]:
        await cut.ensure_streams()
    await bus.publish(await the_leader(bus, complete=True))
    async with mirroring(cut, streams.GRANT, filters) as (mirror, changes):
        took = []
        for number in range(3):
            proxy.cut()
            started = time.monotonic()
            message = a_connection(f"p{number}")
            await bus.publish(message)
            await until(lambda key=message.key: key in mirror.items)  # type: ignore[misc]
            took.append(time.monotonic() - started)
        assert min(took) < 1.5
        await bus.publish(a_connection("after"))
        await until(lambda: a_connection("after").key in mirror.items)
        assert len([k for k, _ in changes.all if k.kind == "connection"]) == 4
        assert not mirror.stale
    await cut.close()
    await proxy.stop()


async def test_goes_on_after_the_server_was_killed(bus: Bus, nats_server: NatsServer) -> None:
    async with mirroring(bus, streams.GRANT) as (mirror, changes):
        await bus.publish(a_connection("before"))
        await until(lambda: len(mirror.items) == 1)
        nats_server.kill()
        nats_server.start()
        await bus.publish(a_connection("after"))
        await until(lambda: len(mirror.items) == 2)
        assert len(changes.all) == 2
        assert not mirror.stale


async def test_a_gap_is_noticed_and_filled(bus: Bus) -> None:
    async with mirroring(bus, streams.GRANT) as (mirror, changes):
        inbox = mirror._consumers[0]._subscription
        mirror._consumers[0]._received -= 1  # as if one had been lost on the way
        last = await bus.publish(a_connection("p1"))
        await bus.publish(a_connection("p2"))
        async with asyncio.timeout(3):
            await mirror.reached(last + 1)
        assert [key.pod for key, _ in changes.all] == ["p1", "p2"]
        assert mirror._consumers[0]._subscription is not inbox


async def test_after_a_gap_nothing_counts_until_it_is_open_anew(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer whose server restarts counts from one again: by and by the numbers would fit."""
    delivered: list[str] = []
    troubles: list[str] = []
    arrived: list[Msg] = []

    def deliver(subject: str, *_: object) -> None:
        delivered.append(subject)

    events = Events(deliver, lambda: None, troubles.append, lambda _: None)
    consumer = Consumer(bus, streams.GRANT, "nsm.>", events)
    receive = consumer._on_message

    async def arrive(message: Msg) -> None:
        arrived.append(message)
        await receive(message)

    monkeypatch.setattr(consumer, "_on_message", arrive)
    await consumer.open(start=None, floor=0)
    consumer.release()
    keys = [a_connection(f"p{number}").key.subject for number in range(4)]
    first = await bus.publish(a_connection("p0"))
    await until(lambda: delivered == keys[:1])

    consumer._received += 1  # the next does not fit, those after it do
    for number in range(1, 4):
        await bus.publish(a_connection(f"p{number}"))
    await until(lambda: {each.subject for each in arrived} >= set(keys))
    heartbeats = sum(not each.data for each in arrived)
    await until(lambda: sum(not each.data for each in arrived) > heartbeats)
    assert troubles
    assert (delivered, consumer.position) == (keys[:1], first)

    await consumer.open(start=consumer.position + 1, floor=0)
    consumer.release()
    await until(lambda: delivered == keys)
    await consumer.close()


async def test_a_loss_at_the_end_is_noticed_by_the_heartbeat(bus: Bus) -> None:
    async with mirroring(bus, streams.GRANT) as (mirror, _):
        await mirror.reached(await bus.publish(a_connection()))
        consumer = mirror._consumers[0]
        inbox = consumer._subscription
        consumer._received -= 1  # as if it had not arrived, and nothing comes after it
        await until(lambda: consumer._subscription not in (None, inbox), 4)


async def test_a_silent_consumer_is_replaced(bus: Bus) -> None:
    async with mirroring(bus, streams.GRANT) as (mirror, _):
        name = mirror._consumers[0]._name
        await bus.api(f"CONSUMER.DELETE.{streams.GRANT}.{name}")
        await bus.publish(a_connection())
        await until(lambda: len(mirror.items) == 1, 6)


@pytest.mark.parametrize("filters", [["nsm.>"], NODE_FILTERS], ids=["owner", "node"])
@pytest.mark.parametrize("fill", [0, 40], ids=["shorter", "longer"])
async def test_a_wiped_bus_keeps_every_item_as_stale(
    bus: Bus, node_bus: Bus, nats_server: NatsServer, filters: list[str], fill: int
) -> None:
    follower = bus if filters == ["nsm.>"] else node_bus
    kept, gone = a_connection("kept"), a_connection("gone")
    await bus.publish(await the_leader(bus, complete=True))
    await bus.publish(kept)
    await bus.publish(gone)
    async with mirroring(follower, streams.GRANT, filters) as (mirror, changes):
        assert mirror.when_complete.is_set()
        nats_server.kill()
        nats_server.wipe()
        nats_server.start()
        leader = await the_leader(bus, complete=False)
        await bus.publish(leader)
        # The new stream is longer than what the follower saw: its sequences prove nothing.
        for number in range(fill):
            await bus.publish(a_connection(f"p{number}", node="node2"))
        await until(lambda: kept.key in mirror.stale, 10)
        assert {kept.key, gone.key} <= mirror.stale
        assert mirror.items[gone.key] == gone
        assert not mirror.complete(gone.key)
        assert not mirror.when_complete.is_set()

        await bus.publish(kept)
        await until(lambda: kept.key not in mirror.stale)
        assert gone.key in mirror.items

        await bus.publish(await the_leader(bus, complete=True))
        await until(lambda: gone.key not in mirror.items)
        await until(mirror.when_complete.is_set)
        assert changes.of(gone.key) == [gone, Tombstone()]
        assert changes.of(kept.key) == [kept]
        assert not mirror.stale


@pytest.mark.parametrize("filters", [["nsm.>"], NODE_FILTERS], ids=["owner", "node"])
async def test_a_stream_recreated_under_a_living_connection_is_noticed(
    bus: Bus, node_bus: Bus, filters: list[str]
) -> None:
    follower = bus if filters == ["nsm.>"] else node_bus
    await bus.publish(await the_leader(bus, complete=True))
    await bus.publish(a_connection())
    async with mirroring(follower, streams.GRANT, filters) as (mirror, _):
        await bus.api(f"STREAM.DELETE.{streams.GRANT}")
        await bus.publish(await the_leader(bus, complete=False))
        await until(lambda: a_connection().key in mirror.stale, 10)
        assert a_connection().key in mirror.items


async def test_absence_counts_when_the_leader_is_complete(bus: Bus) -> None:
    await bus.publish(await the_leader(bus, complete=True))
    await bus.publish(a_connection())
    async with mirroring(bus, streams.GRANT) as (mirror, changes):
        mirror._tombstones.clear()
        # What a follower that slept for hours sees: the tombstone came and went without it.
        mirror.items[a_connection("slept").key] = a_connection("slept")
        mirror.resync("test")
        await until(lambda: a_connection("slept").key not in mirror.items)
        assert changes.of(a_connection("slept").key) == [Tombstone()]
        assert a_connection().key in mirror.items
        assert mirror.complete(a_connection("never").key)


async def test_absence_does_not_count_without_a_leader_or_by_another_incarnations_word(
    bus: Bus,
) -> None:
    async with mirroring(bus, streams.GRANT) as (mirror, changes):
        assert not mirror.complete(a_connection().key)
        foreign = a_leader(incarnations={streams.GRANT: "2001-01-01T00:00:00Z"}, complete=True)
        await mirror.reached(await bus.publish(foreign))
        assert not mirror.complete(a_connection().key)
        assert not mirror.when_complete.is_set()
        assert not [k for k, m in changes.all if isinstance(m, Tombstone)]


async def test_a_leader_that_becomes_complete_later_makes_a_fresh_node_complete(
    bus: Bus, node_bus: Bus
) -> None:
    await bus.publish(await the_leader(bus, complete=False))
    async with mirroring(node_bus, streams.GRANT, NODE_FILTERS) as (mirror, _):
        assert not mirror.when_complete.is_set()
        await bus.publish(a_connection())
        await bus.publish(await the_leader(bus, complete=True))
        async with asyncio.timeout(3):
            await mirror.when_complete.wait()
        assert a_connection().key in mirror.items, "complete before everything was seen"
        await bus.publish(await the_leader(bus, complete=False))
        await until(lambda: not mirror.when_complete.is_set())


async def test_a_nodes_statuses_are_judged_by_that_node_alone(bus: Bus) -> None:
    incarnation = (await bus.ensure_streams())[streams.STATE]
    await bus.publish(node_facts("node1", complete=True, incarnation=incarnation))
    await bus.publish(node_facts("node2", complete=False, incarnation=incarnation))
    async with mirroring(bus, streams.STATE) as (mirror, _):
        one, two = a_status(node="node1"), a_status(node="node2")
        mirror.items |= {one.key: one, two.key: two}
        mirror.resync("test")
        await until(lambda: one.key not in mirror.items)
        assert two.key in mirror.items
        assert two.key in mirror.stale
        await bus.publish(node_facts("node2", complete=True, incarnation=incarnation))
        await until(lambda: two.key not in mirror.items)


async def test_a_node_that_becomes_complete_later_makes_absence_count_with_separate_filters(
    bus: Bus,
) -> None:
    filters = ["nsm.status.node1.>", "nsm.node.node1"]
    async with mirroring(bus, streams.STATE, filters) as (mirror, _):
        absent = a_status("nobody").key
        assert not mirror.complete(absent)
        incarnation = bus.incarnations[streams.STATE]
        await bus.publish(node_facts("node1", complete=True, incarnation=incarnation))
        await until(lambda: mirror.complete(absent))


async def test_reached_waits_for_that_sequence(bus: Bus, node_bus: Bus) -> None:
    async with (
        mirroring(bus, streams.GRANT) as (mirror, _),
        mirroring(node_bus, streams.GRANT, NODE_FILTERS) as (narrow, _),
    ):
        sequence = await bus.publish(a_connection(node="node2"))
        async with asyncio.timeout(20):
            await mirror.reached(sequence)
            assert a_connection(node="node2").key in mirror.items
            await narrow.reached(sequence)  # nothing of it passes the filter
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await mirror.reached(sequence + 1)


async def test_consumers_are_named_after_the_connection_and_carry_their_filter(
    bus: Bus, node_bus: Bus
) -> None:
    async with mirroring(node_bus, streams.GRANT, NODE_FILTERS):
        found = (await bus.api(f"CONSUMER.LIST.{streams.GRANT}"))["consumers"]
        assert {c["name"] for c in found} == {f"{node_bus.name}-1", f"{node_bus.name}-2"}
        assert {c["config"]["filter_subject"] for c in found} == set(NODE_FILTERS)
        assert all(c["config"]["mem_storage"] and c["config"]["flow_control"] for c in found)


async def test_two_processes_of_one_name_have_full_snapshots(
    bus: Bus, nats_server: NatsServer
) -> None:
    await bus.publish(a_connection())
    for _ in range(3):
        again = await Bus.connect(nats_server.url, name="plumber-node1")
        changes = Changes()
        mirror = Mirror(again, streams.GRANT, NODE_FILTERS, on_change=changes)
        async with running(mirror.run()):
            await mirror.synced.wait()
            assert len(changes.all) == 1
        await again.close()
